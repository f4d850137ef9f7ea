"""Admission order: longest prefix first, ageing, families."""

from __future__ import annotations

import math
import random

from latticework.runtime.request import Request
from latticework.runtime.schedule.policy import admission_order, common_prefix, who_gives_way
from latticework.runtime.schedule.sequence import Sequence


def waiting(order: int, since: int = 0, group: int | None = None, owner: str = "a") -> Sequence:
    return Sequence(owner, Request(order, (), group=group), order, [], waiting_since=since)


def orders(
    sequences: list[Sequence], cached: dict[int, int], now: int = 0, age: int = 10, patience: float = math.inf
) -> list[int]:
    families = admission_order(sequences, lambda s: cached.get(s.order, 0), now, age, patience)
    return [sequence.order for family in families for sequence in family]


def test_the_longest_cached_prefix_goes_first_then_the_oldest() -> None:
    assert orders([waiting(n) for n in (3, 1, 2, 0)], {2: 50, 3: 50, 1: 7}) == [2, 3, 1, 0]


def test_a_step_of_waiting_counts_as_cached_tokens() -> None:
    cold, warm = waiting(0, since=0), waiting(1, since=9)
    assert orders([cold, warm], {1: 100}, now=10) == [1, 0]
    cold, warm = waiting(0, since=0), waiting(1, since=20)
    assert orders([cold, warm], {1: 100}, now=20) == [0, 1]


def test_families_stay_together_in_the_place_of_their_best_member() -> None:
    sequences = [waiting(0), waiting(1, group=5), waiting(2), waiting(3, group=5), waiting(4, group=5, owner="b")]
    assert orders(sequences, {3: 9, 2: 5}) == [3, 1, 2, 0, 4]


def test_who_has_waited_long_enough_goes_before_all_that_have_not_in_order_of_arrival() -> None:
    sequences = [waiting(0, since=3), waiting(1, since=4), waiting(2, since=8), waiting(3, since=9)]
    cached = {1: 1, 2: 10**6, 3: 10**5}
    assert orders(sequences, cached, now=10, patience=5) == [0, 1, 2, 3]
    assert orders(sequences, cached, now=10) == [2, 3, 0, 1]


def test_a_place_is_given_by_the_youngest_of_who_holds_most_until_both_hold_the_same() -> None:
    def running(order: int, tenant: str, priority: int = 0) -> Sequence:
        return Sequence("a", Request(order, (), tenant=tenant, priority=priority), order, [])

    held = [running(0, "many"), running(1, "few"), running(2, "many"), running(3, "many"), running(4, "few")]
    assert who_gives_way(held, 0, "new") is held[3]
    assert who_gives_way(held[:3], 0, "new") is held[2]
    assert who_gives_way(held[:2], 0, "new") is None  # it would then hold fewer than the other
    assert who_gives_way(held, 0, "few") is None
    assert who_gives_way(held, 0, "many") is None
    assert who_gives_way([running(0, "many", 1), running(1, "many", 1)], 0, "new") is None
    assert who_gives_way([], 0, "new") is None


def test_common_prefix_equals_a_plain_loop() -> None:
    rng = random.Random(0)
    for _ in range(300):
        a = [rng.randrange(2) for _ in range(rng.randrange(12))]
        b = a[: rng.randrange(12)] + [rng.randrange(2) for _ in range(rng.randrange(6))]
        expected = 0
        while expected < min(len(a), len(b)) and a[expected] == b[expected]:
            expected += 1
        assert common_prefix(a, b) == expected
