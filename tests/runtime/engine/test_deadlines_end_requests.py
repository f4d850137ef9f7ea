"""A request that runs out of time ends, alone, wherever it is; its KV stays."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from latticework.runtime import engine
from tests.runtime.engine.bench import Bench, gen, greedy


class Clock:
    """time.monotonic of the engine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(engine, "time", SimpleNamespace(monotonic=lambda: self.now))


def test_a_running_request_ends_at_its_deadline_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    bench = Bench()
    hurried = bench.submit("some text", greedy(30), deadline=5.0, hold_lease=1)
    patient = bench.submit("other text", greedy(30))
    for _ in range(4):
        bench.step()
    clock.now += 5.0
    bench.step()
    final = bench.final(hurried)
    assert final.end == "error"
    assert final.error is not None
    assert (final.error.type, final.error.field) == ("DeadlineExceeded", "timeout")
    assert "5 seconds" in final.error.message
    assert final.usage is not None
    assert final.usage.output == 4
    assert bench.engine.tree.peek(list(b"some text")) == 9
    bench.run()
    assert len(bench.tokens(patient)) == 30
    assert len(bench.engine.leases) == 0
    bench.assert_all_free()


def test_a_waiting_request_ends_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    bench = Bench(max_running=1)
    bench.submit("first", greedy(30))
    waiting = bench.submit("second", greedy(3), deadline=1.0)
    bench.step()
    clock.now += 2.0
    bench.step()
    assert bench.final(waiting).error is not None
    bench.run()
    bench.assert_all_free()


def test_a_request_that_ends_in_time_is_not_ended_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    bench = Bench()
    number = bench.submit("text", greedy(2), deadline=1.0)
    bench.run()
    clock.now += 50.0
    other = bench.submit("more", greedy(2))
    bench.run()
    assert bench.final(number).error is None
    assert bench.final(other).error is None


@pytest.mark.parametrize("fields", [{"deadline": -1.0}, {"deadline": float("nan")}, {"priority": 10**6}])
def test_impossible_deadlines_and_priorities_are_refused(fields: dict[str, Any]) -> None:
    bench = Bench()
    number = bench.submit("text", gen(), **fields)
    bench.run()
    error = bench.final(number).error
    assert error is not None
    assert error.type == "InvalidArgument"
