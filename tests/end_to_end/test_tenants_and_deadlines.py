"""Tenants over the link keep their prefixes to themselves, and a run's deadline ends it in the engine, too."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

import latticework as lw
from latticework.lang.backends.runtime import Connection, Runtime

PROMPT = "A prompt of more than one page, so that there is something to find in the cache. "


def cached(backend: Runtime | Connection, prompt: str) -> tuple[int, str]:
    @lw.function
    def program(s: lw.State) -> None:
        s += prompt + lw.gen("a", max_tokens=4, temperature=0)

    state = program.run(backend=backend, seed=1)
    return state.meta("a").usage.cached, state["a"]


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_tenants_never_share_a_prefix_and_one_tenant_shares_its_own(tiny_runtime: Runtime) -> None:
    prompt = "\x02Tenants: " + PROMPT  # no other test of the session begins like this
    address = tiny_runtime.address
    with (
        lw.connect(address, tenant="a") as first,
        lw.connect(address, tenant="a") as again,
        lw.connect(address, tenant="b") as other,
        lw.connect(address) as nobody,
    ):
        assert cached(first, prompt)[0] == 0
        hits, text = cached(again, prompt)
        assert hits > 16
        assert cached(other, prompt) == (0, text)
        assert cached(nobody, prompt) == (0, text)
        assert cached(other, prompt)[0] == hits


@pytest.mark.parametrize("tenant", ["a b", "x" * 65, "ä", "a\n", None])
def test_a_tenant_that_cannot_be_is_refused(tiny_runtime: Runtime, tenant: str) -> None:
    with pytest.raises(lw.InvalidArgument, match="tenant"):
        lw.connect(tiny_runtime.address, tenant=tenant)


def test_a_run_past_its_timeout_leaves_the_engine_though_nobody_waits_for_it(tiny_runtime: Runtime) -> None:
    seen: list[int] = []

    @lw.function
    def program(s: lw.State) -> None:
        s += "x" + lw.gen("first", max_tokens=3)
        forks = s.fork(2)
        for fork in forks:
            fork += lw.gen("a", max_tokens=3900, regex="[a-z]{3800}")
        seen.append(wait_until(lambda: tiny_runtime.stats().engine.running == 2, 5.0))
        seen.append(wait_until(lambda: is_idle(tiny_runtime), 15.0))  # the body itself waits for no op

    began = time.monotonic()
    with pytest.raises(lw.DeadlineExceeded, match="longer than"):
        program.run(backend=tiny_runtime, seed=1, timeout=1.0)
    assert seen == [True, True]
    assert time.monotonic() - began < 15
    assert wait_until(lambda: tiny_runtime.stats().open_runs == 0)


def is_idle(runtime: Runtime) -> bool:
    stats = runtime.stats()
    return stats.open_requests == stats.engine.running == stats.engine.waiting == stats.engine.leases == 0


def test_ops_appended_after_the_deadline_fail_with_it(tiny_runtime: Runtime) -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "x" + lw.gen("a", max_tokens=3)
        time.sleep(0.4)
        s += lw.gen("b", max_tokens=3)

    with pytest.raises(lw.DeadlineExceeded):
        program.run(backend=tiny_runtime, seed=1, timeout=0.2)
    assert wait_until(lambda: is_idle(tiny_runtime))


def test_a_run_within_its_timeout_is_as_without(tiny_runtime: Runtime) -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "x" + lw.gen("a", max_tokens=9)

    texts = {program.run(backend=tiny_runtime, seed=1, timeout=t).text() for t in (None, 60, 2e9)}
    assert len(texts) == 1
