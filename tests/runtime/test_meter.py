"""What a front counts and logs of its requests."""

from __future__ import annotations

import logging

import msgspec
import pytest

from latticework.lang.errors import InvalidArgument
from latticework.lang.events import Usage
from latticework.runtime.meter import Histogram, Meter, Timing
from latticework.runtime.request import Request, TextSegment, TokenEvent

REQUEST = Request(7, (TextSegment((1, 2)),))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("latticework.runtime.meter.time.monotonic", lambda: now[0])
    return now


def test_a_value_at_a_bound_counts_below_it_and_a_large_one_above_all() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 99.0):
        histogram.observe(value)
    assert histogram.counts == [2, 1, 1]
    assert histogram.total == 102.0


def test_a_request_is_timed_from_token_to_token(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    meter = Meter()
    timing = meter.begin()
    with caplog.at_level(logging.INFO, "latticework.requests"):
        for now in (0.25, 0.5, 1.0):
            clock[0] = now
            meter.hear(REQUEST, timing, TokenEvent(7, 0, (5,)))
        usage = Usage(9, 4, 5, 3, drafted=2, accepted=1, queue_seconds=0.1, prefill_seconds=0.2, decode_seconds=0.7)
        meter.hear(REQUEST, timing, TokenEvent(7, 0, end="stop", usage=usage, final=True))
    assert meter.first_token.total == 0.25
    assert meter.between_tokens.total == 0.75
    assert meter.end_to_end.total == 1.0
    assert (meter.queue.total, meter.prefill.total, meter.decode.total) == (0.1, 0.2, 0.7)
    assert meter.usage == usage
    assert +meter.outcomes == {"stop": 1}
    assert caplog.messages == [
        "request=7 outcome=stop segments=1 prompt=9 cached=4 output=3 drafted=2 accepted=1 queue_ms=100.0 "
        "prefill_ms=200.0 decode_ms=700.0 total_ms=1000.0 first_token_ms=250.0"
    ]


def test_the_log_names_a_tenant(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    request = msgspec.structs.replace(REQUEST, tenant="research")
    with caplog.at_level(logging.INFO, "latticework.requests"):
        Meter().hear(request, Timing(0.0), TokenEvent(7, 0, end="stop", usage=Usage(), final=True))
    assert "tenant=research" in caplog.messages[0].split()


def test_the_log_names_an_error_and_never_says_its_text(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    meter = Meter()
    error = InvalidArgument("a secret").to_data()
    with caplog.at_level(logging.INFO, "latticework.requests"):
        meter.hear(REQUEST, Timing(0.0), TokenEvent(7, 0, end="error", error=error, final=True))
    assert "error=InvalidArgument" in caplog.text
    assert "secret" not in caplog.text
    assert +meter.outcomes == {"error": 1}
    assert sum(meter.queue.counts) == 0  # the engine never told
