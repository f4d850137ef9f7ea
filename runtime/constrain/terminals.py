"""Terminals: the regular parts of a constraint, each a lazily built byte DFA over the vocabulary.

A terminal knows which tokens stay inside it from a state on, and where tokens leave it: the trie nodes at which its
text may be over. What follows there is not its business, so its answers hold wherever it stands, and are computed
once. The walk of the vocabulary's trie is numpy, level by level; states that loop or count over a set of characters
skip most of it (`loops.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from latticework.runtime.constrain.characters import Runs
from latticework.runtime.constrain.expressions import Expressions
from latticework.runtime.constrain.loops import Chain, Loops
from latticework.runtime.constrain.places import DEAD, State, States
from latticework.runtime.constrain.vocabulary import Vocabulary, spread

Nodes = NDArray[np.int64]
Indexes = NDArray[np.int32]

FEW_NODES = 16  # fewer trie nodes than this are walked one by one
KEPT_TOKENS = 512  # longer lists of tokens are kept only for the latest walks
KEPT_WALKS = 8

_NO_NODES = np.zeros(0, np.int64)


class Inside(NamedTuple):
    """The tokens that do not leave a terminal before their last byte, what the terminal still costs after each, and
    the trie nodes below which tokens go on after its end."""

    tokens: NDArray[np.int32]  # [n]
    costs: NDArray[np.int32]  # [n]
    exits: Nodes  # [e], none of them the node begun at


class Terminal:
    """One regular node over one vocabulary. Shared by all places where the node stands."""

    def __init__(self, expressions: Expressions, node: int, vocabulary: Vocabulary) -> None:
        self.node = node
        self.vocabulary = vocabulary
        self.states = States(expressions, node, vocabulary)
        self._symbols: NDArray[np.uint8] | None = None  # of each trie node, the class of its byte: [N]
        self._loops: Loops | None = None
        self._inside: dict[State, Inside] = {}
        self._inside_bytes = 0
        self._latest: OrderedDict[State, Inside] = OrderedDict()
        self._latest_bytes = 0

    @property
    def start(self) -> State:
        return self.states.start

    @property
    def nbytes(self) -> int:
        """Memory held, roughly."""
        loops = 0 if self._loops is None else self._loops.nbytes
        return self.states.nbytes + self._inside_bytes + self._latest_bytes + loops

    def forget(self) -> None:
        """Drops all states; those held elsewhere stay usable."""
        self.states.reset()
        self._inside.clear()
        self._inside_bytes = self._latest_bytes = 0
        self._latest.clear()
        if self._loops is not None:
            self._loops.forget()

    def step(self, state: State, byte: int) -> State | None:
        """The state after `byte`; None when no text goes on so."""
        return self.states.step(self.states.adopt(state), byte)

    def inside(self, state: State) -> Inside:
        """What the whole vocabulary does from `state` on. The state should be `relaxed`."""
        found = self._inside.get(state)
        if found is None:
            found = self._latest.get(state)
        if found is None:
            self.states.adopt(state)
            found = self._reach(0, state.index)
            if len(found.tokens) <= KEPT_TOKENS:
                self._inside[state] = found
                self._inside_bytes += _size(found)
            else:
                self._latest[state] = found
                self._latest_bytes += _size(found)
                if len(self._latest) > KEPT_WALKS:
                    _, old = self._latest.popitem(last=False)
                    self._latest_bytes -= _size(old)
        return found

    def below(self, state: State, nodes: Nodes) -> Inside:
        """What the tokens below each of `nodes` do where the state at the node is `state`."""
        self.states.adopt(state)
        at = np.full(len(nodes), state.index, np.int32)
        reached, after = self._walk_below(nodes, at, None)
        return self._result(reached[len(nodes) :], after[len(nodes) :])

    # ------------------------------------------------------------ walking

    def _result(self, nodes: Nodes, at: Indexes) -> Inside:
        trie, states = self.vocabulary.trie, self.states
        tokens, which = trie.tokens_at(nodes)
        ends = states.accepts[at] & (trie.children[nodes] > 0)
        return Inside(tokens, states.costs[at[which]], nodes[ends])

    def _reach(self, base: int, start: int) -> Inside:
        """The tokens at and below the trie node `base`, where the state is `start`; the root is no way out."""
        if self._loops is None:
            self._loops = Loops(self.states, self.vocabulary.characters)
        chain = self._loops.chain(base, start)
        if chain is not None:
            return self._reach_from_chain(base, chain)
        trie, heavy = self.vocabulary.trie, self.vocabulary.characters.heavy
        if base:
            return self._result(*self._walk_below(np.array([base]), np.array([start], np.int32), None))
        if heavy is not None and self._has_chain(heavy, start):
            children = np.arange(1, trie.levels[2])
            return self._reach_below(children, self.states.table[start, self.symbols[children]], None, base)
        nodes, at = self._walk(start)
        return self._result(nodes[1:], at[1:])

    @property
    def symbols(self) -> NDArray[np.uint8]:
        if self._symbols is None:
            self._symbols = self.states.classes[self.vocabulary.trie.byte]
        return self._symbols

    def _has_chain(self, child: int, start: int) -> bool:
        """Whether much can be saved below a child of the root, with state `start` at the root."""
        assert self._loops is not None
        self._fill(np.array([start], np.int32))
        following = int(self.states.table[start, self.symbols[child]])
        return following != DEAD and self._loops.chain(child, following) is not None

    def _reach_from_chain(self, base: int, chain: Chain) -> Inside:
        """`_reach` where the tokens made of one set of characters need no walk."""
        trie, states = self.vocabulary.trie, self.states
        runs, chained = chain
        self._fill(chained[runs.edge_counts])
        symbols = self.symbols[runs.edges]
        beyond = self._reach_below(runs.edges, states.table[chained[runs.edge_counts], symbols], runs, base)
        within = chained[runs.counts]
        dead = np.flatnonzero(chained == DEAD)
        count = len(within) if not len(dead) else int(np.searchsorted(runs.counts, dead[0]))
        exits = beyond.exits
        if states.accepts[chained].any():
            nodes = np.flatnonzero(runs.inside)
            characters = self.vocabulary.characters
            at = chained[characters.counts[nodes] - characters.counts[base]]
            exits = np.concatenate([nodes[states.accepts[at] & (trie.children[nodes] > 0) & (nodes > 0)], exits])
        return Inside(
            np.concatenate([runs.tokens[:count], beyond.tokens]),
            np.concatenate([states.costs[within[:count]], beyond.costs]),
            exits,
        )

    def _reach_below(self, nodes: Nodes, at: Indexes, runs: Runs | None, base: int) -> Inside:
        """The tokens at and below `nodes`, outside `runs`."""
        heavy = self.vocabulary.characters.heavy
        live = at.nonzero()[0]
        nodes, at = nodes[live], at[live]
        where = np.flatnonzero(nodes == (heavy if heavy is not None and not base else -1))
        if not len(where):
            return self._result(*self._walk_below(nodes, at, runs))
        below = self._reach(int(nodes[where[0]]), int(at[where[0]]))
        rest = self._result(*self._walk_below(np.delete(nodes, where), np.delete(at, where), runs))
        return Inside(
            np.concatenate([below.tokens, rest.tokens]),
            np.concatenate([below.costs, rest.costs]),
            np.concatenate([below.exits, rest.exits]),
        )

    def _walk_below(self, nodes: Nodes, at: Indexes, runs: Runs | None) -> tuple[Nodes, Indexes]:
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
            following = self.states.table.ravel()[above + self.symbols[children]]
            if runs is not None:
                following[runs.inside[children]] = DEAD  # counted there
            live = following.nonzero()[0]
            nodes, at = children[live], following[live]
            all_nodes.append(nodes)
            all_at.append(at)
        return np.concatenate(all_nodes), np.concatenate(all_at)

    def _walk(self, start: int) -> tuple[Nodes, Indexes]:
        """The live nodes of the vocabulary's trie, and the state at each; the root first.

        Level by level, all live nodes at once: where most of a level can be reached the whole level is computed,
        elsewhere only the children of live nodes, and the last few long tokens one by one.
        """
        trie, classes = self.vocabulary.trie, self.states.class_count
        nodes, at = np.zeros(1, np.int64), np.full(1, start, np.int32)
        if len(self.states.live_bytes(start)) <= FEW_NODES:
            return self._walk_narrow(start)
        all_nodes, all_at = [nodes], [at]
        symbols = self.symbols
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

    def _walk_narrow(self, start: int) -> tuple[Nodes, Indexes]:
        """`_walk` from a state with few ways to go on: one by one while it stays like that."""
        states, child_of, children = self.states, self.vocabulary.trie.child_of, self.vocabulary.trie.children
        found, wide = [(0, start)], []
        work = [(0, start)]
        while work:
            node, index = work.pop()
            live = states.live_bytes(index)
            if len(live) > FEW_NODES:
                if children[node]:
                    wide.append((node, index))
                continue
            for byte, following in live:
                child = child_of.get(node << 8 | byte)
                if child is not None:
                    found.append((child, following))
                    work.append((child, following))
        both = np.array(found, np.int64)
        if not wide:
            return both[:, 0], both[:, 1].astype(np.int32)
        starts = np.array(wide, np.int64)
        nodes, at = self._walk_below(starts[:, 0], starts[:, 1].astype(np.int32), None)
        nodes, at = nodes[len(starts) :], at[len(starts) :]
        return np.concatenate([both[:, 0], nodes]), np.concatenate([both[:, 1].astype(np.int32), at])

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
                following = states.table.item(index, self.symbols.item(child))
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


def _size(found: Inside) -> int:
    return found.tokens.nbytes + found.costs.nbytes + found.exits.nbytes


__all__ = ["Inside", "Terminal"]
