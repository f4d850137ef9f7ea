"""The characters that a vocabulary's tokens are made of, and which tokens are made of a given set of them alone.

Most tokens that a free text allows are *runs*: characters that all lead the same way. Which tokens are runs depends
on the set of characters only, so it is found once and shared by every state of every automaton with that set. A
character is an ASCII byte or the bytes that a UTF-8 lead byte announces; whether they encode anything does not
matter here. This file knows tokens; what the characters lead to, `loops.py` knows.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from latticework.runtime.constrain.vocabulary import Trie

RUN_BYTES = 64 << 20  # kept runs of one vocabulary; the least recently used go first
_HEAVY = 8  # a first byte with more than this fraction of all nodes below it has runs of its own


Placed = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]
"""Nodes at the end of a character, tokens of whole characters by their number, and of both, the places in an order in
which all below a node comes right after it; places are counted from the node looked below."""


class Runs:
    """The nodes below `base` that characters of one set alone lead to, and where that stops.

    tokens: int32[n], what such nodes write, by number of characters; counts: int64[n], those numbers. inside:
    bool[N]. edges: int64[e], the nodes just outside; edge_counts: the characters before each. longest: characters of
    the longest run.
    """

    __slots__ = ("counts", "edge_counts", "edges", "inside", "longest", "nbytes", "tokens")

    def __init__(self, characters: Characters, base: int, members: NDArray[np.bool_]) -> None:
        trie, counts = characters.trie, characters.counts
        first, size = int(trie.order[base]), int(trie.below[base])
        ends, end_places, tokens, token_places = characters.placed(base)
        stops = ends[~members[characters.of_node[ends]]]
        places = trie.order[stops] - first
        closed = np.bincount(places, minlength=size + 1)  # everything below a node comes right after it
        closed -= np.bincount(places + trie.below[stops], minlength=size + 1)
        is_open = np.cumsum(closed) == 0
        inside = np.zeros(len(trie.parent), bool)
        inside[ends] = is_open[end_places]
        inside[base] = True
        self.inside = inside
        self.tokens = tokens[is_open[token_places]]
        self.counts = characters.token_counts[self.tokens] - counts[base]
        self.edges = np.flatnonzero(inside[trie.parent] & ~inside)
        self.edge_counts = counts[trie.parent[self.edges]] - counts[base]
        longest = (found[-1] if len(found) else 0 for found in (self.counts, np.sort(self.edge_counts)))
        self.longest = int(max(longest))  # a run ends with a token or before an edge
        arrays = (inside, self.tokens, self.counts, self.edges, self.edge_counts)
        self.nbytes = sum(array.nbytes for array in arrays)


class Characters:
    """The C distinct characters of the tokens in a trie.

    texts: uint8[C, 4], zero-padded; lengths: int64[C]; weights: int64[C], trie nodes that each ends at. of_node,
    before, counts: for a trie node at the end of a character, its number, the node before it, and how many
    characters lead there. heavy: the child of the
    root that most tokens are below, if it stands out (a space).
    """

    def __init__(self, trie: Trie) -> None:
        self.trie = trie
        size = len(trie.parent)
        left = np.zeros(size, np.int64)  # bytes that the character still lacks; -1: no characters lead here
        code = np.zeros(size, np.int64)
        self.before = np.zeros(size, np.int64)
        self.counts = np.zeros(size, np.int64)
        levels: list[NDArray[np.int64]] = []  # the nodes at the end of a character
        announced = np.full(256, -1, np.int64)
        for low, high, more in ((0, 0x80, 0), (0xC2, 0xE0, 1), (0xE0, 0xF0, 2), (0xF0, 0xF5, 3)):
            announced[low:high] = more
        for first, last in zip(trie.levels[1:-1], trie.levels[2:], strict=True):
            nodes = np.arange(first, last)
            parent, byte = trie.parent[nodes].astype(np.int64), trie.byte[nodes].astype(np.int64)
            starts, goes_on = left[parent] == 0, (left[parent] > 0) & (byte >= 0x80) & (byte < 0xC0)
            left[nodes] = np.where(starts, announced[byte], np.where(goes_on, left[parent] - 1, -1))
            code[nodes] = np.where(starts, byte, code[parent] << 8 | byte)
            self.before[nodes] = np.where(starts, parent, self.before[parent])
            ends = nodes[left[nodes] == 0]
            self.counts[ends] = self.counts[self.before[ends]] + 1
            levels.append(ends)
        ends = self._ends = np.concatenate([np.zeros(0, np.int64), *levels])
        by_count = ends[np.argsort(self.counts[ends], kind="stable")]
        self._tokens, which = trie.tokens_at(by_count)
        self._token_nodes = by_count[which]
        self.token_counts = np.zeros(int(trie.token_ids.max(initial=0)) + 1, np.int64)
        self.token_counts[self._tokens] = self.counts[self._token_nodes]
        self._placed: dict[int, Placed] = {}
        codes, numbers = np.unique(code[ends], return_inverse=True)
        self.of_node = np.zeros(size, np.int64)
        self.of_node[ends] = numbers
        self.weights = np.bincount(numbers, minlength=len(codes))
        self.lengths = 1 + (codes > 0xFF) + (codes > 0xFFFF) + (codes > 0xFFFFFF).astype(np.int64)
        shifts = 8 * (self.lengths[:, None] - 1 - np.arange(4))
        self.texts = np.where(shifts >= 0, codes[:, None] >> np.maximum(shifts, 0) & 0xFF, 0).astype(np.uint8)
        self.heavy = self._heaviest(levels[0] if levels else ends, size)
        self._kept: OrderedDict[tuple[int, bytes], Runs] = OrderedDict()
        self._kept_bytes = 0
        self._pinned: dict[tuple[int, bytes], Runs] = {}
        self._lock = Lock()

    def runs(self, base: int, members: NDArray[np.bool_]) -> Runs:
        """The runs of the characters in `members` (bool[C]) from the node `base` on."""
        key = (base, np.packbits(members).tobytes())
        if key in self._pinned:
            return self._pinned[key]
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
            found = self._kept[key] = Runs(self, base, members)
            self._kept_bytes += found.nbytes
            while self._kept_bytes > RUN_BYTES and len(self._kept) > 1:
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
            return found

    def placed(self, base: int) -> Placed:
        """What is below a node of the trie."""
        found = self._placed.get(base)
        if found is None:
            order, first, last = self.trie.order, self.trie.order[base], self.trie.order[base] + self.trie.below[base]
            ends, tokens = self._ends, self._tokens
            ends = ends[(order[ends] > first) & (order[ends] < last)]
            places = order[self._token_nodes]
            is_below = (places >= first) & (places < last)
            found = self._placed[base] = ends, order[ends] - first, tokens[is_below], places[is_below] - first
        return found

    def pin(self) -> None:
        """Keeps what is kept now for good."""
        with self._lock:
            self._pinned |= self._kept
            self._kept.clear()
            self._kept_bytes = 0

    def forget(self) -> None:
        """Drops all runs that are not pinned."""
        with self._lock:
            self._kept.clear()
            self._kept_bytes = 0

    def _heaviest(self, ends: NDArray[np.int64], size: int) -> int | None:
        below = self.trie.below
        best = int(ends[below[ends].argmax()]) if len(ends) else 0
        return best if best and below[best] * _HEAVY > size else None


__all__ = ["RUN_BYTES", "Characters", "Runs"]
