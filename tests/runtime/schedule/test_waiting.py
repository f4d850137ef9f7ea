"""The lines of those that wait: priorities, credit of tenants, families, patience."""

from __future__ import annotations

import random

from latticework.runtime.request import Request
from latticework.runtime.schedule.sequence import Sequence
from latticework.runtime.schedule.waiting import (
    LEAST_PATIENCE,
    REMEMBERED_TENANTS,
    ROUND_TOKENS,
    WINDOW,
    Waiting,
)


def sequence(order: int, tenant: str = "", priority: int = 0, group: int | None = None) -> Sequence:
    return Sequence("a", Request(order, (), group=group, tenant=tenant, priority=priority), order, [])


def lines(*sequences: Sequence) -> Waiting:
    waiting = Waiting()
    for one in sequences:
        waiting.open(one)
    waiting.check()
    return waiting


def served(waiting: Waiting, tokens: int, count: int) -> list[Sequence]:
    """The first `count` families admitted in one step, each computing `tokens`."""
    found: list[Sequence] = []
    for family in waiting.families(lambda _: 0, 0, 1):
        if len(found) >= count:
            break
        for one in family:
            waiting.admitted(one, 0)
            waiting.charge(one, tokens)
            found.append(one)
        waiting.check()
    return found


def test_a_higher_priority_goes_first() -> None:
    waiting = lines(sequence(0), sequence(1, priority=2), sequence(2, "b", priority=1), sequence(3, priority=2))
    assert [one.order for one in served(waiting, 1, 4)] == [1, 3, 2, 0]


def test_tenants_get_equal_tokens_whatever_they_send() -> None:
    flood = [sequence(n, "flood") for n in range(400)]
    polite = [sequence(1000 + n, "polite") for n in range(100)]
    waiting = lines(*flood, *polite)
    tokens = {"flood": 0, "polite": 0}
    for _ in range(60):
        for one in served(waiting, 100, 2):
            tokens[one.request.tenant] += 100
            waiting.closed(one)
    assert abs(tokens["flood"] - tokens["polite"]) <= 2 * ROUND_TOKENS


def test_long_requests_of_one_tenant_are_paid_back_by_short_ones_of_another() -> None:
    waiting = lines(*(sequence(n, "long") for n in range(50)), *(sequence(100 + n, "short") for n in range(400)))
    tokens = {"long": 0, "short": 0}
    for _ in range(200):
        for family in waiting.families(lambda _: 0, 0, 1):
            (one,) = family
            cost = 2000 if one.request.tenant == "long" else 50
            waiting.admitted(one, 0)
            waiting.charge(one, cost)
            tokens[one.request.tenant] += cost
            waiting.closed(one)
            break
    assert abs(tokens["long"] - tokens["short"]) <= 2000 + 2 * ROUND_TOKENS


def test_an_idle_tenant_keeps_its_debts() -> None:
    waiting = lines(sequence(0, "debtor"))
    (debtor,) = served(waiting, 10 * ROUND_TOKENS, 1)
    waiting.closed(debtor)
    waiting.open(sequence(1, "debtor"))
    waiting.open(sequence(2, "new"))
    assert [one.order for one in served(waiting, 1, 1)] == [2]


def test_no_tenant_saves_more_than_a_round() -> None:
    waiting = lines(*(sequence(n, "busy") for n in range(30)), sequence(100, "saver"))
    for _ in range(20):
        for one in served(waiting, ROUND_TOKENS, 1):
            waiting.closed(one)
    assert all(tenant.credit <= ROUND_TOKENS for tenant in waiting._tenants.values())
    assert set(waiting._tenants) == {"busy"}  # the other had its turn long ago, and is forgotten


def test_tenants_that_come_once_are_forgotten() -> None:
    waiting = Waiting()
    for n in range(3 * REMEMBERED_TENANTS):
        one = sequence(n, str(n))
        waiting.open(one)
        waiting.admitted(one, 0)
        waiting.charge(one, 10 * ROUND_TOKENS)
        waiting.closed(one)
    assert len(waiting._tenants) <= REMEMBERED_TENANTS


def test_siblings_have_their_turn_together() -> None:
    waiting = lines(sequence(0, group=7), sequence(1), sequence(2, group=7), sequence(3, "b"))
    turns = [[one.order for one in family] for family in waiting.families(lambda _: 0, 0, 1)]
    assert [0, 2] in turns


def test_a_step_looks_at_a_bounded_number_of_the_oldest() -> None:
    looked: list[Sequence] = []

    def cached(one: Sequence) -> int:
        looked.append(one)
        return 0

    waiting = lines(*(sequence(n) for n in range(3 * WINDOW)))
    assert [one.order for family in waiting.families(cached, 0, 1) for one in family] == list(range(WINDOW))
    many = lines(*(sequence(n, str(n % 100)) for n in range(1000)))
    assert sum(len(family) for family in many.families(cached, 0, 1)) == WINDOW


def test_patience_is_twice_the_usual_wait_of_the_tenant() -> None:
    waiting = lines(*(sequence(n) for n in range(9)))
    account = waiting._tenants[""]
    assert account.patience == LEAST_PATIENCE
    for one in list(waiting)[:7]:
        waiting.admitted(one, 10)
        one.cached = 0
    assert account.patience == 20
    back = sequence(99)
    waiting.open(back)
    back.cached = 0  # it gave way before: how long it waits now says nothing of the queue
    waiting.admitted(back, 1000)
    assert account.patience == 20


def test_random_comings_and_goings_keep_the_lines_in_order() -> None:
    random_ = random.Random(3)
    waiting, inside, running = Waiting(), [], []
    for order in range(600):
        action = random_.random()
        if action < 0.5:
            inside.append(sequence(order, random_.choice("abc"), random_.randrange(3)))
            waiting.open(inside[-1])
        elif action < 0.75 and inside:
            running.append(inside.pop(random_.randrange(len(inside))))
            waiting.admitted(running[-1], 1)
            waiting.charge(running[-1], random_.randrange(900))
        elif action < 0.85 and running:
            inside.append(running.pop())
            waiting.add(inside[-1])
        elif running:
            waiting.closed(running.pop(0))
        assert set(waiting) == set(inside)
        for _ in waiting.families(lambda _: 0, order, 1):
            break
        waiting.check()
