"""The texts of one array or object that stands in an array without repeats, and how to keep clear of those taken.

An item has frames of its own, which know nothing of what is around it or taken; beside them a `Copybook` follows the
text. Where no copy of a taken value can come of it any more, nothing about it matters; until then an item is only gone
on with while some way leads away from all copies. That way is remembered, so that prices fall with every byte of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from latticework.runtime.constrain.copies import Copies, Copybook
from latticework.runtime.constrain.rules import Array, Bytes, Either, Empty, Literal, Node, Object, Repeat, Then

if TYPE_CHECKING:
    from latticework.runtime.constrain.frames import Config, Frames

_BLANKS = b" \t\n\r"
_MOST_PLACES = 20_000  # looked through for a way; an item for which more would be needed does not come


class Escape(NamedTuple):
    """A way to a value that is not taken. text: what is written until no copy is left; cost: tokens after that."""

    text: bytes
    cost: int

    @property
    def tokens(self) -> int:
        """Tokens that surely suffice for it."""
        return len(self.text) + self.cost


class Trail:
    """What is written of an item, as its last byte and what is before it: texts that begin alike share that."""

    __slots__ = ("before", "byte", "following")

    def __init__(self, before: Trail | None, byte: int) -> None:
        self.before = before
        self.byte = byte
        self.following: dict[int, Trail] = {}

    def then(self, byte: int) -> Trail:
        """The same trail every time."""
        found = self.following.get(byte)
        if found is None:
            found = self.following[byte] = Trail(self, byte)
        return found

    def text(self) -> bytes:
        found = bytearray()
        here = self
        while here.before is not None:
            found.append(here.byte)
            here = here.before
        return bytes(reversed(found))


class ItemLanguage:
    """frames: of the item alone; last_bytes: those that its texts may end with, and perhaps others; start: the trail of
    the empty text."""

    def __init__(self, frames: Frames, last_bytes: frozenset[int]) -> None:
        self.frames = frames
        self.last_bytes = last_bytes
        self.start = Trail(None, 0)

    def forget(self) -> None:
        """Drops what can be found again."""
        self.frames.forget()
        self.start = Trail(None, 0)

    def escape(self, config: Config, book: Copybook, copies: Copies) -> Escape | None:
        """The way to a value that is none of the `copies`, of those that leave them soonest a cheap one; None: there
        is no such value, or it is too far away."""
        level: list[tuple[Config, Copies, bytes]] = [(config, copies, b"")]
        seen = {(config, copies)}
        while level and len(seen) < _MOST_PLACES:
            best: Escape | None = None
            deeper: list[tuple[Config, Copies, bytes]] = []
            for here, left, text in level:
                for byte, following, after in self._steps(here, book, left):
                    written = text + bytes((byte,))
                    if following.is_complete and not book.has_copy(after):
                        found = Escape(written, 0)
                    elif after:
                        if following.threads and (following, after) not in seen:
                            seen.add((following, after))
                            deeper.append((following, after, written))
                        continue
                    else:
                        found = Escape(written, following.cost)
                    if best is None or found.tokens < best.tokens:
                        best = found
            if best is not None:
                return best
            level = deeper
        return None

    def _steps(self, config: Config, book: Copybook, copies: Copies) -> Iterator[tuple[int, Config, Copies]]:
        """Where each next byte leads; a blank that may be left out is."""
        found = []
        for byte in self.frames.next_bytes(config):
            following = self.frames.step(config, byte)
            if following is not None:
                found.append((byte, following, book.step(copies, byte)))
        needed = [entry for entry in found if entry[0] not in _BLANKS or entry[2] is not copies]
        yield from needed or found


def last_bytes(nodes: Sequence[Node], index: int) -> frozenset[int]:
    """The bytes that texts of a node may end with, and perhaps others."""
    match nodes[index]:
        case Array(empty, _, close) | Object(empty, _, close):
            return _last_bytes(nodes, empty)[0] | _last_bytes(nodes, close)[0]
        case _:
            return _last_bytes(nodes, index)[0]


def _last_bytes(nodes: Sequence[Node], index: int) -> tuple[frozenset[int], bool]:
    """The same of a regular node, and whether it may have the empty text."""
    match nodes[index]:
        case Empty():
            return frozenset(), True
        case Bytes(ranges):
            return frozenset(byte for low, high in ranges for byte in range(low, high + 1)), False
        case Literal(data):
            return frozenset(data[-1:]), False
        case Then(first, rest):
            last, may_be_empty = _last_bytes(nodes, rest)
            if not may_be_empty:
                return last, False
            before, is_nothing = _last_bytes(nodes, first)
            return last | before, is_nothing
        case Either(items):
            found = [_last_bytes(nodes, item) for item in items]
            return frozenset().union(*(last for last, _ in found)), any(may_be_empty for _, may_be_empty in found)
        case Repeat(item, low):
            last, may_be_empty = _last_bytes(nodes, item)
            return last, low == 0 or may_be_empty
        case _:
            return frozenset(range(256)), True


def cost_of(config: Config, escape: Escape | None) -> int:
    """Tokens that surely finish the item where more of it must come."""
    return escape.tokens if escape is not None else min(thread.cost for thread in config.threads)
