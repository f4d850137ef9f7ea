"""Selects in programs on a whole runtime: methods, draws, what is told of them."""

from __future__ import annotations

import math
import time
from typing import Any, get_args

import pytest

import latticework as lw
from latticework.lang.backends.runtime import Runtime
from latticework.lang.choices import decide
from latticework.lang.ir import SelectMethod

OPTIONS = ["yes", "no, never", "maybe", "m"]


@lw.function
def ask(s: lw.State, method: Any, temperature: float = 0.0) -> None:
    s += lw.user("Is it so?")
    s += lw.assistant(lw.select("x", OPTIONS, temperature, method))
    s += " Then " + lw.gen("y", max_tokens=3)


@lw.function
def say(s: lw.State, first: str, rest: str) -> None:
    s += first + lw.select("x", [rest])


def after_its_first_letter(option: str, runtime: Runtime) -> float:
    if len(option) == 1:
        return 0.0
    (logprobs,) = say.run(option[0], option[1:], backend=runtime).meta("x").option_logprobs
    return math.fsum(token.logprob for token in logprobs)


@pytest.mark.parametrize("method", get_args(SelectMethod))
def test_a_program_decides_as_its_method_does_on_the_numbers_it_reports(
    method: SelectMethod, tiny_runtime: Runtime
) -> None:
    state = ask.run(getattr(lw, method), backend=tiny_runtime, seed=1, temperature=0)
    done = state.meta("x")
    logprobs = [[token.logprob for token in option] for option in done.option_logprobs]
    alone = [after_its_first_letter(option, tiny_runtime) for option in OPTIONS]
    expected = decide(method, logprobs, alone)
    assert state["x"] == OPTIONS[expected.chosen]
    assert done.scores == pytest.approx(expected.scores, abs=1e-9)
    assert done.probabilities == pytest.approx(expected.probabilities, abs=1e-9)
    assert ["".join(token.text for token in option) for option in done.option_logprobs] == OPTIONS
    compiled = ask.compile(method=method, temperature=0.0).run(backend=tiny_runtime, seed=1)
    assert compiled.meta("x").scores == pytest.approx(done.scores, abs=1e-9)
    assert state.usage().prompt > 0


def test_the_numbers_are_there_by_sglangs_names(tiny_runtime: Runtime) -> None:
    meta = ask.run(lw.unconditional_likelihood_normalized, backend=tiny_runtime).get_meta_info("x")
    assert len(meta["normalized_prompt_logprobs"]) == len(meta["input_token_logprobs"]) == 4
    assert sum(meta["probabilities"]) == pytest.approx(1.0)
    assert meta["finish_reason"]["type"] == "stop"


def test_draws_come_again_with_the_seed_and_differ_between_items(tiny_runtime: Runtime) -> None:
    items = [{"method": "probability", "temperature": 50.0}] * 24
    drawn = [[s["x"] for s in ask.run_batch(items, backend=tiny_runtime, seed=seed)] for seed in (5, 5, 6)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) > 1


def test_a_cancelled_program_leaves_no_request_of_a_select_behind(tiny_runtime: Runtime) -> None:
    cancelled = 0
    for _ in range(8):
        state = ask.run(lw.unconditional_likelihood_normalized, backend=tiny_runtime, wait=False, timeout=60)
        state.cancel()
        try:
            state.text()  # it may be over already
        except lw.Cancelled:
            cancelled += 1
    assert cancelled > 0
    ask.run("probability", backend=tiny_runtime)
    for _ in range(500):
        if tiny_runtime.stats().open_requests == 0:
            break
        time.sleep(0.02)
    assert tiny_runtime.stats().open_requests == 0
