"""Where an automaton loops or counts: states from which many characters lead one way.

A *chain* is the states after 0, 1, 2, … characters of one set, whichever of them are written: the state itself again
in a loop, the same text with fewer characters left in `.{0,40}`, the dead state beyond the last. Tokens made of
those characters alone need no walk: their number of characters says where they end. States are compared, not
expressions, so what is found is exact whatever the constraint looks like. Characters of several bytes join in loops
only: beside a count, each step would need the many states inside them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from latticework.runtime.constrain.characters import Characters, Runs
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
        self._short_symbols = symbols[first[self._short], 0]
        self._long = np.flatnonzero(lengths > 1)
        self._long_symbols = symbols[first[self._long]]
        self._generation = -1
        self._forget()

    def _forget(self) -> None:
        self._after: dict[int, NDArray[np.int32]] = {}
        self._next: dict[tuple[bytes, int], int | None] = {}
        self._runs: dict[tuple[int, bytes], Runs] = {}

    @property
    def nbytes(self) -> int:
        """Memory held, roughly; runs are the vocabulary's to count."""
        return len(self._after) * (4 * len(self._long) + 200) + 200 * len(self._next)

    def forget(self) -> None:
        """Drops all that can be found again."""
        self._forget()

    def chain(self, base: int, index: int) -> Chain | None:
        """The chain from state `index` at the trie node `base` on; None where there is none worth having."""
        if self._generation != self._states.generation or len(self._after) + len(self._next) > _KEPT:
            self._forget()
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
        if is_loop:
            members[self._long] = self._after_long(index) == index
        key = members.tobytes()
        runs = self._runs.get((base, key))
        if runs is None:
            runs = self._runs[base, key] = self._characters.runs(base, members[self._kind])
        states = np.full(runs.longest + 1, index, np.int32)
        if is_loop:
            return Chain(runs, states)
        for count in range(1, len(states)):
            following = self._following(key, loops, index)
            if following is None:
                return None
            states[count] = following
            if following in (DEAD, index):
                states[count:] = following
                break
            index = following
        return Chain(runs, states)

    def _following(self, key: bytes, members: NDArray[np.bool_], index: int) -> int | None:
        """The state after any of `members`, kinds of one byte; None when they lead to several."""
        found = self._next.get((key, index), -1)
        if found == -1:
            after = self._after_short(index)[members]
            following = int(after[0])
            found = self._next[key, index] = following if (after == following).all() else None
        return found

    def _after_short(self, index: int) -> NDArray[np.int32]:
        """The state after each kind of one byte."""
        if not self._states.is_filled[index]:
            self._states.fill(index)
        return self._states.table[index, self._short_symbols]

    def _after_long(self, index: int) -> NDArray[np.int32]:
        """The state after each kind of several bytes."""
        at = self._after.get(index)
        if at is None:
            states = self._states
            at = states.table[index, self._long_symbols[:, 0]]
            live = np.arange(len(at))
            for position in range(1, 4):
                live = live[(at[live] != DEAD) & (self._long_symbols[live, position] >= 0)]
                if not len(live):
                    break
                self._fill(at[live])
                at[live] = states.table[at[live], self._long_symbols[live, position]]
            self._after[index] = at  # whole: filling states may pause
        return at

    def _fill(self, at: NDArray[np.integer]) -> None:
        missing = at[~self._states.is_filled[at]]
        if len(missing):
            for index in np.unique(missing).tolist():
                self._states.fill(index)


__all__ = ["Chain", "Loops"]
