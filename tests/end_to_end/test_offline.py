"""Offline use over the tiny random model: order, kinds of prompts, constraints, failures, the async form."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from typing import Any

import pytest

import latticework as lw
from latticework.lang.backends.offline import Engine
from latticework.lang.backends.runtime import Runtime

SHORT = lw.Sampling(max_tokens=6)


@pytest.fixture(scope="module")
def engine(tiny_runtime: Runtime) -> Engine:
    """An Engine on the session's runtime, with few places, so that prompts wait."""
    made = Engine.__new__(Engine)
    made.runtime = tiny_runtime
    made._in_flight = 4
    return made


def generate(engine: Engine, prompts: Any, *args: Any, **kwargs: Any) -> list[lw.Result]:
    return engine.generate(prompts, *args, progress_bar=False, **kwargs)


def test_results_are_in_the_order_of_the_prompts_and_count_their_tokens(engine: Engine) -> None:
    prompts = ["x" * (count % 7 + 1) for count in range(40)]
    results = generate(engine, prompts, SHORT, seed=1)
    assert [result.index for result in results] == list(range(40))
    assert [result.usage.prompt for result in results] == [len(prompt) for prompt in prompts]
    assert all(result.usage.cached + result.usage.computed == result.usage.prompt for result in results)
    assert all(0 < result.usage.output <= 6 for result in results)


def test_one_seed_gives_the_same_results_whatever_is_in_flight(engine: Engine) -> None:
    def texts() -> list[str]:
        return [result.text for result in generate(engine, ["hello"] * 10, SHORT, seed=3)]

    few = texts()
    engine._in_flight = 64
    assert texts() == few
    engine._in_flight = 4
    assert len(set(few)) > 1


def test_a_prompt_may_be_text_token_ids_or_a_conversation(engine: Engine) -> None:
    greedy = lw.Sampling(max_tokens=6, temperature=0)
    talk = [{"role": "user", "content": "hello"}]
    text, tokens, chat = generate(engine, ["hello", list(b"hello"), talk], greedy)
    assert text.text == tokens.text
    assert chat.usage.prompt > 5


def test_sampling_and_constraint_may_be_one_each(engine: Engine) -> None:
    first, second, third = generate(
        engine,
        ["a", "b", "c"],
        [lw.Sampling(max_tokens=2, seed=5), lw.Sampling(max_tokens=9, logprobs=1), lw.Sampling(max_tokens=40)],
        [None, lw.Regex("[0-9]{4}"), int],
    )
    assert first.usage.output <= 2
    assert first.seed == 5
    assert second.text.isdigit()
    assert second.complete
    assert len(second.logprobs) == second.usage.output
    assert isinstance(third.value(), int)


def test_log_probabilities_of_prompts_are_told_whatever_is_cached(engine: Engine) -> None:
    prompt = "what the model thinks of this text. " * 8
    sampling = lw.Sampling(max_tokens=3, temperature=0.0, prompt_logprobs=2, logprobs=0)
    first, plain, again = (
        generate(engine, [prompt], asked)[0]
        for asked in (sampling, lw.Sampling(max_tokens=3, temperature=0.0), sampling)
    )
    assert "".join(token.text for token in first.prompt_logprobs) == prompt[1:]
    assert all(token.logprob <= token.top[0][2] <= 0 and len(token.top) == 2 for token in first.prompt_logprobs)
    assert again.prompt_logprobs == first.prompt_logprobs
    assert plain.prompt_logprobs == ()
    assert first.text == plain.text == again.text
    longer = generate(engine, [prompt + first.text], sampling)[0]
    written = longer.prompt_logprobs[-first.usage.output :]
    assert [token.logprob for token in written] == pytest.approx([token.logprob for token in first.logprobs])


def test_a_result_says_where_its_time_went(engine: Engine) -> None:
    usage = generate(engine, ["a"], SHORT, lw.Regex("[0-9]{4}(x|y)"))[0].usage
    assert min(usage.prefill_seconds, usage.decode_seconds, usage.compile_seconds) > 0
    assert usage.queue_seconds >= 0


def test_one_failing_prompt_leaves_the_others_their_results(engine: Engine) -> None:
    prompts = ["good", [1 << 30], "good too"]
    good, bad, other = generate(engine, prompts, SHORT, return_exceptions=True)
    assert isinstance(bad, lw.InvalidArgument)
    assert bad.where == "prompt 1"
    assert good.text
    assert other.index == 2
    with pytest.raises(lw.InvalidArgument, match="prompt 1"):
        generate(engine, prompts, SHORT)


