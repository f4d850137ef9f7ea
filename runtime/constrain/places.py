"""A rule graph run as a lazily built byte DFA.

A *place* is a point in the expression with everything that must still follow it: a linked list of nodes, each
repeat with its remaining counts (Antimirov's partial derivatives; counters are never unrolled). A *state* is a set
of places. States, their transitions and their costs appear when first needed. Every place has a non-empty
language, so a state is live, and the dead state is number 0.

Two reductions keep the sets small: a place that another one covers (the same point, looser counters) is dropped,
and `relaxed` forgets upper bounds that one token cannot reach (`rounds.py`), so `.{0,100000}` has one mask.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from latticework.runtime.constrain.expressions import Classes, Expressions
from latticework.runtime.constrain.fragments import Fragment, Fragments
from latticework.runtime.constrain.rounds import Rounds
from latticework.runtime.constrain.rules import Bytes, Either, Empty, Literal, Machine, Repeat, Then, Words
from latticework.runtime.constrain.vocabulary import Vocabulary

DEAD = 0
NOTHING, WHOLE, SOMETHING = range(3)  # see `States.writes`
UNKNOWN = -1  # a transition that was not computed yet
_END = -1  # the node of the place where nothing follows
_UNBOUNDED = 1 << 40
_FREE = (1 << 32) - 1  # used characters of a machine whose bounds are far: nothing counts them any more
_MOST_TOKENS = 1 << 30  # costs stop here; budgets end far below
_FEW = 3  # rounds that many tokens hold of most repeats
_DEEPEST = 32  # bits for a word's depth in the number of a shape


class Place:
    """A point in the expression and what follows it. `low` and `high` are a repeat's remaining counts; for a literal,
    `low` is how much of it is written; for words, they are the position in their table; for a machine, its state and
    how many characters are written; for alternatives, `low` is 1 + the state of their fragment, or 0 before any of
    them is chosen. shape: number of the same chain without its counts. counts: every (-low, high) of the chain.
    cost: tokens that surely suffice to finish."""

    __slots__ = ("after", "cost", "counts", "heads", "high", "loose", "low", "node", "rest", "shape")

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
        self.after: dict[int, tuple[Place, ...]] = {}  # of a head: the heads after each byte class
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
    state by class; UNKNOWN where nobody has asked: ask `follow`, or `fill` first. costs: int32[S]. `reset` forgets
    all numbers; a state kept by somebody gets a new one from `adopt`.
    """

    def __init__(self, expressions: Expressions, root: int, vocabulary: Vocabulary) -> None:
        self._expressions = expressions
        self._root = root
        self._nodes = expressions.nodes
        self._reach = vocabulary.longest + 1
        split = Classes(expressions, root)
        self.classes = split.classes
        self.class_count = split.count
        self._single_byte = split.single_byte
        self._node_classes = {node: frozenset(found) for node, found in split.of_node.items()}
        self._bytes_of_class = split.bytes_of
        self._fragments = Fragments(expressions, split)
        self._rounds = Rounds(expressions, vocabulary)
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
        self.table = np.full((64, self.class_count), UNKNOWN, np.int32)
        self.accepts = np.zeros(64, bool)
        self.costs = np.zeros(64, np.int32)
        self._live_bytes: dict[int, list[tuple[int, int]]] = {}
        dead = State(frozenset(), False, 0)
        self._number(dead)
        self.table[DEAD] = DEAD
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
        following = self.next(state.index, self.classes.item(byte))
        return self.states[following] if following else None

    def next(self, index: int, byte_class: int) -> int:
        """The number of the state after a byte class; DEAD when no text goes on so."""
        following = self.table.item(index, byte_class)
        return following if following >= 0 else self._find(index, byte_class)

    def follow(self, at: NDArray[np.integer], symbols: NDArray[np.integer]) -> NDArray[np.int32]:
        """The states after those numbered `at`, each by its own one of `symbols`, byte classes."""
        cells = at.astype(np.int64) * self.class_count + symbols
        following = self.table.ravel()[cells]
        if following.min(initial=0) < 0:
            for cell in set(cells[following < 0].tolist()):
                self._find(*divmod(cell, self.class_count))
            following = self.table.ravel()[cells]  # the table may have moved
        return following

    def relax(self, state: State) -> State:
        """A state with the same tokens allowed and the same costs after each, shared by states that differ only in
        counts that one token cannot use up."""
        if state.relaxed is None:
            state.relaxed = self._state(tuple(self._relaxed(place) for place in state.places))
        return state.relaxed

    def fill(self, index: int) -> NDArray[np.int32]:
        """All transitions of one state: int32[C]."""
        if (self.table[index] == UNKNOWN).any():
            taken = {byte_class for place in self.states[index].places for byte_class in self._taken(place)}
            for byte_class in taken:
                self.next(index, byte_class)
            row = self.table[index]
            row[row == UNKNOWN] = DEAD
        return self.table[index]

    def _find(self, index: int, byte_class: int) -> int:
        """Computes one transition."""
        groups = [after for place in self.states[index].places if (after := self._after(place, byte_class))]
        if not groups:
            following = DEAD
        elif len(groups) == 1:
            following = self._state(groups[0]).index
        else:
            following = self._state([place for after in groups for place in after]).index
        self.table[index, byte_class] = following  # only now: making the state may have moved the table
        return following

    def live_bytes(self, index: int) -> list[tuple[int, int]]:
        """The bytes that go on from a state, each with the state after it."""
        found = self._live_bytes.get(index)
        if found is None:
            row = self.fill(index)
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
        live = np.flatnonzero(self.fill(state.index))
        return self._single_byte.get(int(live[0])) if len(live) == 1 else None

    def _number(self, state: State) -> None:
        if len(self.states) == len(self.table):
            self.table = np.concatenate([self.table, np.full_like(self.table, UNKNOWN)])
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
                case Either() if low:
                    shape_key = (node, low, rest.shape)
                    cost = self._fragments.of(node).cost(low - 1)
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
                case Either() if place.low:
                    found[place] = None
                case Either(items):
                    fragment, others = self._fragments.split(place.node, items)
                    if fragment is not None:
                        found[self._point(place.node, 1, 0, rest)] = None
                    work += [self._place(item, rest) for item in others]
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

    def _after(self, place: Place, byte_class: int) -> tuple[Place, ...]:
        """The heads after a head and a byte class; none where it does not go on so."""
        after = place.after.get(byte_class)
        if after is None:
            after = place.after[byte_class] = self._find_after(place, byte_class)
        return after

    def _find_after(self, place: Place, byte_class: int) -> tuple[Place, ...]:
        rest = place.rest
        if rest is None:
            return ()  # the end
        match self._nodes[place.node]:
            case Literal(data):
                if int(self.classes[data[place.low]]) != byte_class:
                    return ()
                is_over = place.low + 1 == len(data)
                return self._heads(rest) if is_over else (self._point(place.node, place.low + 1, 0, rest),)
            case Words():
                return self._after_words(place, rest, byte_class)
            case Either():
                move = self._fragments.of(place.node).moves(place.low - 1).get(byte_class)
                if move is None:
                    return ()
                after = self._heads(rest) if move.ends else ()
                return after if move.state is None else (*after, self._point(place.node, move.state + 1, 0, rest))
            case _:
                return self._heads(rest) if byte_class in self._node_classes[place.node] else ()

    def writes(self, place: Place, symbols: tuple[int, ...]) -> int:
        """What a head writes of some byte classes: NOTHING where it does not go on so, WHOLE where they are all of it,
        so that what follows it comes next, SOMETHING otherwise."""
        match self._nodes[place.node] if place.rest is not None else None:
            case None:
                return NOTHING
            case Either():
                return self._writes_fragment(self._fragments.of(place.node), place.low - 1, symbols)
            case Literal(data):
                is_last = place.low + 1 == len(data)
            case Words():
                is_last = False
            case _:
                is_last = True
        if symbols[0] not in self._taken(place):
            return NOTHING
        return WHOLE if is_last and len(symbols) == 1 else SOMETHING

    @staticmethod
    def _writes_fragment(fragment: Fragment, state: int, symbols: tuple[int, ...]) -> int:
        *leading, last = symbols
        for symbol in leading:
            move = fragment.moves(state).get(symbol)
            if move is None:
                return NOTHING
            if move.ends or move.state is None:
                return SOMETHING  # what follows may write the others
            state = move.state
        move = fragment.moves(state).get(last)
        if move is None:
            return NOTHING
        return WHOLE if move.state is None else SOMETHING

    def _taken(self, place: Place) -> Iterable[int]:
        """The byte classes that a head goes on with."""
        if place.rest is None:
            return ()  # the end
        match self._nodes[place.node]:
            case Literal(data):
                return (int(self.classes[data[place.low]]),)
            case Words():
                found = self._expressions.table(place.node).branches(place.low, place.high)
                return [int(self.classes[byte]) for byte, _, _ in found]
            case Either():
                return self._fragments.of(place.node).moves(place.low - 1)
            case _:
                return self._node_classes[place.node]

    def _after_words(self, place: Place, rest: Place, byte_class: int) -> tuple[Place, ...]:
        for byte, ends, longer in self._expressions.table(place.node).branches(place.low, place.high):
            if self.classes[byte] == byte_class:  # words set each of their bytes apart
                after = self._heads(rest) if ends else ()
                return after if longer is None else (*after, self._point(place.node, place.low + 1, longer, rest))
        return ()

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
                case Repeat() if high > self._reach or (high > _FEW and high >= self._rounds.most(link.node)):
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


__all__ = ["DEAD", "UNKNOWN", "Place", "State", "States"]
