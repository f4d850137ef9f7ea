"""The characters that a vocabulary's tokens are made of, and which tokens are made of a given set of them alone.

Most tokens that a free text allows are *runs*: characters that all lead the same way. Which tokens are runs depends
on the set of characters only, so it is found once and shared by every state of every automaton with that set. A
character is an ASCII byte or the bytes that a UTF-8 lead byte announces; whether they encode anything does not
matter here. This file knows tokens; what the characters lead to, `loops.py` knows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from latticework.runtime.constrain.vocabulary import Trie

Bytes256 = NDArray[np.bool_]
"""bool[256], a set of bytes."""

ROUNDS_KEPT = 4096  # counts of rounds that are kept
RUN_BYTES = 64 << 20  # kept runs of one vocabulary; the least recently used go first
_MOST_BYTES = 4  # of a character
_HEAVY = 8  # a first byte with more than this fraction of all nodes below it has runs of its own


class Reach:
    """The nodes below `base` that characters of one set alone, `members`, lead to.

    tokens: int32[n], what such nodes write, by number of characters; counts: int64[n], those numbers. inside:
    bool[N], `base` included. longest: characters of the longest way.
    """

    __slots__ = ("base", "counts", "inside", "longest", "nbytes", "tokens")

    def __init__(self, characters: Characters, base: int, members: NDArray[np.bool_]) -> None:
        inside = characters.reached(base, members)
        tokens, at, counts = characters.by_count
        written = inside[at]
        before = int(characters.counts[base])
        self.base = base
        self.inside = inside
        self.tokens = tokens[written]
        self.counts = counts[written] - before
        self.longest = int(characters.counts[inside.nonzero()[0]].max()) - before
        self.nbytes = inside.nbytes + self.tokens.nbytes + self.counts.nbytes


class Runs:
    """A reach, and where it stops. dead: the characters that surely lead nowhere from there.

    tokens, counts, inside, longest: see `Reach`. covered: bool[N], inside, at the end of a dead character, or within
    a character where all ways on are so. edges: int64[e], the nodes just outside that are not covered; edge_counts:
    the characters before each.
    """

    __slots__ = ("counts", "covered", "edge_counts", "edges", "inside", "longest", "nbytes", "tokens")

    def __init__(self, characters: Characters, reach: Reach, dead: NDArray[np.bool_]) -> None:
        self.inside = reach.inside
        self.tokens = reach.tokens
        self.counts = reach.counts
        self.longest = reach.longest
        self.covered = characters.followed_by(reach.inside, dead)
        parent = characters.trie.parent
        is_edge = reach.inside[parent] & ~self.covered
        is_edge[0] = False
        self.edges = is_edge.nonzero()[0]
        self.edge_counts = characters.counts[parent[self.edges]] - characters.counts[reach.base]
        self.nbytes = self.covered.nbytes + self.edges.nbytes + self.edge_counts.nbytes


class Characters:
    """The C distinct characters of the tokens in a trie.

    texts: uint8[C, 4], zero-padded; lengths: int64[C]; weights: int64[C], trie nodes that each ends at. before,
    counts: for each trie node at the end of a character, the node before it, and how many characters lead there.
    heavy: the child of the root that most tokens are below, if it stands out (a space).
    """

    def __init__(self, trie: Trie) -> None:
        self.trie = trie
        size = len(trie.parent)
        left = np.zeros(size, np.int64)  # bytes that the character still lacks; -1: no characters lead here
        code = np.zeros(size, np.int64)
        self.before = np.zeros(size, np.int64)
        self.counts = np.zeros(size, np.int64)
        levels: list[NDArray[np.int64]] = []  # per level, the nodes at the end of a character
        announced = np.full(256, -1, np.int64)
        for low, high, more in ((0, 0x80, 0), (0xC2, 0xE0, 1), (0xE0, 0xF0, 2), (0xF0, 0xF5, 3)):
            announced[low:high] = more
        for first, last in zip(trie.levels[1:-1], trie.levels[2:], strict=True):
            nodes = np.arange(first, last)
            parent, byte = trie.parent[nodes], trie.byte[nodes].astype(np.int64)
            starts, goes_on = left[parent] == 0, (left[parent] > 0) & (byte >= 0x80) & (byte < 0xC0)
            left[nodes] = np.where(starts, announced[byte], np.where(goes_on, left[parent] - 1, -1))
            code[nodes] = np.where(starts, byte, code[parent] << 8 | byte)
            self.before[nodes] = np.where(starts, parent, self.before[parent])
            ends = nodes[left[nodes] == 0]
            self.counts[ends] = self.counts[self.before[ends]] + 1
            levels.append(ends)
        is_within = left > 0
        is_within[0] = False
        self._below_within = is_within[trie.parent].nonzero()[0]  # the nodes just after those within a character
        self._silent = is_within & (np.diff(trie.token_start) == 0)  # within a character, and no token ends there
        ends = np.concatenate([np.zeros(0, np.int64), *levels])
        codes, numbers = np.unique(code[ends], return_inverse=True)
        self._number = np.full(size, len(codes), np.int64)  # of the character that ends at a node; C where none does
        self._number[ends] = numbers
        self.weights = np.bincount(numbers, minlength=len(codes))
        self.lengths = 1 + (codes > 0xFF) + (codes > 0xFFFF) + (codes > 0xFFFFFF).astype(np.int64)
        shifts = 8 * (self.lengths[:, None] - 1 - np.arange(4))
        self.texts = np.where(shifts >= 0, codes[:, None] >> np.maximum(shifts, 0) & 0xFF, 0).astype(np.uint8)
        self.heavy = self._heaviest(levels[0] if levels else np.zeros(0, np.int64), size)
        self._rounds: dict[bytes, int] = {}
        self._kept: OrderedDict[tuple[int, bytes, bytes | None], Reach | Runs] = OrderedDict()
        self._kept_bytes = 0
        self._pinned: dict[tuple[int, bytes, bytes | None], Reach | Runs] = {}
        self._lock = Lock()

    def reach(self, base: int, members: NDArray[np.bool_]) -> Reach:
        """What the characters in `members` (bool[C]) lead to from the node `base` on."""
        found = self._keep((base, np.packbits(members).tobytes(), None), lambda: Reach(self, base, members))
        assert isinstance(found, Reach)
        return found

    def runs(self, base: int, members: NDArray[np.bool_], dead: NDArray[np.bool_]) -> Runs:
        """The runs of the characters in `members` (bool[C]) from the node `base` on, where those in `dead` (bool[C])
        lead nowhere."""
        key = base, np.packbits(members).tobytes(), np.packbits(dead).tobytes()
        found = self._keep(key, lambda: Runs(self, self.reach(base, members), dead))
        assert isinstance(found, Runs)
        return found

    def _keep(self, key: tuple[int, bytes, bytes | None], make: Callable[[], Reach | Runs]) -> Reach | Runs:
        """What is kept at `key`, made if it is not there."""
        if key in self._pinned:
            return self._pinned[key]
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        found = make()
        with self._lock:
            if key in self._kept:
                return self._kept[key]  # another thread was faster
            self._kept[key] = found
            self._kept_bytes += found.nbytes
            while self._kept_bytes > RUN_BYTES and len(self._kept) > 1:
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return found

    def reached(self, base: int, members: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """bool[N]: the nodes that characters in `members` alone lead to from `base`, itself included."""
        is_member = np.append(members, False)[self._number]
        inside = np.zeros(len(is_member), bool)
        inside[base] = True
        idle = 0
        for first, last in zip(self.trie.levels[1:-1], self.trie.levels[2:], strict=True):
            if first <= base:
                continue
            found = is_member[first:last] & inside[self.before[first:last]]
            inside[first:last] = found
            idle = 0 if found.any() else idle + 1
            if idle == _MOST_BYTES:
                break
        return inside

    def followed_by(self, inside: NDArray[np.bool_], dead: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """bool[N]: `inside`, the ends of characters in `dead` just after it, and the nodes within characters where all
        ways on are so."""
        covered = inside.copy()
        if dead.any():
            covered |= np.append(dead, False)[self._number] & inside[self.before]
        return covered | self._leading_into(covered)

    def _leading_into(self, inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """bool[N]: the nodes within a character from where every token goes on through `inside`, ends of characters."""
        leading = self._silent.copy()
        below = self._below_within
        for _ in range(_MOST_BYTES - 1):
            others = below[~(inside[below] | leading[below])]
            leading[self.trie.parent[others]] = False
        return leading

    def most_rounds(self, alphabet: Bytes256, first: Bytes256, last: Bytes256) -> int:
        """How many texts can at most begin within one token, one right after another, that begin with a byte of
        `first`, end with one of `last` and have only bytes of `alphabet`."""
        key = np.packbits([alphabet, first, last]).tobytes()
        most = self._rounds.get(key)
        if most is None:
            if len(self._rounds) >= ROUNDS_KEPT:
                self._rounds.clear()
            most = self._rounds[key] = self._count_rounds(alphabet, first, last)
        return most

    def _count_rounds(self, alphabet: Bytes256, first: Bytes256, last: Bytes256) -> int:
        trie = self.trie
        goes_on = alphabet[trie.byte]
        begins = first[trie.byte] & last[self._byte_before]
        counts = np.zeros(len(trie.parent), np.int32)  # texts that begin after another one since the last other byte
        deepest = int(goes_on.nonzero()[0][-1]) if goes_on.any() else 0
        for start, end in zip(trie.levels[2:-1], trie.levels[3:], strict=True):
            if start > deepest:
                break
            counts[start:end] = (counts[trie.parent[start:end]] + begins[start:end]) * goes_on[start:end]
        return 1 + int(counts.max())

    @cached_property
    def by_count(self) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
        """The tokens, the node of each, and its number of characters, by which they are sorted. Those that do not end
        with a character have none."""
        nodes = np.repeat(np.arange(len(self.trie.parent)), np.diff(self.trie.token_start))
        order = np.argsort(self.counts[nodes], kind="stable")
        return self.trie.token_ids[order], nodes[order], self.counts[nodes[order]]

    @cached_property
    def _byte_before(self) -> NDArray[np.uint8]:
        """[N]: the byte before that of each node."""
        return self.trie.byte[self.trie.parent]

    def pin(self) -> None:
        """Keeps what is kept now for good."""
        with self._lock:
            self._pinned |= self._kept
            self._kept.clear()
            self._kept_bytes = 0

    def forget(self) -> None:
        """Drops all runs that are not pinned, and what rounds were counted."""
        self._rounds.clear()
        with self._lock:
            self._kept.clear()
            self._kept_bytes = 0

    def _heaviest(self, ends: NDArray[np.int64], size: int) -> int | None:
        below = self.trie.below
        best = int(ends[below[ends].argmax()]) if len(ends) else 0
        return best if best and below[best] * _HEAVY > size else None


__all__ = ["RUN_BYTES", "Characters", "Reach", "Runs"]
