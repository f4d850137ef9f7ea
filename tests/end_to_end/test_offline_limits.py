"""Offline use at its limits: conversations shortened on request, and a deadline that reaches the engine."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

import latticework as lw
from latticework.lang.backends.offline import Engine
from latticework.lang.backends.runtime import Runtime

LONG_CHAT = [{"role": role, "content": f"{n} " * 60} for n in range(40) for role in ("user", "assistant")]
LONG_CHAT.append({"role": "user", "content": "And now?"})
ENDLESS = lw.Sampling(max_tokens=3900, ignore_eos=True)


@pytest.fixture(scope="module")
def engine(tiny_runtime: Runtime) -> Engine:
    """An Engine on the session's runtime."""
    made = Engine.__new__(Engine)
    made.runtime = tiny_runtime
    made._in_flight = 2
    return made


def generate(engine: Engine, prompts: Any, *args: Any, **kwargs: Any) -> list[Any]:
    return engine.generate(prompts, *args, progress_bar=False, **kwargs)


def test_a_conversation_is_shortened_on_request_only(engine: Engine) -> None:
    sampling = lw.Sampling(max_tokens=50)
    with pytest.raises(lw.PromptTooLong, match="prompt 0"):
        generate(engine, [LONG_CHAT], sampling)
    long, short = generate(engine, [LONG_CHAT, LONG_CHAT[-1:]], sampling, truncate="middle")
    assert long.usage.truncated > 1000
    assert 3000 < long.usage.prompt <= 4046
    assert short.usage.truncated == 0
    with pytest.raises(lw.InvalidArgument, match="truncate"):
        generate(engine, [LONG_CHAT], sampling, truncate="left")


def is_idle(runtime: Runtime) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        stats = runtime.stats()
        if stats.open_runs == stats.open_requests == stats.engine.running == stats.engine.waiting == 0:
            return True
        time.sleep(0.05)
    return False


def test_a_call_past_its_timeout_ends_in_the_engine_and_keeps_what_was_done(
    engine: Engine, tiny_runtime: Runtime
) -> None:
    samplings = [lw.Sampling(max_tokens=2), ENDLESS, ENDLESS, ENDLESS]
    first, *late = generate(engine, ["a"] * 4, samplings, timeout=1.0, return_exceptions=True)
    assert isinstance(first, lw.Result)
    assert [type(error) for error in late] == [lw.DeadlineExceeded] * 3
    assert all("1 seconds" in str(error) and error.where for error in late)
    assert is_idle(tiny_runtime)


def test_the_awaited_form_has_a_timeout_too(engine: Engine, tiny_runtime: Runtime) -> None:
    async def run() -> list[Any]:
        return await engine.agenerate(["a"] * 3, ENDLESS, timeout=0.5)

    with pytest.raises(lw.DeadlineExceeded, match=r"0\.5 seconds"):
        asyncio.run(run())
    assert is_idle(tiny_runtime)


@pytest.mark.parametrize("timeout", [-1, float("inf"), float("nan"), "soon", True])
def test_a_timeout_that_is_none_is_refused(engine: Engine, timeout: Any) -> None:
    with pytest.raises(lw.InvalidArgument, match="timeout"):
        generate(engine, ["a"], timeout=timeout)