def test_a_prompt_that_no_message_can_hold_leaves_the_connection_alone(engine: Engine) -> None:
    client = engine.runtime._client
    bad, good = generate(engine, ["a" * (65 << 20), "good"], SHORT, return_exceptions=True)
    assert isinstance(bad, lw.InvalidArgument)
    assert (bad.field, bad.where) == ("prompt", "prompt 0")
    assert good.text
    assert engine.runtime._client is client


@pytest.mark.parametrize(
    ("prompts", "arguments", "message"),
    [
        ("text", {}, "expected a list of prompts"),
        (["a", 7], {}, "prompt 1 is a int"),
        ([["a", 7]], {}, "prompt 0 is a list"),
        ([[{"role": "user"}]], {}, "role and content"),
        (["a", "\ud800"], {}, "prompt 1 holds a lone surrogate"),
        ([[{"role": "user", "content": "\ud800"}]], {}, "prompt 0 holds a lone surrogate"),
        ([[1, 2**70]], {}, "no token id"),
        ([[-1]], {}, "no token id"),
        (["a"], {"sampling": [SHORT, SHORT]}, "2 entries for 1 prompts"),
        (["a"], {"sampling": {"max_tokens": 1}}, "expected lw.Sampling"),
        (["a"], {"constraint": "[0-9]"}, "expected a constraint"),
        (["a"], {"on_length": "sometimes"}, "on_length"),
        (["a"], {"seed": -1}, "seed"),
        ((word for word in "ab"), {"sampling": [SHORT, SHORT]}, "not known"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    engine: Engine, prompts: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(lw.InvalidArgument, match=message):
        generate(engine, prompts, **arguments)


def test_no_prompts_have_no_results(engine: Engine) -> None:
    assert generate(engine, []) == []


def test_awaited_results_are_those_of_the_blocking_form(engine: Engine) -> None:
    async def run() -> list[lw.Result]:
        return await engine.agenerate(["a", "b", "c"], SHORT, seed=2)

    assert [r.text for r in asyncio.run(run())] == [r.text for r in generate(engine, ["a", "b", "c"], SHORT, seed=2)]


def test_iterated_results_come_as_they_finish_and_prompts_may_never_end(engine: Engine) -> None:
    read = itertools.count()

    async def run() -> list[lw.Result]:
        found: list[lw.Result] = []
        async for result in engine.agenerate((f"p{next(read)}" for _ in itertools.count()), SHORT):
            found.append(result)
            if len(found) == 9:
                return found
        raise AssertionError("the prompts ended")

    assert len({result.index for result in asyncio.run(run())}) == 9
    assert next(read) <= 9 + 4


def test_a_failed_prompt_of_an_iteration_is_raised_at_its_end(engine: Engine) -> None:
    async def run(found: list[int]) -> None:
        async for result in engine.agenerate([[1 << 30], "a", "b"], SHORT):
            found.append(result.index)

    found: list[int] = []
    with pytest.raises(lw.InvalidArgument, match="prompt 0"):
        asyncio.run(run(found))
    assert sorted(found) == [1, 2]


def test_a_cancelled_iteration_leaves_nothing_open(engine: Engine, tiny_runtime: Runtime) -> None:
    async def run() -> None:
        await asyncio.wait_for(engine.agenerate(["a"] * 8, lw.Sampling(max_tokens=4000)), 0.3)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(run())
    for _ in range(100):
        if tiny_runtime.stats().open_runs == 0:
            return
        time.sleep(0.02)
    raise AssertionError("runs are open")


def test_an_engine_of_its_own_ends_with_its_block() -> None:
    with lw.Engine("tiny", dtype="float64", kv_tokens=2048, threads=1, in_flight=2) as engine:
        assert len(engine.generate(["a", "b", "c"], SHORT)) == 3
        process = engine.runtime._process
    assert process is not None
    assert process.returncode is not None
    with pytest.raises(lw.InvalidArgument, match="in_flight"):
        lw.Engine("tiny", in_flight=0)


def test_prompts_that_wait_outlive_a_dead_front() -> None:
    with lw.Engine("tiny", dtype="float64", kv_tokens=2048, threads=1, in_flight=2) as engine:

        async def run() -> list[Any]:
            found: list[Any] = []
            async for result in engine.agenerate(["a"] * 8, lw.Sampling(max_tokens=40), return_exceptions=True):
                found.append(result)
                if len(found) == 1:
                    os.kill(engine.runtime.pid, signal.SIGKILL)
            return found

        found = asyncio.run(run())
    failed = [outcome for outcome in found if isinstance(outcome, lw.ConnectionLost)]
    assert len(found) == 8
    assert len(failed) <= 2  # what was at work
    assert sum(isinstance(outcome, lw.Result) for outcome in found) == 8 - len(failed)
    assert all(outcome.where for outcome in failed)
