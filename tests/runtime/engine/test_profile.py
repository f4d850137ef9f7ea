"""Where time goes: parts of steps, and the seconds of each request."""

from __future__ import annotations

import time

import pytest

from latticework.lang.events import Usage
from latticework.lang.ir import Sampling
from latticework.runtime.config import EngineConfig
from latticework.runtime.engine import Engine
from latticework.runtime.profile import PARTS, Profile
from latticework.runtime.request import GenSegment, Request, TextSegment

REQUEST = Request(1, (TextSegment(tuple(b"hello")), GenSegment(Sampling(max_tokens=5, seed=1))))


def load(profile: bool) -> Engine:
    return Engine.load(EngineConfig(model="tiny", dtype="float32", kv_tokens=512, threads=1, profile=profile))


def usage_of(engine: Engine) -> Usage:
    """Of the one request, run to its end."""
    engine.submit("owner", REQUEST)
    while True:
        for event in engine.step().get("owner", ()):
            if event.final:
                assert event.usage is not None
                return event.usage


def test_an_inner_part_is_no_time_of_the_outer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 4.0, 5.0, 10.0, 12.0])
    monkeypatch.setattr("latticework.runtime.profile.time.perf_counter", lambda: next(clock))
    profile = Profile(True)
    with profile.part("settle"), profile.part("mask"):
        pass
    assert (profile.seconds["settle"], profile.seconds["mask"]) == (2.0, 3.0)
    with profile.part("link"):
        pass
    assert profile.seconds["link"] == 2.0


def test_a_disabled_profile_stays_empty() -> None:
    profile = Profile(False)
    with profile.part("settle"):
        pass
    assert profile.seconds == {}


def test_an_engine_measures_its_parts_when_asked() -> None:
    engine = load(profile=True)
    usage_of(engine)
    seconds = engine.stats().profile
    assert set(seconds) == set(PARTS)
    assert all(seconds[part] > 0 for part in ("schedule", "build", "layers", "attention", "head", "sample", "settle"))
    assert seconds["link"] == 0.0


def test_the_seconds_of_a_request_add_up_to_what_it_took() -> None:
    engine = load(profile=False)
    began = time.monotonic()
    usage = usage_of(engine)
    assert usage.queue_seconds >= 0
    assert usage.prefill_seconds > 0
    assert usage.decode_seconds > 0
    assert usage.queue_seconds + usage.prefill_seconds + usage.decode_seconds <= time.monotonic() - began
    assert engine.stats().profile == {}
