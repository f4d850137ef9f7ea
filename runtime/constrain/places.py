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

from latticework.lang.errors import ConstraintError
from latticework.runtime.constrain.rules import (
    Bytes,
    Either,
    Empty,
    Literal,
    Node,
    Repeat,
    RuleGraph,
    Then,
    check_rules,
)
from latticework.runtime.constrain.vocabulary import Vocabulary

DEAD = 0
_END = -1  # the node of the place where nothing follows
_UNBOUNDED = 1 << 40
_MOST_TOKENS = 1 << 30  # costs stop here; budgets end far below
_EXACT_LITERAL_BYTES = 1 << 18  # literals in all that are priced exactly; the rest cost one token a byte


class Place:
    """A point in the expression and what follows it. `low` and `high` are a repeat's remaining counts; for a literal,
    `low` is how much of it is written. shape: number of the same chain without its counts. counts: every (-low,
    high) of the chain. cost: tokens that surely suffice to finish."""

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
        self.after: tuple[Place, ...] | None = None  # the heads once this one has written its byte
        self.loose: Place | None = None  # the same place relaxed


class State:
    """A set of places: one state of the DFA. `index` is its number while `generation` lasts."""

    __slots__ = ("cost", "generation", "index", "is_complete", "places", "relaxed")

    def __init__(self, places: frozenset[Place], is_complete: bool, cost: int) -> None:
        self.places = places
        self.is_complete = is_complete
        self.cost = cost
        self.index = DEAD
        self.generation = -1
        self.relaxed: State | None = None


