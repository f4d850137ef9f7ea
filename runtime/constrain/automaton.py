"""Masks: which tokens a state allows, computed once per state and kept as packed rows.

`Automaton` is shared by every sequence under one constraint; it owns the lazily built DFA and the row cache. A
`ConstraintMatcher` is one sequence's state in it. Both live in one thread. What the contract promises is written in
`base.py`; how states come about, in `places.py`.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from latticework.runtime.constrain.base import Row
from latticework.runtime.constrain.characters import Runs
from latticework.runtime.constrain.loops import Chain, Loops
from latticework.runtime.constrain.places import DEAD, State, States
from latticework.runtime.constrain.rules import RuleGraph
from latticework.runtime.constrain.search import AutomatonSearch
from latticework.runtime.constrain.vocabulary import Vocabulary, spread

ROW_CACHE_BYTES = 64 << 20
STATE_BYTES = 64 << 20  # all states are forgotten, and made again as needed, beyond this
FORCED_BYTES = 4096  # `forced` looks no further

KEPT_WALKS = 8  # walks of the trie that are kept for filtering
FEW_NODES = 16  # fewer trie nodes than this are walked one by one

_ENTRY_BYTES = 200  # what a cached row costs beside its words


class Allowed(NamedTuple):
    """The tokens a state allows, and what `shortest()` is after each."""

    tokens: NDArray[np.int32]  # [n]
    costs: NDArray[np.int32]  # [n]


@dataclass(slots=True)
class CachedRow:
    """What a state allows. need: with at least this many tokens left, every allowed token leaves room to finish."""

    words: Row
    need: int


class Automaton:
    """A constraint over one vocabulary.

    row_cache_bytes: memory for cached rows; the least recently used go first.
    Raises ConstraintError when the vocabulary cannot write any text of the language.
    """

    def __init__(self, rules: RuleGraph, vocabulary: Vocabulary, row_cache_bytes: int = ROW_CACHE_BYTES) -> None:
        self.vocabulary = vocabulary
        self.states = States(rules, vocabulary)
        self._row_cache_bytes = row_cache_bytes
        self._rows: OrderedDict[State, CachedRow] = OrderedDict()
        self._words: dict[bytes, tuple[Row, int]] = {}  # digest -> equal rows share one array; how many use it
        self._row_bytes = 0
        self._walks: OrderedDict[State, Allowed] = OrderedDict()
        self._symbols = self.states.classes[vocabulary.trie.byte]  # uint8[N]
        self._loops = Loops(self.states, vocabulary.characters)

    def matcher(self) -> ConstraintMatcher:
        """A fresh matcher at the start of the text."""
        return ConstraintMatcher(self)

    def search(self) -> AutomatonSearch:
        """A fresh search at the start of the output. Raises ConstraintError if the empty text is a match."""
        return AutomatonSearch(self)

    @property
    def cached_bytes(self) -> int:
        """Memory held by cached rows and states."""
        walks = sum(walk.tokens.nbytes + walk.costs.nbytes for walk in self._walks.values())
        return self._row_bytes + walks + self.states.nbytes

    def forget(self) -> None:
        self.states.reset()
        self._rows.clear()
        self._words.clear()
        self._walks.clear()
        self._row_bytes = 0

    # ------------------------------------------------------------ rows

    def has_row(self, state: State) -> bool:
        return state.relaxed in self._rows

    def row(self, state: State) -> CachedRow:
        """The state's row, computed if it is not cached."""
        found = self._rows.get(state.relaxed) if state.relaxed is not None else None
        if found is not None:
            assert state.relaxed is not None
            self._rows.move_to_end(state.relaxed)
            return found
        relaxed = self.states.relax(state)
        found = self._rows.get(relaxed)
        if found is None:
            tokens, costs = self.allowed(relaxed)
            words = self._pack(tokens, state.is_complete)
            found = self._keep(relaxed, words, int(costs.max(initial=-1)) + 1)
        return found

    def filtered_row(self, state: State, remaining: int) -> Row:
        """The tokens after which the text can still be finished with `remaining` tokens, that token included."""
        tokens, costs = self.allowed(self.states.relax(state))
        return self._pack(tokens[costs < remaining], state.is_complete)

    def adopt(self, state: State) -> State:
        """`state`, usable now; forgets the others first if they have grown too many."""
        if self.states.nbytes > STATE_BYTES:
            self.forget()
        return self.states.adopt(state)

    def _pack(self, tokens: NDArray[np.int32], is_complete: bool) -> Row:
        allowed = np.zeros(self.vocabulary.words * 32, bool)
        allowed[tokens] = True
        if is_complete:
            allowed[list(self.vocabulary.end_ids)] = True
        return np.packbits(allowed, bitorder="little").view("<i4").astype(np.int32, copy=False)

    def _keep(self, state: State, words: Row, need: int) -> CachedRow:
        digest = hashlib.blake2b(words.tobytes(), digest_size=16).digest()
        shared, users = self._words.get(digest, (words, 0))
        self._words[digest] = (shared, users + 1)
        self._row_bytes += _ENTRY_BYTES + (0 if users else shared.nbytes)
        kept = self._rows[state] = CachedRow(shared, need)
        while self._row_bytes > self._row_cache_bytes and len(self._rows) > 1:
            _, old = self._rows.popitem(last=False)
            self._release(old)
        return kept

    def _release(self, old: CachedRow) -> None:
        digest = hashlib.blake2b(old.words.tobytes(), digest_size=16).digest()
        shared, users = self._words.pop(digest)
        self._row_bytes -= _ENTRY_BYTES
        if users > 1:
            self._words[digest] = (shared, users - 1)
        else:
            self._row_bytes -= shared.nbytes

    # ------------------------------------------------------------ the walk

    def allowed(self, state: State) -> Allowed:
        """Every token that can come next, and `shortest()` after it. The latest few are kept: near the end of a
        budget the same states are filtered again and again."""
        found = self._walks.get(state)
        if found is None:
            tokens, at = self._reach(0, state.index)
            found = self._walks[state] = Allowed(tokens, self.states.costs[at])
            if len(self._walks) > KEPT_WALKS:
                self._walks.popitem(last=False)
        else:
            self._walks.move_to_end(state)
        return found

    def _reach(self, base: int, start: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The tokens that can be written from the trie node `base` on, where the state is `start`, and the state
        after each."""
        chain = self._loops.chain(base, start)
        if chain is not None:
            return self._reach_from_chain(base, chain)
        trie, heavy = self.vocabulary.trie, self.vocabulary.characters.heavy
        if base:
            nodes, at = self._walk_below(np.array([base]), np.array([start], np.int32), None)
        elif heavy is not None and self._has_chain(heavy, start):
            children = np.arange(1, trie.levels[2])
            return self._reach_below(children, self.states.table[start, self._symbols[children]], None, base)
        else:
            nodes, at = self._walk(start)
        tokens, which = trie.tokens_at(nodes)
        return tokens, at[which]

    def _has_chain(self, child: int, start: int) -> bool:
        """Whether much can be saved below a child of the root, with state `start` at the root."""
        self._fill(np.array([start], np.int32))
        following = int(self.states.table[start, self._symbols[child]])
        return following != DEAD and self._loops.chain(child, following) is not None

    def _reach_from_chain(self, base: int, chain: Chain) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """`_reach` where the tokens made of one set of characters need no walk."""
        runs, states = chain
        self._fill(states[runs.edge_counts])
        symbols = self._symbols[runs.edges]
        tokens, at = self._reach_below(runs.edges, self.states.table[states[runs.edge_counts], symbols], runs, base)
        within = states[runs.counts]
        dead = np.flatnonzero(states == DEAD)
        count = len(within) if not len(dead) else int(np.searchsorted(runs.counts, dead[0]))
        return np.concatenate([runs.tokens[:count], tokens]), np.concatenate([within[:count], at])

    def _reach_below(
        self, nodes: NDArray[np.int64], at: NDArray[np.int32], runs: Runs | None, base: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The tokens at and below `nodes`, outside `runs`, and the state after each."""
        trie, heavy = self.vocabulary.trie, self.vocabulary.characters.heavy
        live = at.nonzero()[0]
        nodes, at = nodes[live], at[live]
        where = np.flatnonzero(nodes == (heavy if heavy is not None and not base else -1))
        if not len(where):
            nodes, at = self._walk_below(nodes, at, runs)
            tokens, which = trie.tokens_at(nodes)
            return tokens, at[which]
        start = int(at[where[0]])
        tokens, after = self._reach(int(nodes[where[0]]), start)
        nodes, at = self._walk_below(np.delete(nodes, where), np.delete(at, where), runs)
        more, which = trie.tokens_at(nodes)
        return np.concatenate([tokens, more]), np.concatenate([after, at[which]])

    def _walk_below(
        self, nodes: NDArray[np.int64], at: NDArray[np.int32], runs: Runs | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """The live `nodes` and the live nodes below them that are not inside `runs`, and the state at each."""
        trie, classes = self.vocabulary.trie, self.states.class_count
        all_nodes, all_at = [nodes], [at]
        while len(nodes):
            counts = trie.children[nodes]
            inner = counts.nonzero()[0]
            nodes, at, counts = nodes[inner], at[inner], counts[inner]
            total = int(counts.sum())
            if not total:
                break
            self._fill(at)
            children = spread(trie.first_child[nodes], counts, total)
            above = np.repeat(at.astype(np.int64) * classes, counts)
            following = self.states.table.ravel()[above + self._symbols[children]]
            if runs is not None:
                following[runs.inside[children]] = DEAD  # counted there
            live = following.nonzero()[0]
            nodes, at = children[live], following[live]
            all_nodes.append(nodes)
            all_at.append(at)
        return np.concatenate(all_nodes), np.concatenate(all_at)

    def _walk(self, start: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """The live nodes of the vocabulary's trie, and the state at each.

        Level by level, all live nodes at once: where most of a level can be reached the whole level is computed,
        elsewhere only the children of live nodes, and the last few long tokens one by one.
        """
        trie, symbols, classes = self.vocabulary.trie, self._symbols, self.states.class_count
        nodes, at = np.zeros(1, np.int64), np.full(1, start, np.int32)
        all_nodes, all_at = [nodes], [at]
        for level in range(1, len(trie.levels) - 1):
            counts = trie.children[nodes]
            inner = counts.nonzero()[0]
            nodes, at, counts = nodes[inner], at[inner], counts[inner]
            total = int(counts.sum())
            if total <= FEW_NODES:
                few = self._walk_few(nodes.tolist(), at.tolist())
                all_nodes.append(np.array([node for node, _ in few], np.int64))
                all_at.append(np.array([index for _, index in few], np.int32))
                break
            self._fill(at)
            first, last = trie.levels[level], trie.levels[level + 1]
            table = self.states.table.ravel()
            if 2 * total > last - first:
                above = np.zeros(first - trie.levels[level - 1], np.int64)
                above[nodes - trie.levels[level - 1]] = at
                above *= classes
                following = table[above[trie.parent[first:last] - trie.levels[level - 1]] + symbols[first:last]]
                live = following.nonzero()[0]
                nodes, at = live + first, following[live]
            else:
                children = spread(trie.first_child[nodes], counts, total)
                following = table[np.repeat(at.astype(np.int64) * classes, counts) + symbols[children]]
                live = following.nonzero()[0]
                nodes, at = children[live], following[live]
            all_nodes.append(nodes)
            all_at.append(at)
        return np.concatenate(all_nodes), np.concatenate(all_at)

    def _walk_few(self, nodes: list[int], at: list[int]) -> list[tuple[int, int]]:
        """All live nodes below the given ones, each with its state."""
        trie, states = self.vocabulary.trie, self.states
        found: list[tuple[int, int]] = []
        work = list(zip(nodes, at, strict=True))
        while work:
            node, index = work.pop()
            if not states.is_filled[index]:
                states.fill(index)
            first = trie.first_child.item(node)
            for child in range(first, first + trie.children.item(node)):
                following = states.table.item(index, self._symbols.item(child))
                if following:
                    found.append((child, following))
                    work.append((child, following))
        return found

    def _fill(self, at: NDArray[np.int32]) -> None:
        """Computes the transitions of the states in `at`."""
        missing = at[~self.states.is_filled[at]]
        if len(missing):
            for index in np.unique(missing).tolist():
                self.states.fill(index)


class ConstraintMatcher:
    """One sequence's place in its constraint: see `base.Matcher`."""

    __slots__ = ("_automaton", "_history", "_state")

    def __init__(self, automaton: Automaton) -> None:
        self._automaton = automaton
        self._history: list[State | None] = []  # states before each accepted token
        self._state: State | None = automaton.states.start  # None: an end token was accepted

    def _current(self) -> State | None:
        if self._state is not None:
            self._automaton.adopt(self._state)
        return self._state

    def fill_mask(self, row: Row, remaining: int | None = None) -> None:
        state = self._current()
        if state is None:
            row[:] = 0
            return
        cached = self._automaton.row(state)
        if remaining is None or remaining >= cached.need:
            row[:] = cached.words
        else:
            row[:] = self._automaton.filtered_row(state, remaining)

    def prepare(self, deadline: float) -> bool:
        state = self._current()
        if state is None or self._automaton.has_row(state):
            return True
        if time.monotonic() >= deadline:
            return False
        self._automaton.row(state)
        return True

    def accept(self, token: int) -> bool:
        state = self._current()
        vocabulary = self._automaton.vocabulary
        if state is None or not 0 <= token < vocabulary.size:
            return False
        if token in vocabulary.end_ids:
            if not state.is_complete:
                return False
            self._history.append(state)
            self._state = None
            return True
        text = vocabulary.tokens[token]
        if not text:
            return False
        here = state
        for byte in text:
            following = self._automaton.states.step(here, byte)
            if following is None:
                return False
            here = following
        self._history.append(state)
        self._state = here
        return True

    def rollback(self, count: int) -> None:
        assert 0 <= count <= len(self._history)
        if count:
            self._state = self._history[-count]
            del self._history[-count:]

    def forced(self) -> bytes:
        """The longest byte string that every completion begins with, up to FORCED_BYTES."""
        text = bytearray()
        state = self._current()
        while state is not None and len(text) < FORCED_BYTES:
            byte = self._automaton.states.only_byte(state)
            if byte is None:
                break
            text.append(byte)
            state = self._automaton.states.step(state, byte)
        return bytes(text)

    def is_complete(self) -> bool:
        return self._state is None or self._state.is_complete

    def is_finished(self) -> bool:
        return self._state is None or (self._state.is_complete and len(self._state.places) == 1)

    def shortest(self) -> int:
        return 0 if self._state is None else self._state.cost

    def copy(self) -> ConstraintMatcher:
        twin = ConstraintMatcher.__new__(ConstraintMatcher)
        twin._automaton = self._automaton
        twin._history = self._history.copy()
        twin._state = self._state
        return twin
