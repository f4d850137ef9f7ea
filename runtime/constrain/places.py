"""A rule graph run as a lazily built byte DFA.

A *place* is a point in the expression with everything that must still follow it: a linked list of nodes, each
repeat with its remaining counts (Antimirov's partial derivatives; counters are never unrolled). A *state* is a set
of places. States, their transitions and their costs appear when first needed. Every place has a non-empty
language, so a state is live, and the dead state is number 0.

Two reductions keep the sets small: a place that another one covers (the same point, looser counters) is dropped,
and `relaxed` forgets upper bounds that one token cannot reach, so `.{0,100000}` has one mask.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from latticework.runtime.constrain.expressions import Classes, Expressions
from latticework.runtime.constrain.rules import Bytes, Either, Empty, Literal, Machine, Repeat, Then, Words
from latticework.runtime.constrain.vocabulary import Vocabulary

DEAD = 0
_END = -1  # the node of the place where nothing follows
_UNBOUNDED = 1 << 40
_FREE = (1 << 32) - 1  # used characters of a machine whose bounds are far: nothing counts them any more
_MOST_TOKENS = 1 << 30  # costs stop here; budgets end far below
_MANY_PLACES = 8  # from a state of more than these a single byte is followed by itself
_DEEPEST = 32  # bits for a word's depth in the number of a shape


class Place:
    """A point in the expression and what follows it. `low` and `high` are a repeat's remaining counts; for a literal,
    `low` is how much of it is written; for words, they are the position in their table; for a machine, its state and
    how many characters are written. shape: number of the same
    chain without its counts. counts: every (-low, high) of the chain. cost: tokens that surely suffice to finish."""

    __slots__ = ("cost", "counts", "heads", "high", "loose", "low", "moves", "node", "rest", "shape")

    def __init__(
        self, node: int, low: int, high: int, rest: Place | None, shape: int, counts: tuple[int, ...], cost: int
    ) -> None:
        self.node = node
        self.low = low
        self.high = high
        self.rest = rest
        self.shape = shape
        self.counts = counts
        self.cost = cost
        self.heads: tuple[Place, ...] | None = None  # the places that can write the next byte from here
        self.moves: list[tuple[tuple[int, ...], tuple[Place, ...]]] | None = None  # byte classes -> places after
        self.loose: Place | None = None  # the same place relaxed


class State:
    """A set of places: one state of the DFA. `index` is its number while `generation` lasts."""

    __slots__ = ("cost", "generation", "goes_on", "index", "is_complete", "loops", "places", "relaxed")

    def __init__(self, places: frozenset[Place], is_complete: bool, cost: int) -> None:
        self.places = places
        self.is_complete = is_complete
        self.goes_on = len(places) > is_complete  # something can still be written
        self.cost = cost
        self.index = DEAD
        self.generation = -1
        self.relaxed: State | None = None
        self.loops: frozenset[int] | None = None


class States:
    """The DFA of `root`, a regular node, over the bytes that a vocabulary can write.

    classes: uint8[256], bytes that no part of the graph tells apart share a class. table: int32[S, C], the next
    state by class, valid where `is_filled`. costs: int32[S]. `reset` forgets all numbers; a state kept by somebody
    gets a new one from `adopt`.
    """

    def __init__(self, expressions: Expressions, root: int, vocabulary: Vocabulary) -> None:
        self._expressions = expressions
        self._root = root
        self._nodes = expressions.nodes
        self._pause = expressions.pause
        self._reach = vocabulary.longest + 1
        split = Classes(expressions, root)
        self.classes = split.classes
        self.class_count = split.count
        self._single_byte = split.single_byte
        self._node_classes = split.of_node
        self._bytes_of_class = split.bytes_of
        self._shapes: dict[tuple[int, int, int], int] = {}
        self._end = Place(_END, 0, 0, None, 0, (), 0)
        self._end.heads = (self._end,)
        self._end.loose = self._end
        self.generation = 0
        self._forget()

    # ------------------------------------------------------------ states

    def reset(self) -> None:
        """Forgets every state; those still held elsewhere stay usable through `adopt`."""
        self.generation += 1
        self._forget()

    def _forget(self) -> None:
        self._places: dict[tuple[int, int, int, Place], Place] = {}
        self._by_places: dict[frozenset[Place], State] = {}
        self.states: list[State] = []
        self.table = np.zeros((64, self.class_count), np.int32)
        self.is_filled = np.zeros(64, bool)
        self.accepts = np.zeros(64, bool)
        self.costs = np.zeros(64, np.int32)
        self._live_bytes: dict[int, list[tuple[int, int]]] = {}
        dead = State(frozenset(), False, 0)
        self._number(dead)
        self.is_filled[DEAD] = True
        self.start = self._state(self._heads(self._place(self._root, self._end)))

    @property
    def size(self) -> int:
        """Number of states, the dead one included."""
        return len(self.states)

    @property
    def nbytes(self) -> int:
        """Memory held, roughly."""
        return self.table.nbytes + self.costs.nbytes + 400 * len(self.states) + 300 * len(self._places)

    def adopt(self, state: State) -> State:
        """`state` with a number of this generation."""
        if state.generation != self.generation:
            self._by_places[state.places] = state
            state.relaxed = None
            self._number(state)
        return state

    def step(self, state: State, byte: int) -> State | None:
        """The state after `byte`; None when no text goes on so."""
        if not self.is_filled[state.index]:
            if len(state.places) > _MANY_PLACES:
                return self._step_alone(state, int(self.classes[byte]))
            self.fill(state.index)
        following = self.table[state.index, self.classes[byte]]
        return self.states[following] if following else None

    def _step_alone(self, state: State, byte_class: int) -> State | None:
        """`step` without looking where all other bytes lead."""
        found: list[Place] = []
        for place in state.places:
            if place.node == _END:
                continue
            assert place.rest is not None
            if place.moves is None and isinstance(self._nodes[place.node], Bytes):
                if byte_class in self._node_classes[place.node]:
                    found += self._heads(place.rest)
                continue
            for taken, after in self._moves(place):
                if byte_class in taken:
                    found += after
        return self._state(found) if found else None

    def relax(self, state: State) -> State:
        """A state with the same tokens allowed and the same costs after each, shared by states that differ only in
        counts that one token cannot use up."""
        if state.relaxed is None:
            state.relaxed = self._state(tuple(self._relaxed(place) for place in state.places))
        return state.relaxed

    def fill(self, index: int) -> None:
        """Computes the transitions of one state."""
        row = np.zeros(self.class_count, np.int32)
        places = [place for place in self.states[index].places if place.node != _END]
        if len(places) == 1:
            for taken, after in self._moves(places[0]):
                row[list(taken)] = self._state(after).index
        else:
            takers: list[list[tuple[Place, ...]]] = [[] for _ in range(self.class_count)]
            for place in places:
                for taken, after in self._moves(place):
                    for byte_class in taken:
                        takers[byte_class].append(after)
            known: dict[tuple[int, ...], int] = {}
            for byte_class, group in enumerate(takers):
                if group:
                    key = tuple(map(id, group))
                    if key not in known:
                        known[key] = self._state([place for after in group for place in after]).index
                    row[byte_class] = known[key]
        self.table[index] = row  # only now: making states may have moved the table
        self.is_filled[index] = True

    def live_bytes(self, index: int) -> list[tuple[int, int]]:
        """The bytes that go on from a state, each with the state after it."""
        found = self._live_bytes.get(index)
        if found is None:
            if not self.is_filled[index]:
                self.fill(index)
            row = self.table[index]
            live = row.nonzero()[0]
            if not len(live):
                found = []
            else:
                pairs = self._bytes_of_class
                found = [
                    (byte, after)
                    for number, after in zip(live.tolist(), row[live].tolist(), strict=True)
                    for byte in pairs[number]
                ]
            self._live_bytes[index] = found
        return found

    def loops(self, state: State) -> frozenset[int]:
        """The bytes after which `state` is the same again."""
        if state.loops is None:
            index = self.adopt(state).index
            state.loops = frozenset(byte for byte, after in self.live_bytes(index) if after == index)
        return state.loops

    def only_byte(self, state: State) -> int | None:
        """The byte that every completion begins with, if there is one."""
        if state.is_complete:
            return None
        if not self.is_filled[state.index]:
            self.fill(state.index)
        live = np.flatnonzero(self.table[state.index])
        return self._single_byte.get(int(live[0])) if len(live) == 1 else None

    def _number(self, state: State) -> None:
        if len(self.states) == len(self.table):
            self.table = np.concatenate([self.table, np.zeros_like(self.table)])
            self.is_filled = np.concatenate([self.is_filled, np.zeros_like(self.is_filled)])
            self.accepts = np.concatenate([self.accepts, np.zeros_like(self.accepts)])
            self.costs = np.concatenate([self.costs, np.zeros_like(self.costs)])
        state.index = len(self.states)
        state.generation = self.generation
        self.costs[state.index] = min(state.cost, _MOST_TOKENS)
        self.accepts[state.index] = state.is_complete
        self.states.append(state)

    def _state(self, places: Iterable[Place]) -> State:
        given = frozenset(places)
        state = self._by_places.get(given)
        if state is None:
            kept = _without_covered(given)
            state = self._by_places.get(kept)
            if state is None:
                state = State(kept, self._end in kept, min(place.cost for place in kept))
                self._number(state)
                self._by_places[kept] = state
            self._by_places[given] = state
        return state

    # ------------------------------------------------------------ places

    def _place(self, node: int, rest: Place) -> Place:
        """The start of `node`, followed by `rest`."""
        kind = self._nodes[node]
        if isinstance(kind, Repeat):
            return self._point(node, kind.low, _UNBOUNDED if kind.high is None else kind.high, rest)
        return self._point(node, 0, 0, rest)

    def _point(self, node: int, low: int, high: int, rest: Place) -> Place:
        self._pause()
        key = (node, low, high, rest)
        place = self._places.get(key)
        if place is None:
            counts = rest.counts
            shape_key = (node, 0, rest.shape)
            match self._nodes[node]:
                case Repeat(item):
                    counts = (-low, high, *counts)
                    cost = low * self._expressions.costs[item]
                case Literal():
                    shape_key = (node, low, rest.shape)
                    cost = self._expressions.literal_cost(node, low)
                case Words():
                    shape_key = (node, low << _DEEPEST | high, rest.shape)
                    cost = self._expressions.table(node).cost(low, high)
                case Machine():
                    shape_key = (node, low << _DEEPEST | high, rest.shape)
                    cost = self._expressions.machine_cost(node, low, high)
                case _:
                    cost = self._expressions.costs[node]
            cost += rest.cost
            shape = self._shapes.setdefault(shape_key, len(self._shapes) + 1)
            place = Place(node, low, high, rest, shape, counts, cost)
            self._places[key] = place
        return place

    def _heads(self, start: Place) -> tuple[Place, ...]:
        """The places that can write the next byte from `start`, the end among them if nothing need follow."""
        if start.heads is not None:
            return start.heads
        found: dict[Place, None] = {}
        entered: dict[tuple[int, Place], list[tuple[int, int]]] = {}
        work = [start]
        while work:
            place = work.pop()
            if place.heads is not None:
                found.update(dict.fromkeys(place.heads))
                continue
            rest = place.rest
            assert rest is not None
            match self._nodes[place.node]:
                case Bytes() | Literal() | Words():
                    found[place] = None
                case Empty():
                    work.append(rest)
                case Then(first, following):
                    work.append(self._place(first, self._place(following, rest)))
                case Either(items):
                    work += [self._place(item, rest) for item in reversed(items)]
                case Machine(states):
                    lengths = self._expressions.lengths(place.node)
                    if states[place.low].accepts and place.high >= lengths.low:
                        work.append(rest)
                    used = _FREE if place.high == _FREE else lengths.count(place.high + 1)
                    for part, target in states[place.low].moves:
                        if used == _FREE or lengths.is_live(target, used):
                            work.append(self._place(part, self._point(place.node, target, used, rest)))
                case Repeat(item):
                    counts = entered.setdefault((place.node, rest), [])
                    if any(low <= place.low and high >= place.high for low, high in counts):
                        continue  # a round that wrote nothing: covered by the one before
                    counts.append((place.low, place.high))
                    if place.low == 0:
                        work.append(rest)
                    work.append(self._place(item, self._next_round(place, rest)))
        start.heads = tuple(found)
        return start.heads

    def _next_round(self, place: Place, rest: Place) -> Place:
        high = place.high if place.high == _UNBOUNDED else place.high - 1
        return self._point(place.node, max(place.low - 1, 0), high, rest) if high else rest

    def _moves(self, place: Place) -> list[tuple[tuple[int, ...], tuple[Place, ...]]]:
        """What a head leads to: for some byte classes, the heads once such a byte is written."""
        if place.moves is None:
            rest = place.rest
            assert rest is not None
            match self._nodes[place.node]:
                case Literal(data):
                    taken = (int(self.classes[data[place.low]]),)
                    is_last = place.low + 1 == len(data)
                    after = self._heads(rest) if is_last else (self._point(place.node, place.low + 1, 0, rest),)
                    place.moves = [(taken, after)]
                case Words():
                    place.moves = list(self._word_moves(place, rest))
                case _:
                    place.moves = [(self._node_classes[place.node], self._heads(rest))]
        return place.moves

    def _word_moves(self, place: Place, rest: Place) -> Iterable[tuple[tuple[int, ...], tuple[Place, ...]]]:
        table = self._expressions.table(place.node)
        for byte, ends, longer in table.branches(place.low, place.high):
            after = self._heads(rest) if ends else ()
            if longer is not None:
                after = (*after, self._point(place.node, place.low + 1, longer, rest))
            yield (int(self.classes[byte]),), after

    def _relaxed(self, place: Place) -> Place:
        chain: list[Place] = []
        while place.loose is None:
            chain.append(place)
            assert place.rest is not None
            place = place.rest
        loose = place.loose
        for link in reversed(chain):
            high = link.high
            match self._nodes[link.node]:
                case Repeat() if high > self._reach:
                    high = _UNBOUNDED
                case Machine(_, low, bound) if bound is not None and low <= high < _FREE:
                    lengths = self._expressions.lengths(link.node)
                    if bound - high > self._reach + lengths.furthest:
                        high = _FREE  # used characters: near neither bound
            loose = self._point(link.node, link.low, high, loose)
            link.loose = loose
        return loose


def _without_covered(places: frozenset[Place]) -> frozenset[Place]:
    """The places less those whose texts another one of the same shape all has: it needs no more rounds and allows
    no fewer."""
    if len({place.shape for place in places}) == len(places):
        return places
    by_shape: dict[int, list[Place]] = {}
    for place in places:
        by_shape.setdefault(place.shape, []).append(place)
    kept: list[Place] = []
    for group in by_shape.values():
        group.sort(key=lambda place: place.counts, reverse=True)
        front: list[Place] = []
        for place in group:
            if not any(all(map(int.__ge__, other.counts, place.counts)) for other in front):
                front.append(place)
        kept += front
    return frozenset(kept)


__all__ = ["DEAD", "Place", "State", "States"]
