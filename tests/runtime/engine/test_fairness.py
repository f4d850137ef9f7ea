"""Nobody starves: cold requests behind hits, polite tenants beside a flood; and tenants see nothing of each other."""

from __future__ import annotations

import statistics

import pytest

from latticework.runtime.request import Request
from latticework.runtime.schedule import waiting
from latticework.runtime.schedule.plan import Plan
from latticework.runtime.schedule.sequence import Sequence
from latticework.runtime.schedule.waiting import Waiting
from tests.runtime.engine.bench import Bench, greedy

HOT = "a system prompt that nearly every request begins with, long enough to be well worth its place in the cache. " * 6
SHARED = "words of one tenant that another must never find in the cache, not even by how fast they come back"


class Clock:
    """How many steps each request has waited for its first admission."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waits: dict[int, int] = {}
        admitted = Waiting.admitted

        def note(lines: Waiting, sequence: Sequence, waited: int) -> None:
            self.waits.setdefault(sequence.request.id, waited)
            admitted(lines, sequence, waited)

        monkeypatch.setattr(Waiting, "admitted", note)


def saturate(bench: Bench, steps: int) -> list[int]:
    """Two requests a step, more than are served: all begin with the cached prompt except one in twenty, returned."""
    bench.submit(HOT, hold_lease=1)
    bench.run()
    cold = []
    for step in range(steps):
        for n in (2 * step, 2 * step + 1):
            is_cold = n % 20 == 10
            number = bench.submit(f"{n} unlike others" if is_cold else f"{HOT}{n}", greedy(3))
            cold += [number] if is_cold else []
        bench.step()
    bench.run()
    return cold


def test_longest_prefix_alone_starves_a_cold_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """What SGLang's lpm does; ours without ageing and patience, to show that the traffic below is the kind that does
    it."""
    clock = Clock(monkeypatch)
    families = Waiting.families

    def without_age(lines: Waiting, cached: object, now: int, age_tokens: int, has_turn: object) -> object:
        return families(lines, cached, now, 0, has_turn)  # type: ignore[arg-type]

    monkeypatch.setattr(Waiting, "families", without_age)
    monkeypatch.setattr(waiting, "LEAST_PATIENCE", 10**9)
    monkeypatch.setattr(waiting, "WINDOW", 10**9)
    cold = saturate(Bench(max_running=4, kv_tokens=8192), 60)
    usual = statistics.median(clock.waits.values())
    assert max(clock.waits[number] for number in cold) > 3 * usual


def test_a_cold_request_waits_at_most_three_times_as_long_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    cold = saturate(Bench(max_running=4, kv_tokens=8192), 60)
    usual = statistics.median(clock.waits.values())
    assert usual > 5, "the traffic does not saturate the engine"
    assert max(clock.waits[number] for number in cold) <= 3 * usual


def polite_waits(monkeypatch: pytest.MonkeyPatch, other: int, tenant: str) -> list[int]:
    """Steps that one request every four steps waits, beside `other` requests a step of another tenant."""
    clock = Clock(monkeypatch)
    bench = Bench(max_running=4, kv_tokens=8192)
    mine = []
    for step in range(80):
        for n in range(other):
            bench.submit(f"{tenant} number {step} {n}", greedy(4), tenant=tenant)
        if step % 4 == 0:
            mine.append(bench.submit(f"mine, {step}", greedy(4), tenant="polite"))
        bench.step()
    bench.run()
    monkeypatch.undo()
    return [clock.waits[number] for number in mine]


def test_a_flood_of_one_tenant_leaves_another_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    beside_a_flood = polite_waits(monkeypatch, 4, "flood")
    in_the_flood = polite_waits(monkeypatch, 4, "polite")
    assert max(beside_a_flood) <= 8
    assert max(in_the_flood) > 4 * max(beside_a_flood), "without tenants it would have waited"


@pytest.mark.parametrize("cache", [True, False])
def test_a_tenant_gets_a_place_of_one_that_holds_them_all(cache: bool) -> None:
    def flooded(bench: Bench) -> list[int]:
        return [bench.submit(f"flood number {n}", greedy(40), tenant="flood") for n in range(8)]

    alone = Bench(max_running=8, prefix_cache=cache)
    numbers = flooded(alone)
    alone.run()
    expected = [alone.tokens(number) for number in numbers]
    bench = Bench(max_running=4, kv_tokens=8192, prefix_cache=cache)
    flood = flooded(bench)
    for _ in range(4):
        bench.step()
    mine = bench.submit("mine", greedy(4), tenant="polite")
    for _ in range(4):
        bench.step()
    assert len(bench.tokens(mine)) == (4 if cache else 0), "without the cache a retraction would cost the whole KV"
    assert bench.engine.scheduler.retractions == (1 if cache else 0)
    bench.run()
    assert [bench.tokens(number) for number in flood] == expected
    bench.assert_all_free()


def test_several_requests_of_a_tenant_get_places_in_one_step() -> None:
    bench = Bench(max_running=8, kv_tokens=8192)
    flood = [bench.submit(f"flood number {n}", greedy(40), tenant="flood") for n in range(12)]
    for _ in range(4):
        bench.step()
    mine = [bench.submit(f"mine, {n}", greedy(4), tenant="polite") for n in range(6)]
    bench.step()
    assert [len(bench.tokens(number)) for number in mine] == [1, 1, 1, 1, 0, 0], "each has half of the places"
    assert bench.engine.scheduler.retractions == 4
    bench.run()
    assert all(len(bench.tokens(number)) == 40 for number in flood)
    bench.assert_all_free()


def test_prompts_that_take_many_steps_leave_room_for_another_tenant() -> None:
    bench = Bench(max_running=16, kv_tokens=8192, chunk_tokens=64)
    for n in range(2):
        for tenant in ("a", "b"):
            bench.submit(f"{n} of {tenant}: " + "a long story " * 80, greedy(2), tenant=tenant)
    for _ in range(10):
        bench.step()
    assert len(bench.engine.scheduler.running) >= 2
    mine = bench.submit("mine", greedy(2), tenant="polite")
    bench.step()
    assert len(bench.tokens(mine)) == 1
    bench.run()


def prompt_tokens(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """Of every step from now on: prompt tokens of each tenant."""
    seen: list[dict[str, int]] = []
    schedule = bench.engine.scheduler.schedule

    def note(limit: int | None = None) -> Plan:
        plan = schedule(limit)
        seen.append(dict(plan.spent))
        return plan

    monkeypatch.setattr(bench.engine.scheduler, "schedule", note)
    return seen


def test_a_queue_fills_half_of_a_step_while_other_tenants_come_by(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(max_running=16, kv_tokens=8192, chunk_tokens=64)
    steps = prompt_tokens(bench, monkeypatch)
    for n in range(40):
        bench.submit(f"number {n} of a queue without an end", greedy(2), tenant="flood")
    for _ in range(12):
        bench.step()
    assert steps == [{"flood": 64}] * 12, "nobody else is there"
    mine = bench.submit("mine, and it is not short either", greedy(2), tenant="polite")
    bench.step()
    assert steps[-1] == {"polite": 32, "flood": 32}
    assert len(bench.tokens(mine)) == 1
    bench.step()
    bench.step()
    assert steps[-2:] == [{"flood": 32}] * 2
    bench.run()


def test_two_tenants_with_queues_fill_the_step_together(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(max_running=16, kv_tokens=8192, chunk_tokens=64)
    steps = prompt_tokens(bench, monkeypatch)
    for n in range(80):
        bench.submit(f"{n} is a number in a queue", greedy(2), tenant="ab"[n % 2])
    for _ in range(16):
        bench.step()
    assert [sum(step.values()) for step in steps] == [64] * 16
    bench.run()


def test_a_higher_priority_is_admitted_first_and_gives_way_last() -> None:
    bench = Bench(max_running=1)
    bench.submit("busy", greedy(3))
    bench.step()
    low = bench.submit("low", greedy(2))
    high = bench.submit("high", greedy(2), priority=1)
    while not bench.events["a", high]:
        bench.step()
        assert not bench.events["a", low]
    bench.run()
    tight = Bench(kv_tokens=128)
    tight.submit("an old one of low priority ", greedy(70))
    tight.step()
    important = tight.submit("a young one that matters more ", greedy(70), priority=5)
    while not any(event.final for event in tight.events["a", important]):
        before = len(tight.tokens(important))
        tight.step()
        assert len(tight.tokens(important)) == before + 1
    assert tight.engine.scheduler.retractions > 0
    tight.run()


@pytest.mark.parametrize(("first", "second", "shared"), [("a", "b", False), ("a", "a", True), ("", "a", False)])
def test_a_tenant_finds_only_its_own_tokens_in_the_cache(first: str, second: str, shared: bool) -> None:
    bench = Bench()
    bench.submit(SHARED, greedy(2), tenant=first)
    bench.run()
    number = bench.submit(SHARED, greedy(2), tenant=second)
    bench.run()
    usage = bench.final(number).usage
    assert usage is not None
    assert (usage.cached > 0) == shared
    bench.assert_all_free()


def test_tenants_that_arrive_together_do_not_wait_for_each_others_prefix() -> None:
    bench = Bench(chunk_tokens=32)
    numbers = [bench.submit(SHARED, greedy(2), tenant=tenant) for tenant in "abab"]
    bench.run()
    computed = [bench.final(number).usage.computed for number in numbers]  # type: ignore[union-attr]
    assert computed[:2] == [len(SHARED)] * 2
    assert all(count <= 8 for count in computed[2:])


def test_a_lease_of_another_tenant_is_refused() -> None:
    bench = Bench()
    bench.submit(SHARED, hold_lease=1, tenant="a")
    bench.run()
    stranger = bench.submit("more", greedy(2), parent_lease=1, tenant="b")
    bench.run()
    assert bench.final(stranger).error is not None


def test_no_pair_of_tenant_and_namespace_is_taken_for_another() -> None:
    pairs = [("", ""), ("", "1:a:"), ("1:a", ""), ("a", ""), ("", "a"), ("a", "b"), ("a:b", ""), ("a", ":b")]
    spaces = {Request(1, (), tenant=tenant, namespace=namespace).space for tenant, namespace in pairs}
    assert len(spaces) == len(pairs)
