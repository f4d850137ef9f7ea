"""Async programs, and plain ones in an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

import latticework as lw
from latticework.lang.backends.scripted import Reply

pytestmark = pytest.mark.timeout(60)

BROKEN = lw.EngineDied("the engine process ended")
NEVER = Reply("late", delay=3600.0)


def in_loop(main: Callable[[lw.Scripted], Coroutine[Any, Any, Any]], replies: Any = (), **scripted: Any) -> Any:
    """What `main` returns, run in an event loop with a scripted backend."""
    with lw.Scripted(replies, **scripted) as backend:
        return asyncio.run(main(backend))


@lw.function
async def chat(s: lw.AsyncState, question: str) -> str:
    s += lw.user(question)
    with s.assistant():
        s += lw.gen("answer")
    if "?" in await s["answer"]:
        s += lw.user("Don't ask.") + lw.assistant(lw.gen("answer"))
    return f"{await s['answer']}!"


@lw.function
def plain(s: lw.State, question: str) -> str:
    s += question + lw.gen("answer")
    return str(s["answer"])


# ---------------------------------------------------------------- reading


def test_an_async_body_reads_by_awaiting_and_gives_what_a_plain_one_gives() -> None:
    async def main(backend: lw.Scripted) -> lw.State:
        return await chat.arun("hi", backend=backend)

    state = in_loop(main, {"answer": ["why?", "fine"]})
    assert state.ret_value == "fine!"
    assert state.text().endswith("<|im_start|>assistant\nfine<|im_end|>\n")
    assert [message["content"] for message in state.messages()] == ["hi", "why?", "Don't ask.", "fine"]


def test_everything_a_state_can_be_asked_can_be_awaited() -> None:
    @lw.function
    async def program(s: lw.AsyncState) -> None:
        s += "a" + lw.gen("x", json_schema={"type": "integer"})
        s.set_var("mine", 5)
        s["yours"] = "6"
        s.system("be kind")
        s.assistant("I am")
        with s.user() as opened:
            opened += "hm"
        with s.var_scope("scope"):
            s += "b" + lw.gen()
        async with s.copy() as copied:
            copied += lw.gen("copied")
        forks = s.fork(2)
        forks += ["l", "r"]
        for fork in forks:
            fork += lw.gen("y")
        forks[0] += "!"
        assert len(forks) == 2
        await forks.join()
        assert await s.get("x") == await s.get_var("x") == "12"
        assert await s.value("x") == 12
        assert (await s.meta("x")).finish == "stop"
        assert (await s.get_meta_info("x"))["finish_reason"]["type"] == "stop"
        assert (await s["mine"], await s["yours"], await s["scope"]) == (5, "6", "bg")
        assert (await s["y"], await s["copied"]) == (["g", "g"], ["g"])
        assert "x" in s
        assert "z" not in s
        assert s.variables() == ("x", "mine", "yours", "scope", "copied", "y")
        assert [message["role"] for message in await s.messages()] == ["system", "assistant", "user"]
        assert [piece async for piece in s.text_iter("x")] == ["12"]
        await s.wait()
        await s.sync()
        assert (s.error(), s.item, len(s.program().branches)) == (None, 0, 4)
        assert "".join([piece async for piece in s]) == await s.text()
        assert s.usage().output > 0
        assert repr(s).startswith("<AsyncState of branch 0, running")

    def script(prompt: str, op: Any) -> str:
        return "12" if op.name == "x" else "g"

    in_loop(lambda backend: program.arun(backend=backend), script)


def test_a_read_that_was_not_awaited_says_so() -> None:
    @lw.function
    async def program(s: lw.AsyncState) -> None:
        s += lw.gen("x")
        for use in (lambda: f"{s['x']}", lambda: "a" + s["x"], lambda: s["x"] == "a", lambda: bool(s.text())):
            with pytest.raises(lw.InvalidArgument, match="before it was awaited") as caught:
                use()
            assert "await s" in (caught.value.hint or "")

    in_loop(lambda backend: program.arun(backend=backend), {"x": "a"})


def test_one_wait_however_many_gens() -> None:
    @lw.function
    async def program(s: lw.AsyncState) -> None:
        for name in "abcdefgh":
            s += lw.gen(name)

    async def main(backend: lw.Scripted) -> None:
        assert (await program.arun(backend=backend)).waits == 1
        assert backend.appends <= 3

    in_loop(main, dict.fromkeys("abcdefgh", "x"))


def test_a_nested_program_is_awaited_on_the_same_state() -> None:
    @lw.function
    async def outer(s: lw.AsyncState) -> str:
        s += "<"
        answer = await chat(s, "hi")
        s += ">"
        with pytest.raises(lw.InvalidArgument, match="plain program"):
            plain(s, "a")
        return str(answer)

    async def main(backend: lw.Scripted) -> None:
        state = await outer.arun(backend=backend)
        assert state.ret_value == "fine!"
        assert (state.text()[0], state.text()[-1], backend.opened) == ("<", ">", 1)

    in_loop(main, {"answer": "fine"})


# ---------------------------------------------------------------- errors, deadlines, cancelling


def test_errors_come_where_they_are_awaited_and_from_arun() -> None:
    @lw.function
    async def caught(s: lw.AsyncState) -> None:
        s += lw.gen("x")
        reads: list[Callable[[], Awaitable[Any]]] = [lambda: s["x"], s.text, s.messages, s.wait, lambda: s.meta("x")]
        for read in reads:
            with pytest.raises(lw.EngineDied, match="gen 'x'"):
                await read()
        with pytest.raises(lw.EngineDied):
            [piece async for piece in s.text_iter("x")]

    async def main(backend: lw.Scripted) -> None:
        await caught.arun(backend=backend)
        with pytest.raises(lw.EngineDied, match="gen 'answer'"):
            await chat.arun("hi", backend=backend)
        with pytest.raises(lw.EngineDied):
            await plain.arun("hi", backend=backend)
        while backend.closed < backend.opened:
            await asyncio.sleep(0.001)

    in_loop(main, {"x": BROKEN, "answer": BROKEN})


def test_an_unknown_variable_raises_at_once_and_says_which_there_are() -> None:
    @lw.function
    async def program(s: lw.AsyncState) -> None:
        s += lw.gen("x")
        await s["y"]

    async def main(backend: lw.Scripted) -> None:
        with pytest.raises(lw.UnknownVariable, match="'y'; it has: 'x'"):
            await program.arun(backend=backend)

    in_loop(main, {"x": NEVER})


@pytest.mark.parametrize("program", [chat, plain])
def test_deadlines_of_a_wait_and_of_a_run(program: lw.Function) -> None:
    @lw.function
    async def patient(s: lw.AsyncState) -> str:
        s += lw.gen("answer")
        try:
            await s.get("answer", timeout=0.01)
        except lw.DeadlineExceeded:
            s.cancel()
            return "late"
        return "early"

    async def main(backend: lw.Scripted) -> None:
        with pytest.raises(lw.DeadlineExceeded):
            await program.arun("hi", backend=backend, timeout=0.05)
        with pytest.raises(lw.Cancelled):
            await patient.arun(backend=backend)

    in_loop(main, {"answer": NEVER})


@pytest.mark.parametrize("program", [chat, plain])
def test_cancelling_the_task_cancels_the_run(program: lw.Function) -> None:
    async def main(backend: lw.Scripted) -> None:
        task = asyncio.create_task(program.arun("hi", backend=backend))
        while not backend.asked:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while backend.closed < backend.opened:
            await asyncio.sleep(0.001)

    in_loop(main, {"answer": NEVER})


def test_cancelling_in_the_middle_of_a_fork_ends_every_branch() -> None:
    @lw.function
    async def program(s: lw.AsyncState) -> None:
        forks = s.fork(5)
        forks += lw.gen("x")
        asyncio.get_running_loop().call_later(0.02, s.cancel)
        with pytest.raises(lw.Cancelled):
            await forks.join()
        for fork in forks:
            with pytest.raises(lw.Cancelled):
                await fork["x"]

    async def main(backend: lw.Scripted) -> None:
        with pytest.raises(lw.Cancelled):
            await program.arun(backend=backend)
        while backend.closed < backend.opened:
            await asyncio.sleep(0.001)

    in_loop(main, {"x": NEVER})


# ---------------------------------------------------------------- streams


@pytest.mark.parametrize("program", [chat, plain])
def test_a_stream_gives_the_text_as_it_grows(program: lw.Function) -> None:
    async def main(backend: lw.Scripted) -> None:
        state = program.astream("hi", backend=backend)
        pieces = [piece async for piece in state]
        assert "".join(pieces) == await state.text()
        assert len(pieces) > 1
        one = program.astream("hi", backend=backend).text_iter("answer")
        assert "".join([piece async for piece in one]) == "abcd"
        assert await state.result() == ("abcd!" if program is chat else "abcd")

    in_loop(main, {"answer": "abcd"}, chunk=2, delay=0.002)


def test_a_stream_raises_what_the_run_raises() -> None:
    async def main(backend: lw.Scripted) -> None:
        for program in (chat, plain):
            state = program.astream("hi", backend=backend)
            with pytest.raises(lw.EngineDied):
                async for _ in state:
                    pass
            with pytest.raises(lw.EngineDied):
                await state["answer"]

    in_loop(main, {"answer": BROKEN})


def test_a_state_of_a_plain_run_streams_in_a_loop_too() -> None:
    async def main(backend: lw.Scripted) -> None:
        state = plain.run("hi", backend=backend, stream=True)
        assert "".join([piece async for piece in state.text_async_iter()]) == "hiabcd"
        assert [piece async for piece in state.text_async_iter("answer")] == ["abcd"]

    in_loop(main, {"answer": "abcd"}, chunk=2)


# ---------------------------------------------------------------- from where it is called


def test_an_async_program_runs_from_plain_code_with_and_without_a_loop() -> None:
    with lw.Scripted({"answer": "a"}) as backend:
        assert chat.run("hi", backend=backend).ret_value == "a!"
        assert chat.run("hi", backend=backend, wait=False).ret_value == "a!"
        assert chat.run_batch([{"question": "hi"}] * 3, backend=backend)[2].ret_value == "a!"

        async def in_a_notebook() -> None:
            assert chat.run("hi", backend=backend).ret_value == "a!"
            assert plain.run("hi", backend=backend).ret_value == "a"
            assert chat.run_batch([{"question": "hi"}] * 3, backend=backend)[2].ret_value == "a!"
            state = chat.run("hi", backend=backend, stream=True)
            assert [piece async for piece in state.text_async_iter("answer")] == ["a"]

        asyncio.run(in_a_notebook())


def test_an_async_program_can_be_compiled_and_what_it_awaits_besides_is_refused() -> None:
    @lw.function
    async def straight(s: lw.AsyncState, question: str) -> None:
        s += question + lw.gen("answer")
        s += "again: " + await s["answer"]

    @lw.function
    async def sleepy(s: lw.AsyncState) -> None:
        await asyncio.sleep(0)

    with lw.Scripted({"answer": "a"}) as backend:
        assert straight.compile().run("hi", backend=backend).text() == "hiaagain: a"
    with pytest.raises(lw.Unsupported, match="awaits something other"):
        sleepy.compile()


# ---------------------------------------------------------------- many


def test_a_thousand_async_programs_of_three_gens_are_open_at_once_in_a_few_threads() -> None:
    half_way = most_threads = 0
    all_half_way = asyncio.Event()

    @lw.function
    async def three(s: lw.AsyncState, number: int) -> str:
        nonlocal half_way, most_threads
        s += f"{number}: " + lw.gen("a")
        s += await s["a"] + lw.gen("b")
        most_threads = max(most_threads, threading.active_count())
        half_way += 1
        if half_way == 1000:
            all_half_way.set()
        await all_half_way.wait()
        s += lw.gen("c")
        return str(await s["c"])

    async def main(backend: lw.Scripted) -> list[lw.State]:
        return await asyncio.gather(*(three.arun(number, backend=backend) for number in range(1000)))

    states = in_loop(main, {name: name for name in "abc"})
    assert [state.text() for state in states] == [f"{number}: aabc" for number in range(1000)]
    assert most_threads < 50


def test_straight_line_programs_in_a_loop_share_a_thread_or_two() -> None:
    most_threads = 0

    @lw.function
    def straight(s: lw.State, number: int) -> None:
        nonlocal most_threads
        s += f"{number}" + lw.gen("a") + lw.gen("b")
        most_threads = max(most_threads, threading.active_count())

    async def main(backend: lw.Scripted) -> None:
        before = threading.active_count()
        states = await asyncio.gather(*(straight.arun(number, backend=backend) for number in range(500)))
        assert [state.text() for state in states] == [f"{number}ab" for number in range(500)]
        assert most_threads - before < 30

    in_loop(main, {"a": Reply("a", delay=0.05), "b": "b"})
