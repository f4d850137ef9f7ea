"""Gens of several outputs, through front and engine, over the tiny random model in float64."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

import latticework as lw
from latticework.lang.backends.runtime import Runtime
from latticework.lang.ir import sample_seed
from latticework.lang.samples import mean_logprob

LONG = "The quick brown fox jumps over the lazy dog, again and again. "  # a token is a byte


@pytest.fixture
def engine(tiny_runtime: Runtime) -> lw.Engine:
    """Offline use of the session's runtime."""
    made = object.__new__(lw.Engine)
    made.runtime, made._in_flight = tiny_runtime, 512
    return made


def answer(engine: lw.Engine, prompt: str = LONG, constraint: Any = None, **sampling: Any) -> lw.Result:
    """One result; the sampling's seed is that of its first output."""
    asked = [lw.Sampling(**{"max_tokens": 12, "seed": 77, **sampling})]
    return engine.generate([prompt], asked, constraint, progress_bar=False)[0]


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Counters are as of the last heartbeat."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@lw.function
def several(s: lw.State, text: str, options: dict[str, Any]) -> None:
    s += text + lw.gen("x", max_tokens=12, **options)
    s += " then " + lw.gen("y", max_tokens=6)


# ---------------------------------------------------------------- purity


@pytest.mark.parametrize("more", [{}, {"top_p": 0.9, "repetition_penalty": 1.3}, {"stop": "a"}])
def test_every_output_is_that_of_a_lone_request_with_its_seed(engine: lw.Engine, more: dict[str, Any]) -> None:
    four = answer(engine, n=4, **more)
    lone = [answer(engine, seed=sample_seed(77, sample), **more) for sample in range(4)]
    assert [sample.text for sample in four.samples] == [one.text for one in lone]
    assert [sample.seed for sample in four.samples] == [one.seed for one in lone]
    assert len({one.text for one in lone}) > 1
    assert (four.text, four.seed) == (lone[0].text, 77)
    assert lone[0].samples == (lone[0],)


def test_greedy_outputs_are_all_the_same(engine: lw.Engine) -> None:
    assert len({sample.text for sample in answer(engine, n=3, temperature=0).samples}) == 1


def test_the_best_have_the_highest_mean_logprob_and_the_others_are_paid_for(engine: lw.Engine) -> None:
    five = answer(engine, n=5, logprobs=0)
    best = answer(engine, n=2, best_of=5, logprobs=0)
    ranked = sorted(five.samples, key=lambda one: -sum(t.logprob for t in one.logprobs) / len(one.logprobs))
    assert [sample.text for sample in best.samples] == [one.text for one in ranked[:2]]
    assert best.text != five.text or ranked[0].text == five.text
    assert best.usage.output == five.usage.output == 60
    quiet = answer(engine, best_of=5)
    assert (quiet.text, quiet.logprobs) == (best.text, ())  # ranking needed them, the caller did not


# ---------------------------------------------------------------- one prompt


@pytest.mark.parametrize("length", [5, 31, 48, 61])
def test_a_cold_prompt_is_computed_once_whatever_its_length(engine: lw.Engine, length: int) -> None:
    engine.runtime.flush_cache()
    prompt = (f"{length} " + LONG)[:length]
    result = answer(engine, prompt, n=4)
    assert (result.usage.prompt, result.usage.cached, result.usage.computed) == (length, 0, length)
    assert [sample.usage.computed for sample in result.samples] == [length, 1, 1, 1]
    assert result.usage.output == 48


def test_prompts_that_come_together_are_each_computed_once(engine: lw.Engine) -> None:
    engine.runtime.flush_cache()
    prompts = [f"{index}: {LONG}" for index in range(6)]
    results = engine.generate(prompts, lw.Sampling(max_tokens=4, n=3, seed=1), progress_bar=False)
    assert sum(result.usage.computed for result in results) == sum(map(len, prompts))
    assert {sample.usage.computed for result in results for sample in result.samples[1:]} == {1}


