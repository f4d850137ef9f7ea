"""Terminals: the regular parts of a constraint, each a lazily built byte DFA over the vocabulary.

A terminal knows which tokens stay inside it from a state on, and where tokens leave it: the trie nodes at which its
text may be over. What follows there is not its business, so its answers hold wherever it stands, and are computed
once. The walk of the vocabulary's trie is numpy, level by level; states that loop or count over a set of characters
skip most of it (`loops.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from latticework.runtime.constrain.characters import Runs
from latticework.runtime.constrain.clock import ENDLESS, Clock, Late
from latticework.runtime.constrain.expressions import Expressions
from latticework.runtime.constrain.loops import Chain, Loops
from latticework.runtime.constrain.places import DEAD, State, States
from latticework.runtime.constrain.suffixes import Suffix, Suffixes
from latticework.runtime.constrain.vocabulary import Vocabulary, spread

T = TypeVar("T")
Steps = Generator[None, None, T]
"""Work that may be left and taken up again wherever it yields."""

Nodes = NDArray[np.int64]
Indexes = NDArray[np.int32]

FEW_NODES = 16  # fewer trie nodes than this are walked one by one
FEW_ARROWS = 16  # a state that goes on with more bytes than these is wide: from the root, numpy walks it
FEW_BELOW = 400  # a suffix of fewer trie nodes is walked one by one
MOST_DIFFERENT = 1500  # states that may differ at more trie nodes than these are walked apart
KEPT_TOKENS = 512  # longer lists of tokens are kept only for the latest walks
KEPT_WALKS = 8
_NO_NODES = np.zeros(0, np.int64)
_UNFINISHED_BYTES = 1 << 20  # what a walk holds that waits for another deadline, at most, roughly


class Inside(NamedTuple):
    """The tokens that do not leave a terminal before their last byte, what the terminal still costs after each, and
    the trie nodes below which tokens go on after its end."""

    tokens: NDArray[np.int32]  # [n]
    costs: NDArray[np.int32]  # [n]
    exits: Nodes  # [e], none of them the node begun at


class Difference(NamedTuple):
    """What the tokens do from one state on, by what they do from `base` on: without `gone` and `gone_exits`, and with
    `tokens`, their costs, and `exits`."""

    base: State
    gone: list[int]
    gone_exits: list[int]
    tokens: list[int]
    costs: list[int]
    exits: list[int]


class Terminal:
    """One regular node over one vocabulary. Shared by all places where the node stands.

    equal: a terminal with the same texts, of which all states are known: they are its own, too. is_whole: it is the
    whole constraint, so that nothing follows and no exits are looked for.
    """

    def __init__(
        self,
        expressions: Expressions,
        node: int,
        vocabulary: Vocabulary,
        suffixes: Suffixes,
        equal: Terminal | None = None,
        *,
        is_whole: bool = False,
    ) -> None:
        self.node = node
        self._is_whole = is_whole
        self.vocabulary = vocabulary
        self._suffixes = suffixes
        self._is_shared = equal is not None
        self.states: States = States(expressions, node, vocabulary) if equal is None else equal.states
        # of each trie node, the class of its byte: [N]
        self._symbols: NDArray[np.uint8] | None = None if equal is None else equal._symbols
        self._loops: Loops | None = None if equal is None else equal._loops
        self._shares_loops = self._loops is not None
        self._pause = expressions.pause
        self._inside: dict[State, Inside] = {}
        self._inside_bytes = 0
        self._latest: OrderedDict[State, Inside] = OrderedDict()
        self._unfinished: dict[tuple[object, ...], Steps[Any]] = {}
        self._latest_bytes = 0

    @property
    def start(self) -> State:
        return self.states.start

    @property
    def nbytes(self) -> int:
        """Memory held, roughly."""
        loops = 0 if self._loops is None or self._shares_loops else self._loops.nbytes
        return (
            self._inside_bytes
            + self._latest_bytes
            + loops
            + _UNFINISHED_BYTES * len(self._unfinished)
            + (0 if self._is_shared else self.states.nbytes)
        )

    def forget(self) -> None:
        """Drops all states; those held elsewhere stay usable."""
        if not self._is_shared:
            self.states.reset()
        self._inside.clear()
        self._inside_bytes = self._latest_bytes = 0
        self._latest.clear()
        self._unfinished.clear()
        if self._loops is not None and not self._shares_loops:
            self._loops.forget()

    def step(self, state: State, byte: int) -> State | None:
        """The state after `byte`; None when no text goes on so."""
        return self.states.step(self.states.adopt(state), byte)

    def inside(self, state: State, clock: Clock = ENDLESS) -> Inside:
        """What the whole vocabulary does from `state` on. The state should be `relaxed`. Raises Late."""
        found = self._inside.get(state)
        if found is None:
            found = self._latest.get(state)
        if found is None:
            self.states.adopt(state)
            found = self._finished((state,), lambda: self._walk_whole(state.index), clock)
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

    def below(self, state: State, suffix: Suffix, clock: Clock = ENDLESS) -> Inside:
        """What the tokens do that go on with `suffix` where the state is `state`. Raises Late."""
        index = self.states.adopt(state).index
        walk = self._walk_many if suffix.size > FEW_BELOW else self._walk_suffix
        return self._finished((state, suffix), lambda: walk(suffix, index), clock)

    def difference(self, state: State, clock: Clock = ENDLESS) -> Difference | None:
        """What distinguishes `state` from one that loops and that it comes to with nearly every byte; None where there
        is none, or much does. The state should be `relaxed`. Raises Late."""
        states = self.states
        index = states.adopt(state).index
        mine = states.goes_on(index)
        if mine.sum() <= FEW_ARROWS:
            return None
        base = states.usual(index)
        if base in (DEAD, index) or states.usual(base) != base or states.relax(states.states[base]).index != base:
            return None  # the base of a base is none
        whole = self._suffixes.whole.children
        for byte in np.flatnonzero(mine != states.goes_on(base)).tolist():
            if byte in whole and whole[byte].size > MOST_DIFFERENT:
                return None
        return self._finished((state, base), lambda: self._differ(index, base), clock)

    def _finished(self, key: tuple[object, ...], start: Callable[[], Steps[T]], clock: Clock) -> T:
        """Goes on with a walk from where the clock stopped it, or starts it."""
        walk = self._unfinished.pop(key, None)
        if walk is None:
            walk = start()
        try:
            while True:
                next(walk)
                self._pause()
                if clock.is_late():
                    self._unfinished[key] = walk
                    raise Late
        except StopIteration as end:
            found: T = end.value
            return found

    # ------------------------------------------------------------ walking

    # Each walk is a generator that stands still between pieces of work: `_finished` runs it.

    def _walk_whole(self, start: int) -> Steps[Inside]:
        """The tokens of the whole vocabulary; the root is no way out."""
        if self.states.goes_on(start).sum() > FEW_ARROWS:
            return (yield from self._reach(0, start))
        return (yield from self._walk_suffix(self._suffixes.whole, start))

    def _walk_many(self, suffix: Suffix, start: int) -> Steps[Inside]:
        nodes = np.array(suffix.nodes, np.int64)
        reached, after = yield from self._walk_below(nodes, np.full(len(nodes), start, np.int32), None)
        return self._result(reached[len(nodes) :], after[len(nodes) :])

    def _walk_suffix(self, suffix: Suffix, start: int) -> Steps[Inside]:
        """A walk of few nodes, one by one; where it comes to many that can nearly all go on, they are left to numpy."""
        states = self.states
        tokens: list[int] = []
        at: list[int] = []
        exits: list[int] = []
        many: list[tuple[Suffix, int]] = []
        work = [(suffix, start)]
        while work:
            here, index = work.pop()
            if not states.has_arrows(index):
                yield
            arrows = states.arrows(index)
            if len(arrows) > FEW_ARROWS and here.size > FEW_BELOW:
                many.append((here, index))
                continue
            below = here.children
            for byte in below.keys() & arrows.keys():
                child, after = below[byte], arrows[byte]
                ended, inner = child.tokens, child.inner
                if ended:
                    tokens += ended
                    at += [after] * len(ended)
                if inner:
                    if not self._is_whole and states.accepts.item(after):
                        exits += inner
                    work.append((child, after))
        found = Inside(np.array(tokens, np.int32), states.costs[at], np.array(exits, np.int64))
        for here, index in many:
            found = _together(found, (yield from self._walk_many(here, index)))
        return found

    def _differ(self, start: int, base: int) -> Steps[Difference | None]:
        """Both walks at once, wherever they come to different states."""
        states = self.states
        found = Difference(states.states[base], [], [], [], [], [])
        work = [(self._suffixes.whole, start, base)]
        left = MOST_DIFFERENT
        while work:
            here, one, other = work.pop()
            left -= len(here.children)
            if left < 0:
                return None
            if not (states.has_arrows(one) and states.has_arrows(other)):
                yield
            mine, others = states.arrows(one), states.arrows(other)
            for byte, child in here.children.items():
                after, instead = mine.get(byte, DEAD), others.get(byte, DEAD)
                if after == instead:
                    continue
                ended, inner = child.tokens, child.inner
                if after:
                    found.tokens.extend(ended)
                    found.costs.extend([states.costs.item(after)] * len(ended))
                if instead:
                    found.gone.extend(ended)
                if not self._is_whole and states.accepts.item(after):
                    found.exits.extend(inner)
                if not self._is_whole and states.accepts.item(instead):
                    found.gone_exits.extend(inner)
                if inner:
                    work.append((child, after, instead))
        return found

    def _result(self, nodes: Nodes, at: Indexes) -> Inside:
        trie, states = self.vocabulary.trie, self.states
        tokens, which = trie.tokens_at(nodes)
        if self._is_whole:
            return Inside(tokens, states.costs[at[which]], _NO_NODES)
        ends = states.accepts[at] & (trie.children[nodes] > 0)
        return Inside(tokens, states.costs[at[which]], nodes[ends])

    def _reach(self, base: int, start: int) -> Steps[Inside]:
        """The tokens at and below the trie node `base`, where the state is `start`; the root is no way out."""
        if self._loops is None:
            self._loops = Loops(self.states, self.vocabulary.characters)
        chain = self._loops.chain(base, start)
        if chain is not None:
            return (yield from self._reach_from_chain(base, chain))
        trie, heavy = self.vocabulary.trie, self.vocabulary.characters.heavy
        if base:
            walked = yield from self._walk_below(np.array([base]), np.array([start], np.int32), None)
            return self._result(*walked)
        if heavy is not None and self._has_chain(heavy, start):
            children = np.arange(1, trie.levels[2])
            at = yield from self._follow(np.full(len(children), start), children)
            return (yield from self._reach_below(children, at, None, base))
        nodes, at = yield from self._walk(start)
        return self._result(nodes[1:], at[1:])

    @property
    def symbols(self) -> NDArray[np.uint8]:
        if self._symbols is None:
            letters = self.vocabulary.trie.letters.translate(self.states.classes.tobytes())
            self._symbols = np.frombuffer(letters, np.uint8)
        return self._symbols

    def _has_chain(self, child: int, start: int) -> bool:
        """Whether much can be saved below a child of the root, with state `start` at the root."""
        assert self._loops is not None
        following = self.states.next(start, self.symbols.item(child))
        return following != DEAD and self._loops.chain(child, following) is not None

    def _reach_from_chain(self, base: int, chain: Chain) -> Steps[Inside]:
        """`_reach` where the tokens made of one set of characters need no walk."""
        trie, states = self.vocabulary.trie, self.states
        runs, chained = chain
        at_edges = yield from self._follow(chained[runs.edge_counts], runs.edges)
        beyond = yield from self._reach_below(runs.edges, at_edges, runs, base)
        within = chained[runs.counts]
        dead = np.flatnonzero(chained == DEAD)
        count = len(within) if not len(dead) else int(np.searchsorted(runs.counts, dead[0]))
        exits = beyond.exits
        if not self._is_whole and states.accepts[chained].any():
            nodes = np.flatnonzero(runs.inside)
            characters = self.vocabulary.characters
            at = chained[characters.counts[nodes] - characters.counts[base]]
            exits = np.concatenate([nodes[states.accepts[at] & (trie.children[nodes] > 0) & (nodes > 0)], exits])
        return Inside(
            np.concatenate([runs.tokens[:count], beyond.tokens]),
            np.concatenate([states.costs[within[:count]], beyond.costs]),
            exits,
        )

    def _reach_below(self, nodes: Nodes, at: Indexes, runs: Runs | None, base: int) -> Steps[Inside]:
        """The tokens at and below `nodes`, outside `runs`."""
        heavy = self.vocabulary.characters.heavy
        live = at.nonzero()[0]
        nodes, at = nodes[live], at[live]
        where = np.flatnonzero(nodes == (heavy if heavy is not None and not base else -1))
        if not len(where):
            walked = yield from self._walk_below(nodes, at, runs)
            return self._result(*walked)
        below = yield from self._reach(int(nodes[where[0]]), int(at[where[0]]))
        walked = yield from self._walk_below(np.delete(nodes, where), np.delete(at, where), runs)
        return _together(below, self._result(*walked))

    def _walk_below(self, nodes: Nodes, at: Indexes, runs: Runs | None) -> Steps[tuple[Nodes, Indexes]]:
        """The live `nodes` and the live nodes below them that are not inside `runs`, and the state at each."""
        trie = self.vocabulary.trie
        all_nodes, all_at = [nodes], [at]
        while len(nodes):
            counts = trie.children[nodes]
            inner = counts.nonzero()[0]
            nodes, at, counts = nodes[inner], at[inner], counts[inner]
            total = int(counts.sum())
            if not total:
                break
            children, above = spread(trie.first_child[nodes], counts, total), np.repeat(at, counts)
            if runs is not None:
                others = (~runs.covered[children]).nonzero()[0]
                children, above = children[others], above[others]
            following = yield from self._follow(above, children)
            live = following.nonzero()[0]
            nodes, at = children[live], following[live]
            all_nodes.append(nodes)
            all_at.append(at)
            yield
        return np.concatenate(all_nodes), np.concatenate(all_at)

    def _walk(self, start: int) -> Steps[tuple[Nodes, Indexes]]:
        """The live nodes of the vocabulary's trie, and the state at each; the root first.

        Level by level, all live nodes at once: where most of a level can be reached the whole level is computed,
        elsewhere only the children of live nodes, and the last few long tokens one by one.
        """
        trie = self.vocabulary.trie
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
            first, last = trie.levels[level], trie.levels[level + 1]
            if 2 * total > last - first:
                above = np.zeros(first - trie.levels[level - 1], np.int64)
                above[nodes - trie.levels[level - 1]] = at
                parents = trie.parent[first:last] - trie.levels[level - 1]
                following = yield from self.states.follow_in_steps(above[parents], self.symbols[first:last])
                live = following.nonzero()[0]
                nodes, at = live + first, following[live]
            else:
                children = spread(trie.first_child[nodes], counts, total)
                following = yield from self._follow(np.repeat(at, counts), children)
                live = following.nonzero()[0]
                nodes, at = children[live], following[live]
            all_nodes.append(nodes)
            all_at.append(at)
            yield
        return np.concatenate(all_nodes), np.concatenate(all_at)

    def _walk_few(self, nodes: list[int], at: list[int]) -> list[tuple[int, int]]:
        """All live nodes below the given ones, each with its state."""
        trie, states = self.vocabulary.trie, self.states
        found: list[tuple[int, int]] = []
        work = list(zip(nodes, at, strict=True))
        while work:
            node, index = work.pop()
            first = trie.first_child.item(node)
            for child in range(first, first + trie.children.item(node)):
                following = states.next(index, self.symbols.item(child))
                if following:
                    found.append((child, following))
                    work.append((child, following))
        return found

    def _follow(self, at: NDArray[np.integer], children: Nodes) -> Steps[Indexes]:
        """The states at `children`, trie nodes, where those at their parents are `at`."""
        return (yield from self.states.follow_in_steps(at, self.symbols[children]))


def _together(one: Inside, other: Inside) -> Inside:
    return Inside(
        np.concatenate([one.tokens, other.tokens]),
        np.concatenate([one.costs, other.costs]),
        np.concatenate([one.exits, other.exits]),
    )


def _size(found: Inside) -> int:
    return found.tokens.nbytes + found.costs.nbytes + found.exits.nbytes


__all__ = ["Inside", "Terminal"]
