"""`/metrics`: a front's sums in Prometheus' format, read back with its own parser."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from latticework.runtime.config import EngineConfig, ServerConfig
from latticework.runtime.programs.front import Front

Values = dict[tuple[str, ...], float]


@pytest.fixture(scope="module")
def url(serve_front: Callable[[Callable[[], Any]], Any]) -> str:
    engine = EngineConfig(model="tiny", dtype="float64", kv_tokens=2048, threads=1, profile=True)
    return serve_front(lambda: Front.start(engine, ServerConfig())).url


def scrape(url: str) -> Values:
    """Values by name and label values."""
    response = httpx.get(f"{url}/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    return {
        (sample.name.removeprefix("latticework:"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def complete(url: str, **fields: Any) -> httpx.Response:
    asked = {"model": "tiny", "prompt": "hello", "max_tokens": 4, "seed": 1} | fields
    return httpx.post(f"{url}/v1/completions", json=asked, timeout=60)


def test_requests_and_their_tokens_are_counted(url: str) -> None:
    before = scrape(url)
    assert complete(url, regex="[0-9]{3}").status_code == 200
    after = scrape(url)

    def rise(*key: str) -> float:
        return after[key] - before.get(key, 0.0)

    assert rise("http_requests_total", "/v1/completions", "200") == 1
    assert rise("requests_total", "stop") + rise("requests_total", "length") == 1
    assert rise("prompt_tokens_total") == rise("prefix_cache_queries_total") == 5
    assert 0 < rise("generation_tokens_total") <= 4
    for histogram in (
        "time_to_first_token_seconds",
        "e2e_request_latency_seconds",
        "request_queue_time_seconds",
        "request_prefill_time_seconds",
        "request_decode_time_seconds",
        "constraint_compile_seconds",
    ):
        assert rise(f"{histogram}_count") == 1, histogram
        assert after[f"{histogram}_bucket", "+Inf"] == after[f"{histogram}_count",]


def test_the_engines_state_is_that_of_its_last_heartbeat(url: str) -> None:
    complete(url)
    end = time.monotonic() + 20
    while (values := scrape(url)).get(("step_seconds_total", "settle"), 0) == 0 and time.monotonic() < end:
        time.sleep(0.05)
    assert values["engine_up",] == 1
    assert sum(values["kv_pages", owner] for owner in ("free", "cached", "sequences")) == 2048 / 16
    assert values["engine_restarts_total",] == 0
    assert values["steps_total",] > 0
    assert values["step_seconds_total", "attention"] > 0


def test_a_refusal_is_counted_and_logged_and_any_path_makes_one_series(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "latticework.requests"):
        assert complete(url, max_tokens=-1).status_code == 400
        httpx.get(f"{url}/one")
        httpx.get(f"{url}/two")
    values = scrape(url)
    assert values["http_requests_total", "/v1/completions", "400"] == 1
    assert values["http_requests_total", "other", "404"] == 2
    assert caplog.messages[0].startswith("http method=POST path=/v1/completions status=400 ms=")
