"""The sequences that wait, and whose turn it is: by priority, then by tenant, then by what is cached.

    priority 1   tenant a  ▸ ▸ ▸          every tenant's line is in order of arrival
    priority 0   tenant a  ▸ ▸
                 tenant b  ▸ ▸ ▸ ▸ ▸      the tenant with the most credit goes first

Tenants share by deficit round robin (Shreedhar and Varghese 1995), paid afterwards: every token computed costs its
tenant one, and when no tenant that waits has credit left, all get the same, as much as the first of them lacks. Who is
idle keeps its debts, and saves up credit for a few prompts. This file knows no pages and no batch.
"""

from __future__ import annotations

import heapq
import itertools
import statistics
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from latticework.runtime.schedule.policy import admission_order
from latticework.runtime.schedule.sequence import Sequence

WINDOW = 64  # waiting sequences looked at in one step
SAVED_TOKENS = 2048  # credit a tenant has at most
LEAD_TOKENS = 256  # a prompt that has begun is put aside only for a tenant with so much more credit
LEAST_PATIENCE = 4  # steps
REMEMBERED_TENANTS = 1024  # with nothing open
REMEMBERED_WAITS = 63
COMPANY_STEPS = 1000  # for so long another tenant's next request is expected


class _Turn(NamedTuple):
    """A tenant's place among those that wait at a priority: least taken first, then who came first.
    May be out of date: it has taken more since, so its true place is never before this one."""

    taken: int
    first: int
    name: str


@dataclass(slots=True)
class _Tenant:
    """taken: tokens computed for it, and given to it but lost while it was idle. open: sequences that wait or run.
    turns: its place at every priority at which it waits. waits: how many steps its last ones waited for admission."""

    taken: int
    open: int = 0
    turns: dict[int, _Turn] = field(default_factory=dict)
    waits: deque[int] = field(default_factory=lambda: deque(maxlen=REMEMBERED_WAITS))

    @property
    def patience(self) -> float:
        """Steps after which a sequence goes before all that are cheaper: so none waits three times the usual."""
        return max(LEAST_PATIENCE, 2 * statistics.median(self.waits)) if self.waits else LEAST_PATIENCE


def _arrival(sequence: Sequence) -> int:
    return sequence.order


