"""A constraint as one table of byte transitions, for devices that walk it themselves (kernels/automaton.py).

What the host finds step by step is found whole, up to a number of states: regular constraints, and structured ones that
come to few configs (closed schemas; recursion, open objects and long counts have too many, and stay on the host).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latticework.runtime.constrain.automaton import Automaton
from latticework.runtime.constrain.base import Pause, never_pause
from latticework.runtime.constrain.frames import Config

MOST_STATES = 4096  # 4 MiB of transitions
MOST_COST = 1 << 29  # beyond every budget


@dataclass(frozen=True, slots=True)
class Table:
    """transitions: int32 [S, 256], the next state by byte, -1 where no text goes on; accepts: bool [S], the text may
    end here; costs: int32 [S], tokens that surely suffice until it may. The text begins in state 0."""

    transitions: NDArray[np.int32]
    accepts: NDArray[np.bool_]
    costs: NDArray[np.int32]

    def walk(self, text: bytes, state: int = 0) -> int:
        """The state after `text`; -1 where no text goes on so."""
        for byte in text:
            if state < 0:
                break
            state = self.transitions.item(state, byte)
        return state

    def need(self) -> NDArray[np.int32]:
        """int32 [S]: with so many tokens left every token that a state allows leaves enough to finish, by a bound: the
        costliest of all states that a text from there may come to, and that token."""
        reached = self.costs.copy()
        onward = [np.unique(row[row >= 0]) for row in self.transitions]
        is_changed = True
        while is_changed:
            is_changed = False
            for state in reversed(range(len(onward))):  # states are numbered as they are met: most lead to later ones
                most = reached[onward[state]].max(initial=0)
                if most > reached[state]:
                    reached[state] = most
                    is_changed = True
        return reached + 1


def tabulate(automaton: Automaton, most_states: int = MOST_STATES, pause: Pause = never_pause) -> Table | None:
    """The automaton's table; None if it has more states. pause: called between states. What the automaton forgets
    meanwhile is met again as other states: the table has more of them, and the same texts."""
    frames = automaton.frames
    configs = [frames.start]
    numbers: dict[Config, int] = {frames.start: 0}
    rows: list[list[int]] = []
    while len(rows) < len(configs):
        if len(configs) > most_states:
            return None
        here = configs[len(rows)]
        row = [-1] * 256
        for byte in range(256):
            following = frames.step(here, byte)
            if following is not None:
                row[byte] = numbers.setdefault(following, len(configs))
                if row[byte] == len(configs):
                    configs.append(following)
        rows.append(row)
        pause()
    return Table(
        np.array(rows, np.int32),
        np.array([config.is_complete for config in configs]),
        np.array([min(config.cost, MOST_COST) for config in configs], np.int32),
    )
