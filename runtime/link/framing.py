"""Frames end to end in a stream of bytes, each behind its length: four bytes, big end first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from latticework.runtime.link.messages import MAX_FRAME_BYTES, BadFrame

HEAD = 4


def pack(frames: Iterable[bytes]) -> bytes:
    return b"".join(part for frame in frames for part in (len(frame).to_bytes(HEAD, "big"), frame))


def unpack(data: bytes) -> Iterator[memoryview]:
    """The frames of `data`. Raises BadFrame where the last one is not whole."""
    view, at = memoryview(data), 0
    while at < len(data):
        size = _size(view[at : at + HEAD])
        at += HEAD
        if at + size > len(data):
            raise BadFrame(f"a frame of {size} bytes has only {len(data) - at}")
        yield view[at : at + size]
        at += size


def read_frame(read: Callable[[int], bytes]) -> bytes | None:
    """The next frame of a stream; None at its end. read: gives as many bytes as it is asked for, fewer at the end.
    Raises BadFrame for a stream that ends inside a frame."""
    head = read(HEAD)
    if not head:
        return None
    size = _size(head)
    frame = read(size) if size else b""
    if len(frame) < size:
        raise BadFrame(f"a frame of {size} bytes has only {len(frame)}")
    return frame


def _size(head: bytes | memoryview) -> int:
    size = int.from_bytes(head, "big")
    if len(head) < HEAD or size > MAX_FRAME_BYTES:
        raise BadFrame("no length of a frame")
    return size
