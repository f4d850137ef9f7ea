"""What a front counts: requests by outcome, tokens, and how long things took. And one log line a request.

Plain numbers: the core installation needs no metrics library. `server/metrics.py` shows them in Prometheus' format.
The log (logger "latticework.requests", level INFO, `name=value` pairs) has ids and numbers, never text.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

from latticework.lang.events import Usage
from latticework.runtime.request import Request, TokenEvent

log = logging.getLogger("latticework.requests")

SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0)
LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0)

OUTCOMES = ("stop", "length", "select", "text", "cancelled", "error")


class Histogram:
    """Counts of values up to each bound, seconds. counts[-1]: those above the last."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(slots=True)
class Timing:
    """One request under way. last: when its last token came."""

    began: float
    first: float | None = None
    last: float = 0.0


@dataclass(slots=True)
class Meter:
    """Owner of a front's sums. One thread."""

    outcomes: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(OUTCOMES, 0)))
    http: Counter[tuple[str, int]] = field(default_factory=Counter)  # by path and status
    usage: Usage = field(default_factory=Usage)
    bad_frames: int = 0  # from clients
    first_token: Histogram = field(default_factory=lambda: Histogram(LONG))
    between_tokens: Histogram = field(default_factory=lambda: Histogram(SHORT))
    end_to_end: Histogram = field(default_factory=lambda: Histogram(LONG))
    queue: Histogram = field(default_factory=lambda: Histogram(LONG))
    prefill: Histogram = field(default_factory=lambda: Histogram(LONG))
    decode: Histogram = field(default_factory=lambda: Histogram(LONG))
    compiling: Histogram = field(default_factory=lambda: Histogram(SHORT))

    def begin(self) -> Timing:
        """A request is sent to the engine."""
        return Timing(time.monotonic())

    def hear(self, request: Request, timing: Timing, event: TokenEvent) -> None:
        """An event of it has come."""
        now = time.monotonic()
        if event.tokens or event.chosen is not None:
            if timing.first is None:
                timing.first = now
                self.first_token.observe(now - timing.began)
            else:
                self.between_tokens.observe(now - timing.last)
            timing.last = now
        if event.final:
            self._end(request, timing, event, now)

    def _end(self, request: Request, timing: Timing, event: TokenEvent, now: float) -> None:
        usage = event.usage or Usage()
        outcome = event.end or "error"
        self.outcomes[outcome] += 1
        self.usage += usage
        self.end_to_end.observe(now - timing.began)
        if event.usage is not None:
            self.queue.observe(usage.queue_seconds)
            self.prefill.observe(usage.prefill_seconds)
            self.decode.observe(usage.decode_seconds)
        if log.isEnabledFor(logging.INFO):
            log.info("%s", _line(request, outcome, usage, timing, event, now))


def _line(request: Request, outcome: str, usage: Usage, timing: Timing, event: TokenEvent, now: float) -> str:
    fields: dict[str, object] = {
        "request": request.id,
        "outcome": outcome,
        "segments": len(request.chain),
        "prompt": usage.prompt,
        "cached": usage.cached,
        "output": usage.output,
        "drafted": usage.drafted,
        "accepted": usage.accepted,
        "queue_ms": _ms(usage.queue_seconds),
        "prefill_ms": _ms(usage.prefill_seconds),
        "decode_ms": _ms(usage.decode_seconds),
        "total_ms": _ms(now - timing.began),
    }
    if request.tenant:
        fields["tenant"] = request.tenant
    if timing.first is not None:
        fields["first_token_ms"] = _ms(timing.first - timing.began)
    if event.error is not None:
        fields["error"] = event.error.type
    return " ".join(f"{name}={value}" for name, value in fields.items())


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"


def show_log() -> None:
    """Request lines go to stderr from now on, with the time in UTC."""
    handler = logging.StreamHandler()
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
