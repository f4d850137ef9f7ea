"""Who runs when: shared prefills, groups, ageing, giving way."""

from __future__ import annotations

import pytest

from latticework.runtime.request import Request
from tests.runtime.engine.bench import Bench, greedy

LONG = "a prefix that is long enough to be worth waiting for, and then some more of it: "


def test_requests_that_arrive_together_compute_their_prefix_once() -> None:
    bench = Bench(chunk_tokens=32)
    numbers = [bench.submit(LONG + f"{n}?", greedy(2)) for n in range(6)]
    bench.run()
    computed = [bench.final(number).usage.computed for number in numbers]  # type: ignore[union-attr]
    assert computed[0] == len(LONG) + 2
    assert all(count <= 8 for count in computed[1:])


def test_waiting_for_a_prefill_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(chunk_tokens=64)
    monkeypatch.setattr(bench.engine.memory, "about_to_cache", lambda *_: 1000)  # a promise that is never kept
    number = bench.submit("some text", greedy(2))
    for _ in range(1000 // 16 + 3):
        bench.step()
    assert bench.final(number).end == "length"


def test_a_cold_request_is_overtaken_for_a_bounded_number_of_steps() -> None:
    bench = Bench(chunk_tokens=64, max_running=1)
    warm = LONG * 2
    bench.submit(warm, hold_lease=1)
    bench.run()
    cold = bench.submit("nothing like it", greedy(1))
    overtaken = 0
    while not any(event.final for event in bench.events["a", cold]):
        bench.submit(warm, greedy(1))  # always another that is nearly all cached
        bench.submit(warm, greedy(1))
        bench.step()
        overtaken += 1
        assert overtaken < 2 * len(warm) // 16 + 4
    assert overtaken > 1
    bench.run()


def test_siblings_are_admitted_together() -> None:
    bench = Bench(max_running=3)
    bench.submit(LONG, hold_lease=1)
    bench.run()
    ids = [bench.submit(f"{n}", greedy(30), parent_lease=1, group=7 if n in (0, 3, 4) else None) for n in range(5)]
    bench.step()
    assert {s.request.id for s in bench.engine.scheduler.running} == {ids[0], ids[3], ids[4]}
    bench.run()


def test_a_long_prompt_does_not_stop_others_from_decoding() -> None:
    bench = Bench(chunk_tokens=8)
    short = bench.submit("go", greedy(30))
    bench.step()
    bench.submit("p" * 100, greedy(1))
    for _ in range(10):
        before = len(bench.tokens(short))
        bench.step()
        assert len(bench.tokens(short)) == before + 1
    bench.run()


def test_the_oldest_request_never_gives_way() -> None:
    bench = Bench(kv_tokens=200)
    numbers = [bench.submit(f"{n} starts here ", greedy(100)) for n in range(4)]
    while not any(event.final for event in bench.events["a", numbers[0]]):
        before = len(bench.tokens(numbers[0]))
        bench.step()
        assert len(bench.tokens(numbers[0])) == before + 1
    assert bench.engine.scheduler.retractions > 0
    bench.run()
    assert [len(bench.tokens(number)) for number in numbers] == [100] * 4


def test_stats_count_what_is_there() -> None:
    bench = Bench(max_running=1)
    bench.submit(LONG, hold_lease=1)
    bench.run()
    bench.submit("x", greedy(5))
    bench.submit("y", greedy(5))
    bench.step()
    stats = bench.engine.stats()
    assert (stats.running, stats.waiting, stats.leases, stats.pages_total) == (1, 1, 1, 512)
    assert stats.pages_free + stats.pages_cached <= stats.pages_total
    assert stats.steps == bench.engine.scheduler.step
    bench.run()


def test_flushing_keeps_what_is_held() -> None:
    bench = Bench()
    bench.submit("held text", hold_lease=1)
    bench.submit("other text")
    bench.run()
    bench.engine.flush_cache()
    bench.engine.check()
    assert bench.engine.tree.peek(list(b"held text")) == 9
    assert bench.engine.tree.peek(list(b"other text")) == 0


def test_an_idle_engine_has_no_work() -> None:
    bench = Bench()
    assert not bench.engine.has_work()
    assert bench.engine.step() == {}
    bench.engine.submit("a", Request(0, ()))
    assert bench.engine.has_work()  # the answer has yet to be told
