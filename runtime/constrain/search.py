"""Looking for a text of a language anywhere in a stream of bytes: what a stop regex does.

A match may begin at every byte, so the automaton runs from each of them at once; runs that have come to the same
state go on as one, the earliest. The first match that is complete counts, whole or not: `a+` stops at the first a.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from latticework.lang.errors import ConstraintError
from latticework.runtime.constrain.places import State

if TYPE_CHECKING:
    from latticework.runtime.constrain.automaton import Automaton

MAX_RUNS = 256


class AutomatonSearch:
    """See `base.Search`."""

    __slots__ = ("_at", "_automaton", "_runs")

    def __init__(self, automaton: Automaton) -> None:
        if automaton.states.start.is_complete:
            raise ConstraintError(
                "stop_regex matches the empty text, so every output would end before it begins",
                field="stop_regex",
                hint="use + instead of *",
            )
        self._automaton = automaton
        self._runs: dict[State, int] = {}  # where each began, by the state it has come to
        self._at = 0

    def feed(self, byte: int) -> int | None:
        automaton = self._automaton
        runs = self._runs
        runs.setdefault(automaton.states.start, self._at)
        self._at += 1
        after: dict[State, int] = {}
        states = automaton.states
        if not self._at & 63:
            automaton.tidy()
        for state, began in runs.items():
            following = states.step(states.adopt(state), byte)
            if following is not None:
                after[following] = min(began, after.get(following, began))
        if len(after) > MAX_RUNS:
            raise ConstraintError(
                f"stop_regex has more than {MAX_RUNS} matches under way at once",
                field="stop_regex",
                hint="bound what it repeats more narrowly, or use * and + instead of counts",
            )
        self._runs = after
        complete = [began for state, began in after.items() if state.is_complete]
        return self._at - min(complete) if complete else None

    @property
    def held(self) -> int:
        return self._at - min(self._runs.values(), default=self._at)

    def copy(self) -> AutomatonSearch:
        twin = AutomatonSearch(self._automaton)
        twin._runs, twin._at = dict(self._runs), self._at
        return twin