class Waiting:
    """Owner of the lines and of every tenant's account."""

    def __init__(self) -> None:
        self._lines: dict[int, dict[str, list[Sequence]]] = {}  # priority, tenant -> in order of arrival
        self._turns: dict[int, list[_Turn]] = {}  # priority -> sorted
        self._tenants: dict[str, _Tenant] = {}
        self._given = 0  # tokens every tenant was given so far
        self._remembered = REMEMBERED_TENANTS
        self._latest: tuple[str, int] | None = None  # whose request came last, and in which step
        self._previous: tuple[str, int] | None = None  # the last one of another tenant
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Sequence]:
        """All that wait, in no particular order."""
        return (sequence for tenants in self._lines.values() for line in tenants.values() for sequence in line)

    # ------------------------------------------------------------ who is there

    def open(self, sequence: Sequence) -> None:
        """A sequence that has just arrived."""
        name = sequence.request.tenant
        if name not in self._tenants:
            self._forget_idle()
            self._tenants[name] = _Tenant(self._given - SAVED_TOKENS)
        self._tenants[name].open += 1
        if self._latest is not None and self._latest[0] != name:
            self._previous = self._latest
        self._latest = name, sequence.waiting_since
        self.add(sequence)

    def _forget_idle(self) -> None:
        if len(self._tenants) >= self._remembered:
            self._tenants = {name: tenant for name, tenant in self._tenants.items() if tenant.open}
            self._remembered = max(REMEMBERED_TENANTS, 2 * len(self._tenants))

    def add(self, sequence: Sequence) -> None:
        """Puts a sequence in its place: an older one that gave way comes before those that arrived later."""
        name, priority = sequence.request.tenant, sequence.request.priority
        tenants = self._lines.setdefault(priority, {})
        if name not in tenants:
            tenants[name] = []
            tenant = self._tenants[name]
            tenant.turns[priority] = _Turn(tenant.taken, sequence.order, name)
            insort(self._turns.setdefault(priority, []), tenant.turns[priority])
        insort(tenants[name], sequence, key=_arrival)
        self._size += 1

    def remove(self, sequence: Sequence) -> None:
        name, priority = sequence.request.tenant, sequence.request.priority
        tenants = self._lines[priority]
        line = tenants[name]
        at = bisect_left(line, sequence.order, key=_arrival)
        assert line[at] is sequence
        del line[at]
        self._size -= 1
        if not line:
            del tenants[name]
            turns = self._turns[priority]
            del turns[bisect_left(turns, self._tenants[name].turns.pop(priority))]
            if not tenants:
                del self._lines[priority], self._turns[priority]

    def admitted(self, sequence: Sequence, waited: int) -> None:
        """Takes a sequence from its line; `waited`: steps, counted the first time it is admitted."""
        self.remove(sequence)
        if sequence.cached is None:
            self._tenants[sequence.request.tenant].waits.append(waited)

    def closed(self, sequence: Sequence) -> None:
        """A sequence has ended, wherever it was. A tenant that has nothing open and owes nothing is forgotten."""
        name = sequence.request.tenant
        tenant = self._tenants[name]
        tenant.open -= 1
        if not tenant.open and self.credit(name) == SAVED_TOKENS:
            del self._tenants[name]

    def has_company(self, tenant: str, now: int) -> bool:
        """Some other tenant waits, or has asked for something in the last `COMPANY_STEPS` steps."""
        if any(name != tenant for names in self._lines.values() for name in itertools.islice(names, 2)):
            return True
        other = self._previous if self._latest is not None and self._latest[0] == tenant else self._latest
        return other is not None and now - other[1] <= COMPANY_STEPS

    # ------------------------------------------------------------ whose turn it is

    def credit(self, tenant: str) -> int:
        """Tokens it may have computed before it is even with whoever is served all the time; below 0: what it had
        too much."""
        return min(SAVED_TOKENS, self._given - self._tenants[tenant].taken)

    def standing(self, tenant: str) -> int:
        """Credit in steps so large that tenants served alike mostly have the same."""
        return self.credit(tenant) // LEAD_TOKENS

    def turn(self) -> tuple[int, str] | None:
        """The highest priority that waits, and the tenant of it that has the most credit."""
        if not self._lines:
            return None
        priority = max(self._lines)
        turns = self._turns[priority]
        while (turn := self._now(turns[0])) != turns[0]:
            del turns[0]
            insort(turns, turn)
            self._tenants[turn.name].turns[priority] = turn
        self._given = max(self._given, turn.taken)  # so that the first of those that wait lacks nothing
        return priority, turn.name

    def _now(self, turn: _Turn) -> _Turn:
        return turn._replace(taken=self._tenants[turn.name].taken)

    def families(
        self, cached: Callable[[Sequence], int], now: int, age_tokens: int, has_turn: Callable[[int, str], bool]
    ) -> Iterator[list[Sequence]]:
        """Siblings together, in the order in which they are to be admitted; at most WINDOW sequences a call.

        What is charged between two turns counts. cached: tokens of a sequence that need not be computed. now: number
        of this step. age_tokens: how many cached tokens a step of waiting outweighs. has_turn(priority, tenant):
        asked before each turn; once it is false the tenant has no more turns in this call.
        """
        self.turn()
        left = WINDOW
        for priority in sorted(self._lines, reverse=True):
            names = self._lines[priority]
            share = max(1, left // len(names))
            turns = self._turns[priority].copy()  # sorted, so a heap
            lines: dict[str, deque[list[Sequence]]] = {}
            while turns:
                last, turn = turns[0], self._now(turns[0])
                if turn != last:
                    heapq.heapreplace(turns, turn)
                    continue
                heapq.heappop(turns)
                name = turn.name
                if not has_turn(priority, name):
                    continue
                if name not in lines:
                    if left <= 0:
                        continue
                    window = names[name][:share]
                    patience = self._tenants[name].patience
                    lines[name] = deque(admission_order(window, cached, now, age_tokens, patience))
                    left -= len(window)
                family = lines[name].popleft()
                if lines[name]:
                    heapq.heappush(turns, turn)
                yield family
            if left <= 0:
                return

    def charge(self, sequence: Sequence, tokens: int) -> None:
        tenant = self._tenants[sequence.request.tenant]
        tenant.taken = max(tenant.taken, self._given - SAVED_TOKENS) + tokens

    def check(self) -> None:
        """Proves that the lines are in order and nobody is counted twice."""
        assert self._size == sum(1 for _ in self)
        assert self._turns.keys() == self._lines.keys()
        for priority, tenants in self._lines.items():
            for name, line in tenants.items():
                assert line, "an empty line is kept"
                assert all(s.request.priority == priority and s.request.tenant == name for s in line)
                assert all(a.order < b.order for a, b in itertools.pairwise(line))
            turns = [self._tenants[name].turns[priority] for name in tenants]
            assert self._turns[priority] == sorted(turns)
            assert all(turn.taken <= self._tenants[turn.name].taken for turn in turns)
        for name, tenant in self._tenants.items():
            waits = {priority: len(t[name]) for priority, t in self._lines.items() if name in t}
            assert tenant.turns.keys() == waits.keys()
            assert tenant.open >= sum(waits.values())
