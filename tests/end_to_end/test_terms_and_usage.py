"""Priority, limits and usage of runs whose ops come one by one, on a runtime: as of compiled ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

import latticework as lw
from latticework.lang.backends.runtime import Runtime
from latticework.lang.events import Usage
from latticework.runtime.link.messages import HEARTBEAT_SECONDS

pytestmark = pytest.mark.timeout(120)

COMMON = "\x05A beginning that all branches share. "


@lw.function
def forked(s: lw.State) -> None:
    """Text that is computed for a fork before anything is drawn, and more of it behind a gen."""
    s += COMMON
    forks = s.fork(3)
    forks += lambda i: f"{i}: " + lw.gen("x", max_tokens=4)
    forks.join()
    s += "So " + lw.gen("y", max_tokens=4) + " and then"
    more = s.fork(2)
    more += lw.gen("z", max_tokens=4)
    more.join()


def is_idle(runtime: Runtime) -> bool:
    stats = runtime.stats()
    return stats.open_runs == stats.open_requests == stats.engine.leases == stats.engine.running == 0


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(params=["interpreted", "compiled"])
def runnable(request: pytest.FixtureRequest) -> Any:
    return forked if request.param == "interpreted" else forked.compile()


def test_usage_counts_text_that_was_computed_for_a_fork(tiny_runtime: Runtime, runnable: Any) -> None:
    time.sleep(2 * HEARTBEAT_SECONDS)  # what an engine told before would say nothing of the run before this one
    assert wait_until(lambda: is_idle(tiny_runtime))
    tiny_runtime.flush_cache()
    state = runnable.run(backend=tiny_runtime, seed=1)
    told: list[Usage] = [*(meta.usage for name in "xz" for meta in state.meta(name)), state.meta("y").usage]
    ops = sum(told, Usage())
    usage = state.usage()
    assert usage.output == ops.output == sum(one.output for one in told)
    texts = len(COMMON) + sum(len(f"{i}: ") for i in range(3)) + len("So ") + len(" and then")
    assert len(COMMON) <= usage.computed - ops.computed + 1  # no gen tells of the beginning that they share
    assert texts <= usage.computed <= texts + 8 + usage.output  # each continuation draws from a token of its own
    assert usage.prompt == usage.cached + usage.computed
    assert state.get_meta_info("y")["prompt_tokens"] == state.meta("y").usage.prompt


def test_more_tokens_than_a_run_was_given_end_it(tiny_runtime: Runtime, runnable: Any) -> None:
    used = runnable.run(backend=tiny_runtime, seed=2).usage().output
    assert runnable.run(backend=tiny_runtime, seed=2, max_total_tokens=used).usage().output == used
    with pytest.raises(lw.LimitExceeded, match="max_total_tokens"):
        runnable.run(backend=tiny_runtime, seed=2, max_total_tokens=used - 1)
    assert wait_until(lambda: is_idle(tiny_runtime))


def test_a_priority_changes_no_text_and_one_beyond_bounds_is_refused(tiny_runtime: Runtime, runnable: Any) -> None:
    plain = runnable.run(backend=tiny_runtime, seed=3).text()
    assert runnable.run(backend=tiny_runtime, seed=3, priority=5).text() == plain
    with pytest.raises(lw.InvalidArgument, match="priority"):
        runnable.run(backend=tiny_runtime, seed=3, priority=1001)


def test_usage_is_whole_when_the_run_is_over_however_short_its_branches_are(tiny_runtime: Runtime) -> None:
    @lw.function
    def short(s: lw.State, word: str) -> None:
        s += f"\x06{word} " + "shared by two branches. " * 2
        forks = s.fork(2)
        forks += lw.gen("x", max_tokens=1)

    compiled = short.compile()
    for number in range(12):
        word = f"word {number:02}"
        usage = compiled.run(word, backend=tiny_runtime, seed=number).usage()
        assert usage.prompt >= 3 * (len(word) + 2)  # of the text, and of each branch
