"""What objects and arrays still have to write: the registers of one, and the cheapest way to finish from them.

Costs are upper bounds in tokens (or any unit the caller prices values in); IMPOSSIBLE is no way at all. Members
whose number nobody counts are not counted, so that equal futures have equal registers. This file knows numbers of
members and marks, not texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

import msgspec

from latticework.runtime.constrain.base import Pause, never_pause
from latticework.runtime.constrain.rules import Array, Choice, Object

IMPOSSIBLE = 1 << 40

Bound = tuple[int, int | None]


class Tally(msgspec.Struct, frozen=True):
    """How many members, and how much of each mark; counted up to where it still matters."""

    count: int
    marks: tuple[int, ...]


class Bounds:
    """Bounds on the number of members and on the sum of each mark."""

    def __init__(self, low: int, high: int | None, marks: Sequence[Bound], pause: Pause = never_pause) -> None:
        self._pause = pause
        self.low, self.high = low, high
        self._marks = tuple(marks)
        self._caps = tuple(low if high is None else high for low, high in marks)
        self._cap = low if high is None else high
        self.has_count = low > 0 or high is not None
        self.start = Tally(0, (0,) * len(self._marks))

    def add(self, tally: Tally, marks: tuple[int, ...]) -> Tally | None:
        """The tally after one more member; None beyond a bound."""
        if self.high is not None and tally.count >= self.high:
            return None
        count = min(tally.count + 1, self._cap)
        if not marks:
            return Tally(count, tally.marks)
        sums = list(tally.marks)
        for mark in marks:
            high = self._marks[mark][1]
            if high is not None and sums[mark] >= high:
                return None
            sums[mark] = min(sums[mark] + 1, self._caps[mark])
        return Tally(count, tuple(sums))

    def is_enough(self, tally: Tally) -> bool:
        return tally.count >= self.low and all(
            have >= low for have, (low, _) in zip(tally.marks, self._marks, strict=True)
        )

    def cheapest(self, start: Tally, steps: Sequence[tuple[int, tuple[int, ...]]]) -> int:
        """The least cost from `start` to enough, by any number of steps (cost, marks)."""
        best = {start: 0}
        work = [(0, 0, start)]
        ticket = 0
        while work:
            self._pause()
            cost, _, tally = heappop(work)
            if cost > best[tally]:
                continue
            if self.is_enough(tally):
                return cost
            for price, marks in steps:
                after = self.add(tally, marks)
                if after is not None and after != tally and cost + price < best.get(after, IMPOSSIBLE):
                    best[after] = cost + price
                    ticket += 1  # tallies have no order
                    heappush(work, (cost + price, ticket, after))
        return IMPOSSIBLE


class Written(NamedTuple):
    """What of an object is written. listed: in an ordered one, the index after the last listed member; else a bit for
    each. extras: keys of the others."""

    listed: int
    tally: Tally
    extras: frozenset[bytes]


class Members:
    """The members of one `Object`.

    prices: for each property, for each choice, its cost with key, colon and comma; extras: the same for extras.
    supplies: for each extra, all its keys where those are few.
    """

    def __init__(
        self,
        node: Object,
        prices: Sequence[Sequence[int]],
        extras: Sequence[Sequence[int]],
        supplies: Sequence[frozenset[bytes] | None],
        pause: Pause = never_pause,
    ) -> None:
        self.node = node
        self._pause = pause
        self.bounds = Bounds(node.low, node.high, node.bounds, pause)
        self.start = Written(0, self.bounds.start, frozenset())
        self._prices = [min(found, default=IMPOSSIBLE) for found in prices]
        self._choices = [
            [(price, choice.marks) for price, choice in zip(found, member.choices, strict=True)]
            for found, member in zip(prices, node.properties, strict=True)
        ]
        listed = {member.key for member in node.properties}
        self._extras: list[tuple[int, tuple[int, ...]]] = []  # of extras with many keys
        self._scarce: list[tuple[frozenset[bytes], list[tuple[int, tuple[int, ...]]]]] = []
        for found, member, keys in zip(extras, node.extras, supplies, strict=True):
            steps = [(price, choice.marks) for price, choice in zip(found, member.choices, strict=True)]
            if keys is None:
                self._extras += steps
            else:
                self._scarce.append((keys - listed, steps))
        self._has_marks = bool(node.bounds)
        self.counts = self._has_marks or node.low > 0 or node.high is not None
        self._required = sum(1 << i for i, member in enumerate(node.properties) if member.is_required)
        self._next_required = [len(node.properties)] * (len(node.properties) + 1)
        self._after = [0] * (len(node.properties) + 1)  # cost of the required members from each index on
        for index in range(len(node.properties) - 1, -1, -1):
            is_required = node.properties[index].is_required
            self._next_required[index] = index if is_required else self._next_required[index + 1]
            self._after[index] = self._after[index + 1] + (self._prices[index] if is_required else 0)
        self._offered = sum(1 << i for i, member in enumerate(node.properties) if member.choices)
        self._known: dict[Written, int] = {}

    def cost(self, written: Written) -> int:
        """The least that has to be written until the object may close; IMPOSSIBLE where it never may."""
        if not self.counts:
            if self.node.is_ordered:
                return self._after[written.listed]
            return sum(self._prices[i] for i in bits(self._required & ~written.listed))
        if not self._scarce and written.extras:
            written = Written(written.listed, written.tally, frozenset())
        found = self._known.get(written)
        if found is None:
            found = self._known[written] = self._cost(written)
        return found

    def may_close(self, written: Written) -> bool:
        return self.cost(written) == 0 and self.bounds.is_enough(written.tally) and not self.lacking(written)

    def candidates(self, written: Written) -> int:
        """A bit for each listed member that may come next, some choice of it at least."""
        if self.node.is_ordered:
            last = self._next_required[written.listed]
            span = (1 << min(last + 1, len(self.node.properties))) - (1 << written.listed)
            found = span & self._offered
        else:
            found = self._offered & ~written.listed
        if self.counts:
            found = sum(1 << i for i in bits(found) if self.with_property(written, i))
        return found

    def with_property(self, written: Written, index: int) -> list[tuple[Choice, Written]]:
        """The choices of a listed member that leave a way to finish, and what is written then."""
        listed = index + 1 if self.node.is_ordered else written.listed | 1 << index
        found: list[tuple[Choice, Written]] = []
        for choice in self.node.properties[index].choices:
            tally = self._add(written.tally, choice)
            if tally is not None:
                after = Written(listed, tally, written.extras)
                if self.cost(after) < IMPOSSIBLE:
                    found.append((choice, after))
        return found

    def with_extra(self, written: Written, index: int, key: bytes | None) -> list[tuple[Choice, Written]]:
        """As `with_property`, of an extra member with the key `key`; None: some key that nobody remembers."""
        extras = written.extras if key is None else written.extras | {key}
        found: list[tuple[Choice, Written]] = []
        for choice in self.node.extras[index].choices:
            tally = self._add(written.tally, choice)
            if tally is not None:
                after = Written(written.listed, tally, extras)
                if self.cost(after) < IMPOSSIBLE:
                    found.append((choice, after))
        return found

    def _add(self, tally: Tally, choice: Choice) -> Tally | None:
        return self.bounds.add(tally, choice.marks) if self.counts else tally

    def lacking(self, written: Written) -> int:
        """A bit for each of the required members that are not written."""
        mask = self._required
        return mask >> written.listed << written.listed if self.node.is_ordered else mask & ~written.listed

    def _left(self, written: Written) -> list[int]:
        """The listed members that may still come."""
        if self.node.is_ordered:
            return [i for i in range(written.listed, len(self._prices)) if self._choices[i]]
        return list(bits(self._offered & ~written.listed))

    def _cost(self, written: Written) -> int:
        self._pause()
        if not self._has_marks:
            return self._cost_by_count(written)
        lacking = self.lacking(written)
        best = {written.tally: 0}
        for index in self._left(written):
            best = self._with_one(best, self._choices[index], bool(lacking >> index & 1))
        for keys, steps in self._scarce:
            for _ in keys - written.extras:
                best = self._with_one(best, steps, False)
        return min(
            (cost + self.bounds.cheapest(tally, self._extras) for tally, cost in best.items()), default=IMPOSSIBLE
        )

    def _with_one(
        self, best: dict[Tally, int], steps: list[tuple[int, tuple[int, ...]]], is_required: bool
    ) -> dict[Tally, int]:
        """The least cost of each tally after one more member that may, or must, come."""
        if not is_required:  # what counts for nothing need not come
            steps = [step for step in steps if step[1] or self.bounds.has_count]
            if not steps:
                return best
        after = {} if is_required else dict(best)
        for tally, cost in best.items():
            self._pause()
            for price, marks in steps:
                reached = self.bounds.add(tally, marks)
                if reached is not None and cost + price < after.get(reached, IMPOSSIBLE):
                    after[reached] = cost + price
        return after

    def _cost_by_count(self, written: Written) -> int:
        lacking = self.lacking(written)
        required = [self._prices[i] for i in bits(lacking)]
        low, high = self.bounds.low, self.bounds.high
        if high is not None and written.tally.count + len(required) > high:
            return IMPOSSIBLE
        missing = low - written.tally.count - len(required)
        cost = sum(required)
        if missing > 0:
            prices = [self._prices[i] for i in self._left(written) if not lacking >> i & 1]
            for keys, steps in self._scarce:
                prices += [min(price for price, _ in steps)] * len(keys - written.extras)
            prices.sort()
            extra = min((price for price, _ in self._extras), default=IMPOSSIBLE)
            cheap = [price for price in prices[:missing] if price <= extra]
            rest = missing - len(cheap)
            if rest and extra == IMPOSSIBLE:
                return IMPOSSIBLE
            cost += sum(cheap) + (rest * extra if rest else 0)
        return min(cost, IMPOSSIBLE)


class Items:
    """The items of one `Array`. A place in it is (number of items as far as it matters, tally).

    prices: for each of `first`, for each choice, its cost with a comma; rest: the same of the others.
    """

    def __init__(
        self, node: Array, prices: Sequence[Sequence[int]], rest: Sequence[int], pause: Pause = never_pause
    ) -> None:
        self.node = node
        self._pause = pause
        self.bounds = Bounds(node.low, node.high, node.bounds, pause)
        self._first = [
            [(price, choice.marks) for price, choice in zip(found, choices, strict=True)]
            for found, choices in zip(prices, node.first, strict=True)
        ]
        self._rest = [(price, choice.marks) for price, choice in zip(rest, node.rest, strict=True)]
        self._known: dict[tuple[int, Tally], int] = {}

    def cost(self, position: int, tally: Tally) -> int:
        """The least that has to be written until the array may close; IMPOSSIBLE where it never may."""
        key = (position, tally)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._cost(position, tally)
        return found

    def choices(self, position: int, tally: Tally) -> list[tuple[Choice, int, Tally]]:
        """What may come next, each with the place after it."""
        first = self.node.first
        offered = first[position] if position < len(first) else self.node.rest
        after = min(position + 1, len(first))
        found: list[tuple[Choice, int, Tally]] = []
        for choice in offered:
            reached = self.bounds.add(tally, choice.marks)
            if reached is not None and self.cost(after, reached) < IMPOSSIBLE:
                found.append((choice, after, reached))
        return found

    def _cost(self, position: int, tally: Tally) -> int:
        best = {tally: 0}
        for steps in self._first[position:]:
            if any(self.bounds.is_enough(reached) for reached in best):
                break
            after: dict[Tally, int] = {}
            for start, cost in best.items():
                self._pause()
                for price, marks in steps:
                    reached = self.bounds.add(start, marks)
                    if reached is not None and cost + price < after.get(reached, IMPOSSIBLE):
                        after[reached] = cost + price
            best = after
        enough = [cost for reached, cost in best.items() if self.bounds.is_enough(reached)]
        if enough:
            return min(enough)
        if not self.node.bounds:
            price = min((price for price, _ in self._rest), default=IMPOSSIBLE)
            return min(
                (min(cost + (self.bounds.low - reached.count) * price, IMPOSSIBLE) for reached, cost in best.items()),
                default=IMPOSSIBLE,
            )
        return min(
            (cost + self.bounds.cheapest(reached, self._rest) for reached, cost in best.items()), default=IMPOSSIBLE
        )


def bits(mask: int) -> Iterator[int]:
    """The numbers of the bits that are set, lowest first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
