"""`GET /metrics`: a front's sums and its engine's last heartbeat in Prometheus' text format.

Names are vLLM's where it has the same thing, under our own prefix; docs/metrics.md lists them. This file measures
nothing itself except HTTP answers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latticework.runtime.link.engine_link import EngineLink
from latticework.runtime.meter import Histogram, Meter

log = logging.getLogger("latticework.requests")
PATHS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/generate",
        "/flush_cache",
        "/v1/link",
        "/v1/link/frames",
        "/health",
        "/metrics",
    }
)
"""Paths with a count of their own; all others are "other", or anybody could make any number of series."""


class FrontCollector(Collector):
    """Reads the sums of one front when asked."""

    def __init__(self, link: EngineLink) -> None:
        self._link = link

    def collect(self) -> Iterator[Metric]:
        yield from self._engine()
        yield from self._requests()

    def _engine(self) -> Iterator[Metric]:
        link, stats = self._link, self._link.stats
        yield _gauge("engine_up", "1 while the engine answers, 0 while it restarts", int(link.ready.is_set()))
        yield _gauge("num_requests_running", "requests in the engine's batch", stats.running)
        yield _gauge("num_requests_waiting", "requests in the engine's queue", stats.waiting)
        pages = {
            "free": stats.pages_free,
            "cached": stats.pages_cached,
            "sequences": stats.pages_total - stats.pages_free - stats.pages_cached,
        }
        yield _labelled(GaugeMetricFamily, "kv_pages", "KV pages by owner", "owner", pages)
        yield _gauge("leases", "held prefixes", stats.leases)
        yield _counter("steps", "batches that the model computed", stats.steps)
        yield _counter("num_preemptions", "sequences that gave way when pages ran out", stats.retractions)
        yield _counter("spec_decode_num_draft_tokens", "output tokens guessed ahead", stats.drafted)
        yield _counter("spec_decode_num_accepted_tokens", "of these, drawn as guessed", stats.accepted)
        yield _counter("device_tokens", "tokens drawn within decode steps on a GPU", stats.device_tokens)
        yield _counter("surplus_tokens", "of these, those that nobody needed", stats.surplus_tokens)
        yield _labelled(CounterMetricFamily, "host_tokens", "beside them, by the host", "why", stats.host_tokens)
        yield _counter("engine_restarts", "engines started after the first", link.restarts)
        frames = {"client": link.meter.bad_frames, "engine": link.bad_frames, "front": stats.bad_frames}
        yield _labelled(CounterMetricFamily, "bad_frames", "unreadable messages by sender", "sender", frames)
        yield _labelled(CounterMetricFamily, "step_seconds", "engine time by part (--profile)", "part", stats.profile)

    def _requests(self) -> Iterator[Metric]:
        meter = self._link.meter
        yield _labelled(CounterMetricFamily, "requests", "requests ended, by how", "outcome", meter.outcomes)
        http = CounterMetricFamily("latticework:http_requests", "HTTP answers", labels=("path", "status"))
        for (path, status), count in sorted(meter.http.items()):
            http.add_metric((path, str(status)), count)
        yield http
        yield _counter("prompt_tokens", "prompt tokens", meter.usage.prompt)
        yield _counter("prefix_cache_queries", "prompt tokens looked up in the cache", meter.usage.prompt)
        yield _counter("prefix_cache_hits", "prompt tokens found in the cache", meter.usage.cached)
        yield _counter("generation_tokens", "output tokens", meter.usage.output)
        for name, what, histogram in (
            ("time_to_first_token_seconds", "from the engine's request to its first token", meter.first_token),
            ("inter_token_latency_seconds", "between token events of a request", meter.between_tokens),
            ("e2e_request_latency_seconds", "from the engine's request to its end", meter.end_to_end),
            ("request_queue_time_seconds", "in the engine's queue", meter.queue),
            ("request_prefill_time_seconds", "computing prompts", meter.prefill),
            ("request_decode_time_seconds", "drawing tokens", meter.decode),
            ("constraint_compile_seconds", "waiting for a compiled constraint", meter.compiling),
        ):
            yield _histogram(name, what, histogram)


def render(link: EngineLink) -> bytes:
    """The text of one scrape."""
    registry = CollectorRegistry()
    registry.register(FrontCollector(link))
    return generate_latest(registry)


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(f"latticework:{name}", what, value=value)


def _counter(name: str, what: str, value: float) -> Metric:
    return CounterMetricFamily(f"latticework:{name}", what, value=value)


def _labelled(
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily],
    name: str,
    what: str,
    label: str,
    values: Mapping[str, float],
) -> Metric:
    family = kind(f"latticework:{name}", what, labels=(label,))
    for key, value in sorted(values.items()):
        family.add_metric((key,), value)
    return family


def _histogram(name: str, what: str, histogram: Histogram) -> Metric:
    buckets: list[tuple[str, float]] = []
    below = 0
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
        below += count
        buckets.append((bound, below))
    return HistogramMetricFamily(f"latticework:{name}", what, buckets=buckets, sum_value=histogram.total)


class CountedAnswers:
    """ASGI middleware: counts answers by path and status, and logs those that refuse."""

    def __init__(self, app: ASGIApp, meter: Meter) -> None:
        self.app = app
        self.meter = meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in PATHS else "other"
        began = time.monotonic()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                status = message["status"]
                self.meter.http[path, status] += 1
                if status >= 400:
                    milliseconds = 1000 * (time.monotonic() - began)
                    log.info("http method=%s path=%s status=%d ms=%.1f", scope["method"], path, status, milliseconds)
            await send(message)

        await self.app(scope, receive, counted)
