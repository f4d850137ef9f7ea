"""The sequences that wait, and whose turn it is: by priority, then by tenant, then by what is cached.

    priority 1   tenant a  ▸ ▸ ▸          every tenant's line is in order of arrival
    priority 0   tenant a  ▸ ▸
                 tenant b  ▸ ▸ ▸ ▸ ▸      the tenant with the most credit goes first

Tenants share by deficit round robin (Shreedhar and Varghese 1995), paid afterwards: every token computed costs its
tenant one, and when no tenant that waits has credit left, a new round begins in which each gets the same. Who is idle
when a round ends keeps its debts and no credit. This file knows no pages and no batch.
"""

from __future__ import annotations

import heapq
import itertools
import statistics
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from latticework.runtime.schedule.policy import admission_order
from latticework.runtime.schedule.sequence import Sequence

WINDOW = 64  # waiting sequences looked at in one step
ROUND_TOKENS = 512  # credit of one round
LEAST_PATIENCE = 4  # steps
REMEMBERED_TENANTS = 1024  # with nothing open
REMEMBERED_WAITS = 63


@dataclass(slots=True)
class _Tenant:
    """credit: tokens it may still have computed before others come first; below 0: what it had too much.
    open: sequences that wait or run; waiting: those that wait. waits: how many steps its last ones
    waited for admission."""

    credit: int = ROUND_TOKENS
    open: int = 0
    waiting: int = 0
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
        self._tenants: dict[str, _Tenant] = {}
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
        if name not in self._tenants and len(self._tenants) >= REMEMBERED_TENANTS:
            self._tenants = {name: tenant for name, tenant in self._tenants.items() if tenant.open}
        self._tenants.setdefault(name, _Tenant()).open += 1
        self.add(sequence)

    def add(self, sequence: Sequence) -> None:
        """Puts a sequence in its place: an older one that gave way comes before those that arrived later."""
        tenants = self._lines.setdefault(sequence.request.priority, {})
        insort(tenants.setdefault(sequence.request.tenant, []), sequence, key=_arrival)
        self._tenants[sequence.request.tenant].waiting += 1
        self._size += 1

    def remove(self, sequence: Sequence) -> None:
        request = sequence.request
        tenants = self._lines[request.priority]
        line = tenants[request.tenant]
        at = bisect_left(line, sequence.order, key=_arrival)
        assert line[at] is sequence
        del line[at]
        self._tenants[request.tenant].waiting -= 1
        self._size -= 1
        if not line:
            del tenants[request.tenant]
            if not tenants:
                del self._lines[request.priority]

    def admitted(self, sequence: Sequence, waited: int) -> None:
        """Takes a sequence from its line; `waited`: steps, counted the first time it is admitted."""
        self.remove(sequence)
        if sequence.cached is None:
            self._tenants[sequence.request.tenant].waits.append(waited)

    def closed(self, sequence: Sequence) -> None:
        """A sequence has ended, wherever it was."""
        self._tenants[sequence.request.tenant].open -= 1

    # ------------------------------------------------------------ whose turn it is

    def turn(self) -> tuple[int, str] | None:
        """The highest priority that waits, and the tenant of it that has the most credit."""
        if not self._lines:
            return None
        priority = max(self._lines)
        return priority, max(self._lines[priority], key=lambda name: self._tenants[name].credit)

    def families(self, cached: Callable[[Sequence], int], now: int, age_tokens: int) -> Iterator[list[Sequence]]:
        """Siblings together, in the order in which they are to be admitted; at most WINDOW sequences a call.

        What is charged between two turns counts. cached: tokens of a sequence that need not be computed. now: number
        of this step. age_tokens: how many cached tokens a step of waiting outweighs.
        """
        left = WINDOW
        for priority in sorted(self._lines, reverse=True):
            names = self._lines[priority]
            share = max(1, left // len(names))
            chosen = heapq.nlargest(left, names, key=lambda name: self._tenants[name].credit)
            lines: dict[str, deque[list[Sequence]]] = {}
            windows = {name: names[name][:share] for name in chosen}
            while windows:
                self._pay(windows)
                name = max(windows, key=lambda name: self._tenants[name].credit)
                if name not in lines:
                    patience = self._tenants[name].patience
                    lines[name] = deque(admission_order(windows[name], cached, now, age_tokens, patience))
                    left -= len(windows[name])
                family = lines[name].popleft()
                if not lines[name]:
                    del windows[name]
                yield family
            if left <= 0:
                return

    def charge(self, sequence: Sequence, tokens: int) -> None:
        self._tenants[sequence.request.tenant].credit -= tokens

    def _pay(self, waiting: dict[str, list[Sequence]]) -> None:
        """Begins new rounds until one of those that wait has credit."""
        best = max(self._tenants[name].credit for name in waiting)
        if best > 0:
            return
        credit = (-best // ROUND_TOKENS + 1) * ROUND_TOKENS
        for name, tenant in list(self._tenants.items()):
            if not tenant.open and tenant.credit + credit > 0:
                del self._tenants[name]
            else:
                tenant.credit = min(tenant.credit + credit, ROUND_TOKENS)

    def check(self) -> None:
        """Proves that the lines are in order and nobody is counted twice."""
        assert self._size == sum(1 for _ in self)
        for priority, tenants in self._lines.items():
            for name, line in tenants.items():
                assert line, "an empty line is kept"
                assert all(s.request.priority == priority and s.request.tenant == name for s in line)
                assert all(a.order < b.order for a, b in itertools.pairwise(line))
        for name, tenant in self._tenants.items():
            assert tenant.open >= tenant.waiting == sum(len(t.get(name, ())) for t in self._lines.values())
