"""Async programs, and everything that appends by halves, on a whole runtime with the tiny model."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

import latticework as lw
from latticework.lang.backends.runtime import Runtime

pytestmark = pytest.mark.timeout(120)


def all_given_back(runtime: Runtime) -> None:
    """No request and no lease survives."""
    while (stats := runtime.stats()).open_requests or stats.engine.leases:
        time.sleep(0.02)


@lw.function
async def three(s: lw.AsyncState, number: int) -> str:
    s += f"{number}: " + lw.gen("a", max_tokens=4)
    s += " then " + await s["a"]
    forks = s.fork(2)
    forks += lw.gen("b", max_tokens=3)
    await forks.join("concate_and_append")
    s += lw.select("c", ["yes", "no"])
    return str(await s["c"])


@lw.function
def three_plainly(s: lw.State, number: int) -> str:
    s += f"{number}: " + lw.gen("a", max_tokens=4)
    s += " then " + s["a"]
    forks = s.fork(2)
    forks += lw.gen("b", max_tokens=3)
    forks.join("concate_and_append")
    s += lw.select("c", ["yes", "no"])
    return str(s["c"])


@pytest.mark.slow
def test_two_hundred_async_programs_at_once_give_what_plain_ones_give(tiny_runtime: Runtime) -> None:
    async def main() -> list[lw.State]:
        return await asyncio.gather(*(three.arun(number, backend=tiny_runtime, seed=7) for number in range(200)))

    before = threading.active_count()
    states = asyncio.run(main())
    assert threading.active_count() - before < 10
    for number in range(0, 200, 40):
        plain = three_plainly.run(number, backend=tiny_runtime, seed=7)
        assert (states[number].text(), states[number].ret_value) == (plain.text(), plain.ret_value)
    all_given_back(tiny_runtime)


def test_batches_of_both_kinds_give_the_same_in_both_styles(tiny_runtime: Runtime) -> None:
    items = [{"number": number} for number in range(12)]
    texts = [
        [state.text() for state in program.run_batch(items, backend=tiny_runtime, seed=3)]
        for program in (three, three_plainly)
    ]
    yielded = three.run_batch(items, backend=tiny_runtime, seed=3, generator_style=True, num_threads=4)
    assert texts[0] == texts[1] == [state.text() for state in yielded]
    all_given_back(tiny_runtime)


def test_what_is_appended_of_branches_is_read_as_if_it_had_been_there(tiny_runtime: Runtime) -> None:
    @lw.function
    def joined(s: lw.State) -> None:
        s += lw.user("one")
        forks = s.fork(2)
        forks += lambda i: lw.assistant(f"branch {i}")
        forks.join("concate_and_append")
        s += lw.user("two") + lw.gen("x", max_tokens=8)

    @lw.function
    def straight(s: lw.State) -> None:
        s += lw.user("one") + lw.assistant("branch 0") + lw.assistant("branch 1")
        s += lw.user("two") + lw.gen("x", max_tokens=8)

    first, second = (program.run(backend=tiny_runtime, seed=5) for program in (joined, straight))
    assert first.text() == second.text()


def test_tasks_and_forks_that_are_cancelled_leave_nothing_behind(tiny_runtime: Runtime) -> None:
    @lw.function
    async def endless(s: lw.AsyncState) -> None:
        s += "a"
        forks = s.fork(4)
        forks += lw.gen("x", max_tokens=4000, ignore_eos=True)
        await forks.join()

    async def main() -> None:
        tasks = [asyncio.create_task(endless.arun(backend=tiny_runtime)) for _ in range(5)]
        await asyncio.sleep(0.2)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * 5

    asyncio.run(main())
    all_given_back(tiny_runtime)


def test_a_generator_that_is_left_early_leaves_nothing_behind(tiny_runtime: Runtime) -> None:
    @lw.function
    def program(s: lw.State, tokens: int) -> None:
        s += "a" + lw.gen("x", max_tokens=tokens, ignore_eos=True)

    items = [{"tokens": 2}, *[{"tokens": 4000}] * 5]
    for state in program.run_batch(items, backend=tiny_runtime, generator_style=True):
        assert state["x"]
        break
    all_given_back(tiny_runtime)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_log_probabilities_of_a_stream_are_those_of_the_whole(temperature: float, tiny_runtime: Runtime) -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "ab" + lw.gen("x", max_tokens=24, return_logprob=True, top_logprobs_num=2, logprob_start_len=0)

    async def main() -> None:
        state = program.run(backend=tiny_runtime, stream=True, temperature=temperature, seed=2)
        seen = []
        async for _, meta in state.text_async_iter("x", return_meta_data=True):
            seen += meta["output_token_logprobs"]
        whole = state.get_meta_info("x")
        assert seen == whole["output_token_logprobs"]
        assert len(whole["output_top_logprobs"][0]) == 2
        assert len(whole["input_token_logprobs"]) == 1  # nothing precedes the first token of all

    asyncio.run(main())
