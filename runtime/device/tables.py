"""Which automata live on the device, and where among its states.

    wanted ──▶ tabulated in pieces between steps ──▶ placed ──▶ dropped for another, when no row is in it
                                                └──▶ refused: too many states; its sequences stay with the host

Owner of the device's states: each belongs to one automaton or is free. This file knows keys and numbers of states; what
a table is, is runtime/constrain/tabulate.py's business.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from latticework.lang.errors import LatticeworkError
from latticework.runtime.constrain.automaton import Automaton
from latticework.runtime.constrain.base import Pause
from latticework.runtime.constrain.tabulate import MOST_STATES, Table, tabulate
from latticework.runtime.schedule.automata import Automata
from latticework.runtime.schedule.pieces import Job, Pieces, gone

MOST_REMEMBERED = 4096  # automata without a table, whose keys are kept

NO_TABLE = "constraint that cannot be tabulated"
UNDER_WAY = "constraint that is being tabulated"
TOO_LARGE = "constraint with too many states"
NO_ROOM = "no room for the constraint's table"


class Device(Protocol):
    """Where tables are put: see `DecodeSteps`."""

    states: int

    def put_table(self, table: Table, base: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Placed:
    """A table on the device: its states are number `base` and those after it."""

    table: Table
    base: int

    @property
    def end(self) -> int:
        return self.base + len(self.table.transitions)


class Tables:
    """Owner of the tables, and of the jobs that make them.

    pieces: does those. pace: what they call where they may pause. is_used: whether a row is in the automaton of a key.
    """

    def __init__(
        self, device: Device, automata: Automata, pieces: Pieces, pace: Pause, is_used: Callable[[str], bool]
    ) -> None:
        self._device = device
        self._automata = automata
        self._pieces = pieces
        self._pace = pace
        self._is_used = is_used
        self._making: dict[str, Job[Table | None]] = {}
        self._placed: OrderedDict[str, Placed] = OrderedDict()  # the least recently used first
        self._refused: OrderedDict[str, str] = OrderedDict()  # keys, and why they have none
        self._wanted: set[str] = set()  # in this step

    def __len__(self) -> int:
        return len(self._placed)

    def begin(self) -> None:
        """A step begins."""
        self._wanted.clear()
        for key in [key for key in self._making if key not in self._automata]:
            del self._making[key]

    def find(self, key: str) -> Placed | str:
        """The table of an automaton, which has users; or why it is not there, perhaps not yet."""
        found = self._placed.get(key)
        if found is not None:
            self._placed.move_to_end(key)
            self._wanted.add(key)
            return found
        if key in self._refused:
            return self._refused[key]
        making = self._making.get(key)
        if making is None:
            automaton = self._automata.automaton(key)
            if not isinstance(automaton, Automaton):
                return self._refuse(key, NO_TABLE)
            compute = partial(tabulate, automaton, min(MOST_STATES, self._device.states), self._pace)
            making = self._making[key] = self._pieces.start(
                compute, "tabulating a constraint", partial(self._fault, key)
            )
        return self._made(key, making) if making.is_done else UNDER_WAY

    def _made(self, key: str, making: Job[Table | None]) -> Placed | str:
        """What has come of a table: it is placed now, or waits for room."""
        if not making.succeeded:  # too ambiguous, say; the host meets that only where a text comes there
            return self._refuse(key, NO_TABLE)
        table = making.result()
        if table is None:
            return self._refuse(key, TOO_LARGE)
        base = self._room(len(table.transitions))
        if base is None:
            return NO_ROOM
        self._device.put_table(table, base)
        placed = self._placed[key] = Placed(table, base)
        self._wanted.add(key)
        del self._making[key]
        self._automata.grown(key)
        return placed

    def _fault(self, key: str) -> LatticeworkError | None:
        """Nobody can want the table of an automaton that was dropped."""
        return None if key in self._automata else gone()

    def _refuse(self, key: str, reason: str) -> str:
        self._making.pop(key, None)
        self._refused[key] = reason
        if len(self._refused) > MOST_REMEMBERED:
            self._refused.popitem(last=False)
        return reason

    def _room(self, states: int) -> int | None:
        """Where so many states are free; the tables used longest ago go until there are."""
        idle = [key for key in self._placed if key not in self._wanted and not self._is_used(key)]
        base = _gap(list(self._placed.values()), states, self._device.states)
        while base is None and idle:
            del self._placed[idle.pop(0)]
            base = _gap(list(self._placed.values()), states, self._device.states)
        return base

    def check(self) -> None:
        """Proves that every state has one owner."""
        at = 0
        for placed in sorted(self._placed.values(), key=lambda one: one.base):
            assert at <= placed.base
            at = placed.end
        assert at <= self._device.states


def _gap(placed: list[Placed], states: int, most: int) -> int | None:
    """The first place for so many states."""
    at = 0
    for one in sorted(placed, key=lambda one: one.base):
        if one.base - at >= states:
            return at
        at = one.end
    return at if most - at >= states else None
