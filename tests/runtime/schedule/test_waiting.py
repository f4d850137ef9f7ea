"""The lines of those that wait: priorities, credit of tenants, families, patience."""

from __future__ import annotations

import random

from latticework.runtime.request import Request
from latticework.runtime.schedule.sequence import Sequence
from latticework.runtime.schedule.waiting import (
    COMPANY_STEPS,
    LEAST_PATIENCE,
    REMEMBERED_TENANTS,
    SAVED_TOKENS,
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


def always(priority: int, tenant: str) -> bool:
    return True


def served(waiting: Waiting, tokens: int, count: int) -> list[Sequence]:
    """The first `count` families admitted in one step, each computing `tokens`."""
    found: list[Sequence] = []
    for family in waiting.families(lambda _: 0, 0, 1, always):
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
    assert abs(tokens["flood"] - tokens["polite"]) <= 100


def test_long_requests_of_one_tenant_are_paid_back_by_short_ones_of_another() -> None:
    waiting = lines(*(sequence(n, "long") for n in range(50)), *(sequence(100 + n, "short") for n in range(400)))
    tokens = {"long": 0, "short": 0}
    for _ in range(200):
        for family in waiting.families(lambda _: 0, 0, 1, always):
            (one,) = family
            cost = 2000 if one.request.tenant == "long" else 50
            waiting.admitted(one, 0)
            waiting.charge(one, cost)
            tokens[one.request.tenant] += cost
            waiting.closed(one)
            break
    assert abs(tokens["long"] - tokens["short"]) <= 2000


def test_an_idle_tenant_keeps_its_debts() -> None:
    waiting = lines(sequence(0, "debtor"))
    (debtor,) = served(waiting, 10 * SAVED_TOKENS, 1)
    waiting.closed(debtor)
    waiting.open(sequence(1, "debtor"))
    waiting.open(sequence(2, "new"))
    assert [one.order for one in served(waiting, 1, 1)] == [2]


def test_a_tenant_that_takes_little_saves_credit_up_to_a_bound() -> None:
    waiting = lines(*(sequence(n, "busy") for n in range(30)), sequence(100, "saver"))
    saver = next(one for one in waiting if one.order == 100)
    waiting.admitted(saver, 0)
    waiting.charge(saver, SAVED_TOKENS)
    assert waiting.credit("saver") == 0
    for _ in range(20):
        for one in served(waiting, SAVED_TOKENS, 1):
            waiting.closed(one)
    assert waiting.credit("saver") == SAVED_TOKENS
    waiting.charge(saver, SAVED_TOKENS + 7)
    assert waiting.credit("saver") == -7


def test_a_tenant_that_has_ended_and_owes_nothing_is_forgotten() -> None:
    waiting = lines(sequence(0, "new"), sequence(1, "debtor"))
    for one in list(waiting):
        waiting.admitted(one, 0)
        waiting.charge(one, SAVED_TOKENS if one.order else 0)
        waiting.closed(one)
    assert set(waiting._tenants) == {"debtor"}


def test_the_turn_is_that_of_the_highest_priority_then_of_the_most_credit_then_of_who_came_first() -> None:
    waiting = lines(sequence(0, "a"), sequence(1, "b"), sequence(2, "c", priority=1), sequence(3, "b", priority=1))
    turns = []
    while len(waiting):
        turn = waiting.turn()
        assert turn is not None
        one = min((s for s in waiting if (s.request.priority, s.request.tenant) == turn), key=lambda s: s.order)
        turns.append(one.order)
        waiting.admitted(one, 0)
        waiting.charge(one, 10)
        waiting.check()
    assert turns == [2, 3, 0, 1]
    assert waiting.turn() is None


def test_the_turn_equals_a_search_over_all_tenants_whatever_they_are_charged() -> None:
    random_ = random.Random(5)
    waiting = lines(*(sequence(n, str(n % 40), n % 2) for n in range(400)))
    while len(waiting):
        turn = waiting.turn()
        assert turn is not None
        priority, tenant = turn
        rivals = {s.request.tenant for s in waiting if s.request.priority == priority}
        assert priority == max(s.request.priority for s in waiting)
        assert waiting.credit(tenant) == max(map(waiting.credit, rivals))
        one = random_.choice([s for s in waiting if s.request.tenant == tenant])
        waiting.admitted(one, 0)
        waiting.charge(one, random_.randrange(900))
        waiting.check()


def test_a_tenant_without_a_turn_is_passed_over_and_not_looked_at() -> None:
    looked: list[str] = []

    def cached(one: Sequence) -> int:
        looked.append(one.request.tenant)
        return 0

    waiting = lines(*(sequence(n, "abc"[n % 3]) for n in range(9)))
    found = [family[0].request.tenant for family in waiting.families(cached, 0, 1, lambda _, name: name == "b")]
    assert found == ["b"] * 3
    assert set(looked) == {"b"}


def test_a_tenant_has_company_while_others_wait_or_have_come_lately() -> None:
    waiting = lines(sequence(0, "a"), sequence(1, "a"))
    assert not waiting.has_company("a", 0)
    assert waiting.has_company("b", 0)
    other = sequence(2, "b")
    other.waiting_since = 10
    waiting.open(other)
    waiting.open(sequence(3, "a"))
    assert waiting.has_company("a", 10 + 2 * COMPANY_STEPS)
    waiting.admitted(other, 0)
    assert waiting.has_company("a", 10 + COMPANY_STEPS)
    assert not waiting.has_company("a", 11 + COMPANY_STEPS)


def test_tenants_that_come_once_are_forgotten() -> None:
    waiting = Waiting()
    for n in range(3 * REMEMBERED_TENANTS):
        one = sequence(n, str(n))
        waiting.open(one)
        waiting.admitted(one, 0)
        waiting.charge(one, 10 * SAVED_TOKENS)
        waiting.closed(one)
    assert len(waiting._tenants) <= REMEMBERED_TENANTS


def test_siblings_have_their_turn_together() -> None:
    waiting = lines(sequence(0, group=7), sequence(1), sequence(2, group=7), sequence(3, "b"))
    turns = [[one.order for one in family] for family in waiting.families(lambda _: 0, 0, 1, always)]
    assert [0, 2] in turns


def test_a_step_looks_at_a_bounded_number_of_the_oldest() -> None:
    looked: list[Sequence] = []

    def cached(one: Sequence) -> int:
        looked.append(one)
        return 0

    waiting = lines(*(sequence(n) for n in range(3 * WINDOW)))
    assert [one.order for family in waiting.families(cached, 0, 1, always) for one in family] == list(range(WINDOW))
    many = lines(*(sequence(n, str(n % 100)) for n in range(1000)))
    assert sum(len(family) for family in many.families(cached, 0, 1, always)) == WINDOW


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
        for _ in waiting.families(lambda _: 0, order, 1, always):
            break
        waiting.check()
