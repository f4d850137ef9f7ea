"""Where an output ends: stop strings, regexes and ids over token bytes, and what stays when a stop cuts.

A `StopMatcher` is compiled once and shared; a `StopCursor` is the place of one sequence in it. `OutputText` keeps
the bytes of one generating segment. Nothing here knows a tokenizer, a model or the scheduler, or how a regex is
searched for.

    output bytes   The answer is 4 2 . \\n E n d      stop "\\nEnd"
                   └── released ───┘ │ └─ held ─┘     held: may be the beginning of a stop, so not sent yet
                                    cut               where the stop begins: nothing after it remains
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from latticework.runtime.constrain.base import Search

MAX_HELD = 1024
"""Bytes held back for a stop regex. Of a longer match only this much and the last token are cut off."""


@dataclass(frozen=True, slots=True)
class StopHit:
    """A stop was met. cut: the text ends at this byte, where the stop begins or, if it is included, ends.
    stopped_by: the string, pattern or token id."""

    cut: int
    stopped_by: str | int


class StopMatcher:
    """All stops of a segment as one automaton over bytes (Aho and Corasick 1975). Immutable, shared.

    Of several matches the one that is complete first counts; of those that are complete at the same byte, the
    longest. A stop id counts before its bytes are looked at. include: what stops stays in the text.
    """

    def __init__(
        self, stop_strings: tuple[str, ...] = (), stop_ids: frozenset[int] = frozenset(), include: bool = False
    ) -> None:
        self.stop_ids = stop_ids
        self.include = include
        self._strings = stop_strings
        self._next: dict[int, int] = {}  # the trie: state << 8 | byte -> state; state 0 is the empty text
        self._depth = [0]  # bytes from state 0
        self._fail = [0]  # the longest proper suffix that is a state as well
        self._found: list[int | None] = [None]  # the longest string that ends here
        edges: list[tuple[int, int]] = []  # (state << 8 | byte, state)
        for index, text in enumerate(stop_strings):
            assert text, "an empty stop string"
            self._add(text.encode("utf-8", "surrogatepass"), index, edges)
        self._link(edges)

    def cursor(self, searches: Iterable[tuple[str, Search]] = ()) -> StopCursor:
        """At the start of the output. searches: stop regexes, each with its pattern."""
        return StopCursor(self, tuple(searches))

    @property
    def has_strings(self) -> bool:
        return bool(self._strings)

    def _add(self, data: bytes, index: int, edges: list[tuple[int, int]]) -> None:
        state = 0
        for byte in data:
            edge = state << 8 | byte
            if edge not in self._next:
                self._next[edge] = len(self._depth)
                edges.append((edge, len(self._depth)))
                self._depth.append(self._depth[state] + 1)
                self._fail.append(0)
                self._found.append(None)
            state = self._next[edge]
        if self._found[state] is None:
            self._found[state] = index

    def _link(self, edges: list[tuple[int, int]]) -> None:
        """Shallow states first, so that shorter suffixes are linked already."""
        for edge, child in sorted(edges, key=lambda item: self._depth[item[1]]):
            parent, byte = edge >> 8, edge & 0xFF
            if parent:
                self._fail[child] = self.step(self._fail[parent], byte)
            if self._found[child] is None:
                self._found[child] = self._found[self._fail[child]]

    def step(self, state: int, byte: int) -> int:
        """The longest state that is a suffix of `state` and `byte`. Amortised O(1)."""
        while (after := self._next.get(state << 8 | byte)) is None:
            if state == 0:
                return 0
            state = self._fail[state]
        return after

    def depth(self, state: int) -> int:
        return self._depth[state]

    def found(self, state: int) -> str | None:
        """The stop string that is complete at `state`."""
        index = self._found[state]
        return None if index is None else self._strings[index]


class StopCursor:
    """Where one sequence stands. After a hit it is spent."""

    __slots__ = ("_is_idle", "_length", "_matcher", "_searches", "_state")

    def __init__(self, matcher: StopMatcher, searches: tuple[tuple[str, Search], ...] = ()) -> None:
        self._matcher = matcher
        self._searches = searches
        self._is_idle = not searches and not matcher.has_strings  # only ids can stop
        self._state = 0
        self._length = 0

    @property
    def held(self) -> int:
        """How many trailing bytes of the text so far may be the beginning of a stop that would be cut off."""
        if self._matcher.include or self._is_idle:
            return 0
        searched = max((search.held for _, search in self._searches), default=0)
        return max(self._matcher.depth(self._state), min(searched, MAX_HELD))

    def feed(self, token_bytes: bytes, token: int | None = None, may_stop: bool = True) -> StopHit | None:
        """Moves over one token. A hit's `cut` counts bytes from the first token fed; the bytes of a stop id are no
        part of the text, unless stops are included, and the cut is before them. may_stop: a stop that is complete
        with this token is one; otherwise it is passed by."""
        matcher = self._matcher
        if may_stop and token is not None and token in matcher.stop_ids:
            return StopHit(self._length + (len(token_bytes) if matcher.include else 0), token)
        if self._is_idle:
            self._length += len(token_bytes)
            return None
        released = self._length - self.held
        for at, byte in enumerate(token_bytes, self._length + 1):
            found = self._step(byte, at)
            if found is not None and may_stop:
                return StopHit(at if matcher.include else max(found[0], released), found[1])
        self._length += len(token_bytes)
        return None

    def _step(self, byte: int, at: int) -> tuple[int, str] | None:
        """Moves over the byte that ends at `at`: where the stop that it completes begins, and which it is."""
        matcher = self._matcher
        self._state = matcher.step(self._state, byte)
        text = matcher.found(self._state)
        found = None if text is None else (at - len(text.encode("utf-8", "surrogatepass")), text)
        for pattern, search in self._searches:
            size = search.feed(byte)
            if size is not None and (found is None or at - size < found[0]):
                found = (at - size, pattern)
        return found

    def copy(self) -> StopCursor:
        twin = StopCursor(self._matcher, tuple((pattern, search.copy()) for pattern, search in self._searches))
        twin._state, twin._length = self._state, self._length
        return twin


@dataclass(frozen=True, slots=True)
class Cut:
    """What remains of an output: its first `tokens` tokens, and `carry`, the bytes from there to the cut."""

    tokens: int
    carry: bytes


class OutputText:
    """The tokens and bytes of one generating segment, and how many of the bytes were released to the reader."""

    __slots__ = ("_data", "_ends", "released", "tokens")

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.released = 0
        self._ends: list[int] = []  # byte where each token ends
        self._data = bytearray()

    def __len__(self) -> int:
        """Bytes of text."""
        return len(self._data)

    @property
    def data(self) -> bytes:
        return bytes(self._data)

    def append(self, token: int, token_bytes: bytes) -> None:
        self.tokens.append(token)
        self._data += token_bytes
        self._ends.append(len(self._data))

    def release(self, held: int = 0) -> bytes:
        """The bytes not released before, except the last `held`; at the end of the segment, with held 0, the rest."""
        end = max(self.released, len(self._data) - held)
        piece = bytes(self._data[self.released : end])
        self.released = end
        return piece

    def cut(self, at: int) -> Cut:
        """Ends the text at byte `at` and drops the tokens that reach beyond it. What is left is released as ever."""
        assert self.released <= at <= len(self._data), (self.released, at, len(self._data))
        kept = bisect_right(self._ends, at)
        start = self._ends[kept - 1] if kept else 0
        del self._data[at:], self.tokens[kept:], self._ends[kept:]
        return Cut(kept, bytes(self._data[start:]))

    def copy(self) -> OutputText:
        twin = OutputText()
        twin.tokens, twin._ends = list(self.tokens), list(self._ends)
        twin._data, twin.released = bytearray(self._data), self.released
        return twin
