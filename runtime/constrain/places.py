"""A rule graph run as a lazily built byte DFA.

A *state* is a set of places (`place.py`). States, their transitions and their costs appear when first needed. Every
place has a non-empty language, so a state is live, and the dead state is number 0.

Two reductions keep the sets small: a place that another one covers (the same point, looser counters) is dropped,
and `relax` forgets upper bounds that one token cannot reach (`rounds.py`), so `.{0,100000}` has one mask.
"""

from __future__ import annotations

from collections.abc import Generator, ItemsView, Iterable

import numpy as np
from numpy.typing import NDArray

from latticework.runtime.constrain.expressions import Classes, Expressions
from latticework.runtime.constrain.place import Place, Places, without_covered
from latticework.runtime.constrain.vocabulary import Vocabulary

DEAD = 0
UNKNOWN = -1  # a transition that was not computed yet
_MOST_TOKENS = 1 << 30  # costs stop here; budgets end far below


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
        self._root = root
        split = Classes(expressions, root)
        self.classes = split.classes
        self.class_count = split.count
        self._single_byte = split.single_byte
        self._bytes_of_class = split.bytes_of
        self._ascii, self._ascii_weights = np.unique(split.classes[:0x80], return_counts=True)
        self.places = Places(expressions, vocabulary, split)
        self.generation = 0
        self._forget()

    # ------------------------------------------------------------ states

    def reset(self) -> None:
        """Forgets every state; those still held elsewhere stay usable through `adopt`."""
        self.generation += 1
        self._forget()

    def _forget(self) -> None:
        self.places.forget()
        self._by_places: dict[frozenset[Place], State] = {}
        self.states: list[State] = []
        self.table = np.full((64, self.class_count), UNKNOWN, np.int32)
        self.accepts = np.zeros(64, bool)
        self.costs = np.zeros(64, np.int32)
        self._arrows: dict[int, dict[int, int]] = {}
        dead = State(frozenset(), False, 0)
        self._number(dead)
        self.table[DEAD] = DEAD
        self.start = self._state(self.places.heads(self.places.start(self._root, self.places.end)))

    @property
    def size(self) -> int:
        """Number of states, the dead one included."""
        return len(self.states)

    @property
    def nbytes(self) -> int:
        """Memory held, roughly."""
        return self.table.nbytes + self.costs.nbytes + 400 * len(self.states) + 500 * len(self.places)

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
        steps = self.follow_in_steps(at, symbols)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                following: NDArray[np.int32] = end.value
                return following

    def follow_in_steps(
        self, at: NDArray[np.integer], symbols: NDArray[np.integer]
    ) -> Generator[None, None, NDArray[np.int32]]:
        """`follow`, one new transition a step."""
        cells = at.astype(np.int64) * self.class_count + symbols
        following = self.table.ravel()[cells]
        if following.min(initial=0) < 0:
            for cell in set(cells[following < 0].tolist()):
                self._find(*divmod(cell, self.class_count))
                yield
            following = self.table.ravel()[cells]  # the table may have moved
        return following

    def relax(self, state: State) -> State:
        """A state with the same tokens allowed and the same costs after each, shared by states that differ only in
        counts that one token cannot use up."""
        if state.relaxed is None:
            state.relaxed = self._state(tuple(self.places.relaxed(place) for place in state.places))
        return state.relaxed

    def fill(self, index: int) -> NDArray[np.int32]:
        """All transitions of one state: int32[C]."""
        if (self.table[index] == UNKNOWN).any():
            taken = {byte_class for place in self.states[index].places for byte_class in self.places.taken(place)}
            for byte_class in taken:
                self.next(index, byte_class)
            row = self.table[index]
            row[row == UNKNOWN] = DEAD
        return self.table[index]

    def _find(self, index: int, byte_class: int) -> int:
        """Computes one transition."""
        groups = [after for place in self.states[index].places if (after := self.places.after(place, byte_class))]
        if not groups:
            following = DEAD
        elif len(groups) == 1:
            following = self._state(groups[0]).index
        else:
            following = self._state([place for after in groups for place in after]).index
        self.table[index, byte_class] = following  # only now: making the state may have moved the table
        return following

    def arrows(self, index: int) -> dict[int, int]:
        """The bytes that go on from a state, each with the state after it."""
        found = self._arrows.get(index)
        if found is None:
            row = self.fill(index)
            live = row.nonzero()[0].tolist()
            found = self._arrows[index] = {
                byte: after
                for number, after in zip(live, row[live].tolist() if live else [], strict=True)
                for byte in self._bytes_of_class[number]
            }
        return found

    def has_arrows(self, index: int) -> bool:
        """Whether `arrows` costs nothing any more."""
        return index in self._arrows

    def live_bytes(self, index: int) -> ItemsView[int, int]:
        """`arrows`, as pairs."""
        return self.arrows(index).items()

    def goes_on(self, index: int) -> NDArray[np.bool_]:
        """bool[256], the bytes that go on from a state. Needs no transition."""
        if index in self._arrows:
            return (self.table[index] != DEAD)[self.classes]
        live = np.zeros(self.class_count, bool)
        for place in self.states[index].places:
            live[list(self.places.taken(place))] = True
        return live[self.classes]

    def usual(self, index: int) -> int:
        """The state that most ASCII bytes lead to; DEAD where none goes on. Needs their transitions only."""
        after = self.follow(np.full(len(self._ascii), index), self._ascii)
        found, which = np.unique(after, return_inverse=True)
        weights = np.bincount(which, weights=self._ascii_weights)
        weights[found == DEAD] = 0
        return int(found[weights.argmax()])

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
            kept = without_covered(given)
            state = self._by_places.get(kept)
            if state is None:
                state = State(kept, self.places.end in kept, min(place.cost for place in kept))
                self._number(state)
                self._by_places[kept] = state
            self._by_places[given] = state
        return state


__all__ = ["DEAD", "UNKNOWN", "State", "States"]
