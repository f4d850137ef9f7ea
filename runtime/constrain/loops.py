"""Where an automaton loops or counts: states from which many characters lead one way.

A *chain* is the states after 0, 1, 2, … characters of one set, whichever of them are written: the state itself again
in a loop, the same text with fewer characters left in `.{0,40}`, the dead state beyond the last. Tokens made of
those characters alone need no walk: their number of characters says where they end. States are compared, not
expressions, so what is found is exact whatever the constraint looks like. Characters of several bytes join a count
where every place of a state writes them as it writes a byte that is counted: for a comparison, each step would need
the many states inside them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from latticework.runtime.constrain.characters import Characters, Runs
from latticework.runtime.constrain.place import NOTHING, SOMETHING, Place
from latticework.runtime.constrain.places import DEAD, States

_MIN_SHARE = 0.1  # characters with less weight than this leave little to walk anyway
_KEPT = 4096  # states whose targets are kept


class Chain(NamedTuple):
    """The tokens made of one set of characters, and the states after 0, 1, … of them."""

    runs: Runs
    states: NDArray[np.int32]  # [runs.longest + 1]


class Loops:
    """Finds the chains of one automaton. Characters of the same byte classes are one *kind*; K kinds."""

    def __init__(self, states: States, characters: Characters) -> None:
        self._states = states
        self._characters = characters
        classes = states.classes.astype(np.int64)
        symbols = classes[characters.texts]  # [C, 4]
        symbols[np.arange(4) >= characters.lengths[:, None]] = -1
        keys = ((symbols + 1) << (9 * np.arange(4))).sum(axis=1)
        _, first, self._kind = np.unique(keys, return_index=True, return_inverse=True)
        self._weights = np.bincount(self._kind, weights=characters.weights, minlength=len(first))
        self._enough = _MIN_SHARE * self._weights.sum()
        lengths = characters.lengths[first]
        self._short = np.flatnonzero(lengths == 1)  # kinds of one byte
        self._short_weights = self._weights[self._short]
        self._short_classes, self._short_class = np.unique(symbols[first[self._short], 0], return_inverse=True)
        self._long = np.flatnonzero(lengths > 1)
        self._long_symbols = symbols[first[self._long]]
        self._long_texts = [tuple(symbol for symbol in text if symbol >= 0) for text in self._long_symbols.tolist()]
        self._generation = -1
        self.forget()

    def forget(self) -> None:
        """Drops all that can be found again."""
        self._after: dict[int, NDArray[np.int32]] = {}
        self._next: dict[tuple[bytes, int], int | None] = {}
        self._runs: dict[tuple[int, bytes, bytes], Runs] = {}
        self._known_fates: dict[
            tuple[int, frozenset[tuple[int, int, int]]], tuple[NDArray[np.bool_], NDArray[np.bool_]]
        ] = {}
        self._written: dict[tuple[int, int, int], NDArray[np.int8]] = {}

    @property
    def nbytes(self) -> int:
        """Memory held, roughly; runs are the vocabulary's to count."""
        size = len(self._long)
        fates = (2 * size + 500) * len(self._known_fates) + (size + 300) * len(self._written)
        return (4 * size + 200) * len(self._after) + 200 * len(self._next) + fates

    def chain(self, base: int, index: int) -> Chain | None:
        """The chain from state `index` at the trie node `base` on; None where there is none worth having."""
        if (
            self._generation != self._states.generation
            or len(self._after) + len(self._next) + len(self._known_fates) > _KEPT
        ):
            self.forget()
            self._generation = self._states.generation
        short = self._after_short(index)
        loops = short == index
        is_loop = self._short_weights[loops].sum() >= self._enough
        if not is_loop:
            found, which = np.unique(short, return_inverse=True)
            weights = np.bincount(which, weights=self._short_weights)
            weights[found == DEAD] = 0
            best = int(weights.argmax())
            if weights[best] < self._enough:
                return None
            loops = short == found[best]
        members = np.zeros(len(self._weights), bool)
        members[self._short] = loops
        dead = np.zeros(len(self._weights), bool)
        if is_loop:
            long = self._after_long(index)
            members[self._long], dead[self._long] = long == index, long == DEAD
            runs = self._runs_of(base, members, dead)
            return Chain(runs, np.full(runs.longest + 1, index, np.int32))
        symbol = int(self._short_classes[self._short_class[loops.argmax()]])
        members[self._long], dead[self._long] = self._fates(index, symbol)
        return self._counting(base, index, members, dead, symbol)

    def _runs_of(self, base: int, members: NDArray[np.bool_], dead: NDArray[np.bool_]) -> Runs:
        key = (base, members.tobytes(), dead.tobytes())
        runs = self._runs.get(key)
        if runs is None:
            runs = self._runs[key] = self._characters.runs(base, members[self._kind], dead[self._kind])
        return runs

    def _counting(
        self, base: int, index: int, members: NDArray[np.bool_], dead: NDArray[np.bool_], symbol: int
    ) -> Chain | None:
        """The chain of `members`, kinds that lead from state `index` to one other; None where they do not always.
        dead: those that lead nowhere from it. symbol: the class of one of the members that is one byte."""
        longest = self._characters.reach(base, members[self._kind]).longest
        states = np.full(longest + 1, index, np.int32)
        short = members[self._short]
        key = short.tobytes()
        classes: list[int] = self._short_classes[np.unique(self._short_class[short])].tolist()
        members, dead = members.copy(), dead.copy()
        for count in range(1, len(states)):
            following = self._following(key, classes, index)
            if following is None:
                return None
            states[count] = following
            if following in (DEAD, index):
                states[count:] = following
                break
            index = following
            alike, nothing = self._fates(index, symbol)
            members[self._long] &= alike
            dead[self._long] &= nothing
        runs = self._runs_of(base, members, dead)
        return Chain(runs, states[: runs.longest + 1])

    def _fates(self, index: int, symbol: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """The kinds of several bytes that surely lead where the byte class `symbol` leads: at each place, each writes
        nothing or just what that writes; and those that lead nowhere."""
        places = self._states.states[index].places
        key = (symbol, frozenset((place.node, place.low, place.high) for place in places))
        found = self._known_fates.get(key)
        if found is None:
            alike, nothing = np.ones(len(self._long), bool), np.ones(len(self._long), bool)
            for place in places:
                wanted, written = self._states.places.writes(place, (symbol,)), self._writes(place)
                alike &= written == wanted if wanted != SOMETHING else False
                nothing &= written == NOTHING
            found = self._known_fates[key] = alike, nothing
        return found

    def _writes(self, place: Place) -> NDArray[np.int8]:
        """What a head writes of each kind of several bytes."""
        key = (place.node, place.low, place.high)
        found = self._written.get(key)
        if found is None:
            writes = self._states.places.writes
            found = np.array([writes(place, symbols) for symbols in self._long_texts], np.int8)
            self._written[key] = found
        return found

    def _following(self, key: bytes, classes: list[int], index: int) -> int | None:
        """The state after a byte of any of `classes`, those of the kinds `key`; None when they lead to several."""
        found = self._next.get((key, index), -1)
        if found == -1:
            after = {self._states.next(index, byte_class) for byte_class in classes}
            found = self._next[key, index] = after.pop() if len(after) == 1 else None
        return found

    def _after_short(self, index: int) -> NDArray[np.int32]:
        """The state after each kind of one byte."""
        by_class = self._states.follow(np.full(len(self._short_classes), index), self._short_classes)
        return by_class[self._short_class]

    def _after_long(self, index: int) -> NDArray[np.int32]:
        """The state after each kind of several bytes."""
        at = self._after.get(index)
        if at is None:
            follow = self._states.follow
            at = follow(np.full(len(self._long), index), self._long_symbols[:, 0])
            live = np.arange(len(at))
            for position in range(1, 4):
                live = live[(at[live] != DEAD) & (self._long_symbols[live, position] >= 0)]
                if not len(live):
                    break
                at[live] = follow(at[live], self._long_symbols[live, position])
            self._after[index] = at  # whole: following may pause
        return at


__all__ = ["Chain", "Loops"]
