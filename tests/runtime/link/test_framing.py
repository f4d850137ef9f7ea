"""Frames end to end: what goes in comes out, and what is cut or garbled is refused."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latticework.runtime.link.framing import pack, read_frame, unpack
from latticework.runtime.link.messages import MAX_FRAME_BYTES, BadFrame


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_frames_come_out_as_they_went_in(frames: list[bytes]) -> None:
    data = pack(frames)
    assert [bytes(frame) for frame in unpack(data)] == frames
    stream = io.BytesIO(data)
    assert [read_frame(stream.read) for _ in frames] == frames
    assert read_frame(stream.read) is None


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4), st.data())
def test_a_stream_that_is_cut_is_refused_after_its_whole_frames(frames: list[bytes], data: st.DataObject) -> None:
    whole = pack(frames)
    last = len(pack(frames[:-1]))
    cut = whole[: data.draw(st.integers(last + 1, len(whole) - 1))]
    found = unpack(cut)
    assert [bytes(next(found)) for _ in frames[:-1]] == frames[:-1]
    with pytest.raises(BadFrame):
        next(found)


def test_a_length_that_no_frame_has_is_refused_before_anything_is_read() -> None:
    head = (MAX_FRAME_BYTES + 1).to_bytes(4, "big")
    with pytest.raises(BadFrame):
        next(unpack(head))
    with pytest.raises(BadFrame):
        read_frame(io.BytesIO(head).read)