class States:
    """The DFA of one rule graph over the bytes that a vocabulary can write.

    classes: uint8[256], bytes that no part of the graph tells apart share a class. table: int32[S, C], the next
    state by class, valid where `is_filled`. costs: int32[S]. `reset` forgets all numbers; a state kept by somebody
    gets a new one from `adopt`.
    Raises ConstraintError when no text of the language can be written.
    """

    def __init__(self, rules: RuleGraph, vocabulary: Vocabulary) -> None:
        check_rules(rules)
        self._nodes: list[Node] = list(rules.nodes)
        self._exact_left = _EXACT_LITERAL_BYTES
        self._reach = vocabulary.longest + 1
        self._literal_costs: dict[int, list[int]] = {}
        self._node_costs: list[int] = []
        self._check_writable(rules.root, vocabulary)
        self._price(vocabulary)
        self._split_bytes()
        self._shapes: dict[tuple[int, int, int], int] = {}
        self._end = Place(_END, 0, 0, None, 0, (), 0)
        self._end.heads = (self._end,)
        self._end.loose = self._end
        self._root = rules.root
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
        self.costs = np.zeros(64, np.int32)
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
            self.fill(state.index)
        following = self.table[state.index, self.classes[byte]]
        return self.states[following] if following else None

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
            row[self._classes_from(places[0])] = self._state(self._after(places[0])).index
        else:
            takers: list[list[Place]] = [[] for _ in range(self.class_count)]
            for place in places:
                for byte_class in self._classes_from(place):
                    takers[byte_class].append(place)
            known: dict[tuple[Place, ...], int] = {}
            for byte_class, group in enumerate(takers):
                if group:
                    key = tuple(group)
                    if key not in known:
                        known[key] = self._state([after for place in group for after in self._after(place)]).index
                    row[byte_class] = known[key]
        self.table[index] = row  # only now: making states may have moved the table
        self.is_filled[index] = True

    def only_byte(self, state: State) -> int | None:
        """The byte that every completion begins with, if there is one."""
        if state.is_complete:
            return None
        if not self.is_filled[state.index]:
            self.fill(state.index)
        live = np.flatnonzero(self.table[state.index])
        return self._single.get(int(live[0])) if len(live) == 1 else None

    def _number(self, state: State) -> None:
        if len(self.states) == len(self.table):
            self.table = np.concatenate([self.table, np.zeros_like(self.table)])
            self.is_filled = np.concatenate([self.is_filled, np.zeros_like(self.is_filled)])
            self.costs = np.concatenate([self.costs, np.zeros_like(self.costs)])
        state.index = len(self.states)
        state.generation = self.generation
        self.costs[state.index] = min(state.cost, _MOST_TOKENS)
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
            kind = self._nodes[node]
            if isinstance(kind, Repeat):
                shape_key, counts = (node, 0, rest.shape), (-low, high, *rest.counts)
                cost = low * self._node_costs[kind.item] + rest.cost
            elif isinstance(kind, Literal):
                shape_key, counts = (node, low, rest.shape), rest.counts
                cost = self._literal_cost(node, kind, low) + rest.cost
            else:
                shape_key, counts = (node, 0, rest.shape), rest.counts
                cost = self._node_costs[node] + rest.cost
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
                case Bytes() | Literal():
                    found[place] = None
                case Empty():
                    work.append(rest)
                case Then(first, following):
                    work.append(self._place(first, self._place(following, rest)))
                case Either(items):
                    work += [self._place(item, rest) for item in reversed(items)]
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

    def _after(self, place: Place) -> tuple[Place, ...]:
        if place.after is None:
            kind = self._nodes[place.node]
            rest = place.rest
            assert rest is not None
            if isinstance(kind, Literal) and place.low + 1 < len(kind.data):
                place.after = (self._point(place.node, place.low + 1, 0, rest),)
            else:
                place.after = self._heads(rest)
        return place.after

    def _relaxed(self, place: Place) -> Place:
        chain: list[Place] = []
        while place.loose is None:
            chain.append(place)
            assert place.rest is not None
            place = place.rest
        loose = place.loose
        for link in reversed(chain):
            is_repeat = isinstance(self._nodes[link.node], Repeat)
            high = _UNBOUNDED if is_repeat and link.high > self._reach else link.high
            loose = self._point(link.node, link.low, high, loose)
            link.loose = loose
        return loose

    def _classes_from(self, place: Place) -> list[int]:
        kind = self._nodes[place.node]
        if isinstance(kind, Literal):
            return [int(self.classes[kind.data[place.low]])]
        return self._set_classes[place.node]

    # ------------------------------------------------------------ preparation

    def _check_writable(self, root: int, vocabulary: Vocabulary) -> None:
        """Takes out whatever needs a byte that no token writes alone."""
        gone = [False] * len(self._nodes)
        nullable = [False] * len(self._nodes)
        missing: int | None = None
        for index, node in enumerate(self._nodes):
            match node:
                case Empty():
                    nullable[index] = True
                case Bytes(ranges):
                    kept = [b for low, high in ranges for b in range(low, high + 1) if b in vocabulary.writable]
                    gone[index] = not kept
                    missing = ranges[0][0] if not kept else missing
                    self._nodes[index] = Bytes(tuple((b, b) for b in kept))
                case Literal(data):
                    lacking = next((b for b in data if b not in vocabulary.writable), None)
                    gone[index] = lacking is not None
                    missing = lacking if lacking is not None else missing
                case Then(first, rest):
                    gone[index] = gone[first] or gone[rest]
                    nullable[index] = nullable[first] and nullable[rest]
                case Either(items):
                    left = tuple(item for item in items if not gone[item])
                    gone[index] = not left
                    nullable[index] = any(nullable[item] for item in left)
                    self._nodes[index] = Either(left)
                case Repeat(item, low, high):
                    low = 0 if nullable[item] else low
                    gone[index] = gone[item] and low > 0
                    nullable[index] = low == 0
                    self._nodes[index] = Empty() if gone[item] or high == 0 else Repeat(item, low, high)
        if gone[root]:
            raise ConstraintError(
                f"the constraint needs byte 0x{missing:02x}, which no token of the vocabulary writes",
                hint="another model's tokenizer may have it",
            )

    def _price(self, vocabulary: Vocabulary) -> None:
        """An upper bound on the tokens of each node's shortest text."""
        for index, node in enumerate(self._nodes):
            match node:
                case Empty():
                    cost = 0
                case Bytes():
                    cost = 1
                case Literal(data):
                    cost = len(data)
                    if len(data) <= self._exact_left and all(b in vocabulary.writable for b in data):
                        self._exact_left -= len(data)
                        self._literal_costs[index] = vocabulary.fewest_tokens(data)
                        cost = self._literal_costs[index][0]
                case Then(first, rest):
                    cost = self._node_costs[first] + self._node_costs[rest]
                case Either(items):
                    cost = min((self._node_costs[item] for item in items), default=0)
                case Repeat(item, low):
                    cost = low * self._node_costs[item]
            self._node_costs.append(min(cost, 1 << 24))

    def _literal_cost(self, index: int, node: Literal, written: int) -> int:
        costs = self._literal_costs.get(index)
        return len(node.data) - written if costs is None else costs[written]

    def _split_bytes(self) -> None:
        """Byte classes: two bytes share one when every set holds both or neither, and no literal holds either."""
        signature = [0] * 256
        bit = 1
        alone: set[int] = set()
        sets: dict[int, list[int]] = {}
        for index, node in enumerate(self._nodes):
            if isinstance(node, Literal):
                alone.update(node.data)
            elif isinstance(node, Bytes):
                sets[index] = [low for low, _ in node.ranges]
        for members in {tuple(found) for found in sets.values()}:
            for byte in members:
                signature[byte] |= bit
            bit <<= 1
        for byte in alone:
            signature[byte] |= bit << byte
        numbers: dict[int, int] = {}
        classes = [numbers.setdefault(mark, len(numbers)) for mark in signature]
        self.classes = np.array(classes, np.uint8)
        self.class_count = len(numbers)
        self._set_classes = {index: sorted({classes[b] for b in found}) for index, found in sets.items()}
        counts = np.bincount(self.classes)
        self._single: dict[int, int] = {}
        for byte, byte_class in enumerate(classes):
            if counts[byte_class] == 1:
                self._single[byte_class] = byte


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
