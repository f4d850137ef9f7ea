"""How many characters the texts of a `Machine` have: which of its states can still end within the bounds.

An automaton of n states that accepts some text of at least k characters accepts one of fewer than k + n, so the
shortest such length is all there is to know about a state; the table of them is small and made once.
"""

from __future__ import annotations

import numpy as np

from latticework.lang.errors import ConstraintError
from latticework.runtime.constrain.rules import Machine

NEVER_ENDS = 1 << 30
_MAX_TABLE = 20_000_000  # entries


class Lengths:
    """shortest(state, k): characters of the shortest text of at least k that the state accepts."""

    def __init__(self, machine: Machine) -> None:
        self.low = machine.low
        self.high = machine.high
        size = len(machine.states)
        if (self.low + 1) * size > _MAX_TABLE:
            raise ConstraintError(
                f"a pattern of {size} states with at least {self.low} characters is too large",
                hint="lower minLength, or simplify the pattern",
            )
        sources = [index for index, state in enumerate(machine.states) for _ in state.moves]
        targets = np.array([target for state in machine.states for _, target in state.moves], np.int64)
        starts = np.searchsorted(sources, np.arange(size)) if sources else np.zeros(size, np.int64)
        has_moves = np.array([bool(state.moves) for state in machine.states])
        row = self._distances(machine)
        rows = [row]
        for _ in range(self.low):
            following = np.full(size, NEVER_ENDS, np.int64)
            if len(targets):
                following[has_moves] = 1 + np.minimum.reduceat(row[targets], starts[has_moves])
            row = np.minimum(following, NEVER_ENDS)
            rows.append(row)
        self._table = np.stack(rows).tolist() if self.low else [row.tolist()]
        self.furthest = int(max((d for d in rows[0].tolist() if d < NEVER_ENDS), default=0))

    def shortest(self, state: int, least: int) -> int:
        return self._table[min(max(least, 0), self.low)][state]

    def is_live(self, state: int, used: int) -> bool:
        """Whether a text that has come to `state` with `used` characters can end within the bounds."""
        length = self.shortest(state, self.low - used)
        return length < NEVER_ENDS and (self.high is None or used + length <= self.high)

    def count(self, used: int) -> int:
        """`used`, or the least number with the same future."""
        return min(used, self.low) if self.high is None else used

    @staticmethod
    def _distances(machine: Machine) -> np.ndarray:
        before: list[list[int]] = [[] for _ in machine.states]
        for index, state in enumerate(machine.states):
            for _, target in state.moves:
                before[target].append(index)
        distances = [0 if state.accepts else NEVER_ENDS for state in machine.states]
        level = [index for index, state in enumerate(machine.states) if state.accepts]
        while level:
            reached: list[int] = []
            for index in level:
                for source in before[index]:
                    if distances[source] == NEVER_ENDS:
                        distances[source] = distances[index] + 1
                        reached.append(source)
            level = reached
        return np.array(distances, np.int64)