def test_nothing_is_held_when_all_is_over(engine: lw.Engine) -> None:
    answer(engine, n=4)
    several.run(LONG, {"n": 3, "best_of": 5}, backend=engine.runtime)
    assert eventually(lambda: engine.runtime.stats().open_requests == 0)
    assert eventually(lambda: engine.runtime.stats().engine.leases == 0)


# ---------------------------------------------------------------- programs


def test_a_program_reads_a_list_and_goes_on_with_the_first(tiny_runtime: Runtime) -> None:
    state = several.run("Say: ", {"n": 3}, backend=tiny_runtime, seed=5)
    one = several.run("Say: ", {}, backend=tiny_runtime, seed=5)
    assert len(state["x"]) == len(state.value("x")) == 3
    assert state["x"][0] == one["x"]
    assert state["y"] == one["y"]
    assert state.text() == one.text() == f"Say: {state['x'][0]} then {state['y']}"
    assert [done.text for done in state.meta("x")] == state["x"]
    assert [done.seed for done in state.meta("x")] == [sample_seed(one.meta("x").seed, index) for index in range(3)]
    assert state.usage().output == one.usage().output + 24
    assert "".join(state.text_iter("x")) == state["x"][0]


def test_the_text_goes_on_with_the_best(tiny_runtime: Runtime) -> None:
    all_of_them = several.run("Say: ", {"n": 6, "return_logprob": True}, backend=tiny_runtime, seed=5)
    state = several.run("Say: ", {"best_of": 6}, backend=tiny_runtime, seed=5)
    best = max(all_of_them.meta("x"), key=mean_logprob)
    assert state["x"] == best.text
    assert state.text() == f"Say: {best.text} then {state['y']}"


def test_several_outputs_right_after_another_gen_and_in_every_branch(tiny_runtime: Runtime) -> None:
    @lw.function
    def program(s: lw.State, n: int) -> None:
        s += "Once" + lw.gen("a", max_tokens=5) + lw.gen("b", max_tokens=5, n=n)
        forks = s.fork(2)
        for number, fork in enumerate(forks):
            fork += f" {number}:" + lw.gen("c", max_tokens=5, n=n)
        forks.join()
        s += "." + lw.gen("d", max_tokens=5)

    three = program.run(3, backend=tiny_runtime, seed=9, sampling=lw.Sampling())
    one = program.run(1, backend=tiny_runtime, seed=9, sampling=lw.Sampling())
    assert three["b"][0] == one["b"]
    assert [texts[0] for texts in three["c"]] == one["c"]
    assert all(len(texts) == 3 for texts in three["c"])
    assert three.text() == one.text()


def test_a_batch_of_runs_gives_each_its_own_samples(tiny_runtime: Runtime) -> None:
    items = [{"text": f"{index}: ", "options": {}} for index in range(4)]
    states = several.run_batch(items, backend=tiny_runtime, seed=3, n=2)
    again = several.run_batch(items, backend=tiny_runtime, seed=3, n=2, num_threads=1)
    assert [state["x"] for state in states] == [state["x"] for state in again]
    assert [len(state["y"]) for state in states] == [2] * 4  # a run's default is every gen's


@dataclasses.dataclass
class City:
    name: str
    population: int


def test_constrained_outputs_are_all_valid_and_typed(engine: lw.Engine) -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "A city: " + lw.gen("city", schema=City, n=3, max_tokens=200) + " or " + lw.gen("n", regex="[0-9]{3}", n=2)

    state = program.run(backend=engine.runtime, seed=2)
    assert all(isinstance(city, City) for city in state.value("city"))
    assert len(state.value("city")) == 3
    assert all(re.fullmatch("[0-9]{3}", text) for text in state["n"])
    result = answer(engine, constraint=City, n=3, max_tokens=200)
    assert [type(sample.value()) for sample in result.samples] == [City] * 3


# ---------------------------------------------------------------- one outcome


def test_one_error_ends_them_all(engine: lw.Engine) -> None:
    with pytest.raises(lw.PromptTooLong):
        answer(engine, "x" * 9000, n=4)
    with pytest.raises(lw.ConstraintError) as caught:
        answer(engine, n=4, stop_regex=("(",))
    assert caught.value.field == "stop_regex"
    with pytest.raises(lw.InvalidArgument, match="no text before"):
        several.run("", {"n": 3}, backend=engine.runtime)
    assert answer(engine, n=4).samples


def test_a_deadline_and_a_cancel_end_them_all(tiny_runtime: Runtime) -> None:
    @lw.function
    def endless(s: lw.State) -> None:
        s += "Go on:" + lw.gen("x", max_tokens=3000, ignore_eos=True, n=4)

    with pytest.raises(lw.DeadlineExceeded):
        endless.run(backend=tiny_runtime, timeout=0.3)
    state = endless.run(backend=tiny_runtime, wait=False)
    assert eventually(lambda: tiny_runtime.stats().engine.running == 4)
    state.cancel()
    assert eventually(lambda: tiny_runtime.stats().open_requests == 0)
    with pytest.raises(lw.Cancelled):
        _ = state["x"]


def test_log_probabilities_of_the_prompt_come_with_every_output(engine: lw.Engine) -> None:
    lone = answer(engine, prompt_logprobs=1)
    three = answer(engine, prompt_logprobs=1, n=3)
    best = answer(engine, prompt_logprobs=1, n=2, best_of=4)
    assert len(lone.prompt_logprobs) == len(LONG) - 1
    for sample in (three, *three.samples, best, *best.samples):
        assert [token.token for token in sample.prompt_logprobs] == list(LONG[1:].encode())
        assert [t.logprob for t in sample.prompt_logprobs] == pytest.approx([t.logprob for t in lone.prompt_logprobs])
    assert [sample.text for sample in three.samples] == [sample.text for sample in answer(engine, n=3).samples]


def test_programs_tell_the_prompts_logprobs_of_several_outputs_too(tiny_runtime: Runtime) -> None:
    @lw.function
    def program(s: lw.State, n: int) -> None:
        s += "One" + lw.gen("a", max_tokens=3) + " and two" + lw.gen("b", max_tokens=4, n=n, prompt_logprobs=0)

    one, two = (program.run(n, sampling=lw.Sampling(), backend=tiny_runtime, seed=4) for n in (1, 2))
    assert [token.text for token in one.meta("b").prompt_logprobs] == list(" and two")
    assert [done.prompt_logprobs for done in two.meta("b")] == [one.meta("b").prompt_logprobs] * 2
    assert two["b"][0] == one["b"]


def test_without_a_prefix_cache_the_outputs_are_the_same(engine: lw.Engine) -> None:
    cached = [sample.text for sample in answer(engine, n=3).samples]
    best = answer(engine, best_of=3).text
    with lw.Engine("tiny", dtype="float64", kv_tokens=1024, threads=1, prefix_cache=False) as bare:
        assert [sample.text for sample in answer(bare, n=3).samples] == cached
        assert answer(bare, best_of=3).text == best


def test_more_outputs_than_the_pool_holds_at_once_are_the_same(engine: lw.Engine) -> None:
    asked: dict[str, Any] = {"n": 6, "max_tokens": 150, "ignore_eos": True}  # two of them overlap, however they come
    roomy = [sample.text for sample in answer(engine, **asked).samples]
    with lw.Engine("tiny", dtype="float64", kv_tokens=256, threads=1) as crowded:
        assert [sample.text for sample in answer(crowded, **asked).samples] == roomy
        assert eventually(lambda: crowded.runtime.stats().engine.retractions > 0)


def test_places_are_taken_by_output(engine: lw.Engine) -> None:
    engine._in_flight = 8
    results = engine.generate([LONG] * 5, lw.Sampling(n=5, max_tokens=3), progress_bar=False)
    assert [len(result.samples) for result in results] == [5] * 5
