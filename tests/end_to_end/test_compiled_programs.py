"""Compiled programs next to the scheduler, over the tiny random model: what they ask of the engine and leave there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import latticework as lw
from latticework.lang.backends.base import Listener, Session
from latticework.lang.backends.calls import Encoded, Terms
from latticework.lang.backends.runtime import Runtime
from latticework.lang.events import Event
from latticework.lang.ir import Branch, Gen, Program, Ref, Regex, Sampling, Text, constraint_key
from latticework.lang.passes import chains
from latticework.runtime.config import EngineConfig, ServerConfig
from latticework.runtime.link.client import Client
from latticework.runtime.link.front_server import FrontServer
from latticework.runtime.programs.front import Front
from latticework.runtime.programs.stored import Programs
from latticework.runtime.request import GenSegment, Request


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


@lw.function
def judge(s: lw.State, essay: str) -> str:
    s += lw.system("You judge essays, always by the same three rules, which you never tell anybody.")
    s += lw.user(f"The essay: {essay}")
    forks = s.fork(3)
    for index, fork in enumerate(forks):
        fork += lw.user(f"Point {index}?")
        fork += lw.assistant(lw.gen("point", max_tokens=6) + ", so " + lw.gen("mark", regex="[1-9]", max_tokens=4))
    forks.join()
    s += lw.user("Sum up: " + "; ".join(s["point"]))
    s += lw.assistant(lw.gen("summary", max_tokens=6) + lw.select("verdict", ["good", "bad"]))
    return s["summary"]


def test_a_compiled_run_waits_once_and_says_what_the_interpreted_says(tiny_runtime: Runtime) -> None:
    interpreted = judge.run("An essay.", backend=tiny_runtime, seed=3)
    compiled = judge.compile().run("An essay.", backend=tiny_runtime, seed=3)
    assert compiled.waits == 1
    assert compiled.text() == interpreted.text()
    assert compiled.messages() == interpreted.messages()
    assert [compiled[name] for name in interpreted.variables()] == [interpreted[n] for n in interpreted.variables()]
    assert compiled.ret_value == compiled["summary"] == interpreted.ret_value


def test_a_batch_says_what_single_calls_say_and_holds_nothing_afterwards(tiny_runtime: Runtime) -> None:
    compiled = judge.compile()
    items = [{"essay": f"Essay number {index}."} for index in range(12)]
    together = compiled.run_batch(items, backend=tiny_runtime, seed=9)
    again = compiled.run_batch(items, backend=tiny_runtime, seed=9, max_open=1)
    interpreted = judge.run_batch(items, backend=tiny_runtime, seed=9)
    assert [state.text() for state in together] == [state.text() for state in again]
    assert [state.text() for state in together] == [state.text() for state in interpreted]
    assert wait_until(lambda: is_idle(tiny_runtime))


def test_the_common_beginning_is_computed_once_for_a_batch(tiny_runtime: Runtime) -> None:
    @lw.function
    def program(s: lw.State, word: str) -> None:
        s += "\x03Common: " + "the same long text for all of them. " * 8
        s += word + lw.gen("a", max_tokens=1)

    states = program.compile().run_batch([{"word": f"w{i}"} for i in range(8)], backend=tiny_runtime, seed=1)
    usage = [state.usage() for state in states]
    assert all(one.cached >= 280 for one in usage[1:]), usage


def test_what_is_warm_stays_in_the_cache_until_it_is_let_go(tiny_runtime: Runtime) -> None:
    @lw.function
    def program(s: lw.State, word: str) -> None:
        s += lw.system("\x04Warm: " + "as long as somebody wants it. " * 8)
        s += word + lw.gen("a", max_tokens=1)

    compiled = program.compile()
    assert wait_until(lambda: is_idle(tiny_runtime))
    warm = tiny_runtime.warm(Encoded.of(compiled.ir))
    assert wait_until(lambda: tiny_runtime.stats().engine.leases == 1)
    tiny_runtime.flush_cache()
    assert compiled.run("w", backend=tiny_runtime, seed=1).usage().cached >= 240
    warm.close()
    assert wait_until(lambda: is_idle(tiny_runtime))


def test_tasks_run_at_the_same_time_in_a_live_loop(tiny_runtime: Runtime) -> None:
    compiled = judge.compile()

    async def both() -> list[lw.State]:
        return await asyncio.gather(*(compiled.arun(f"e{i}", backend=tiny_runtime, seed=i) for i in range(2)))

    first, second = asyncio.run(both())
    assert first.text() == judge.run("e0", backend=tiny_runtime, seed=0).text()
    assert second.text() == judge.run("e1", backend=tiny_runtime, seed=1).text()


class OpByOp:
    """The runtime as a backend that executes no programs."""

    name = "op by op"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def open(
        self, sampling: Sampling, seed: int, item: int, listener: Listener, timeout: float | None = None
    ) -> Session:
        return self._runtime.open(sampling, seed, item, listener, timeout)

    def shutdown(self) -> None:
        """The runtime is the session's."""


@pytest.mark.parametrize("name", ["straight", "refers", "judge"])
def test_a_backend_that_executes_no_programs_gets_them_op_by_op(tiny_runtime: Runtime, name: str) -> None:
    compiled = {"straight": straight, "refers": refers, "judge": judge}[name].compile()
    here = compiled.run("word", backend=OpByOp(tiny_runtime), seed=4)
    there = compiled.run("word", backend=tiny_runtime, seed=4)
    assert here.text() == there.text()
    assert [here[name] for name in here.variables()] == [there[name] for name in there.variables()]
    assert here.waits == 1
    with pytest.raises(lw.Unsupported, match="compiles no constraints"):
        compiled.explain(backend=OpByOp(tiny_runtime))


def test_two_hundred_programs_at_once_end_well(tiny_runtime: Runtime) -> None:
    compiled = straight.compile()

    async def all_at_once() -> list[lw.State]:
        return await asyncio.gather(*(compiled.arun(f"w{i}", backend=tiny_runtime, seed=i) for i in range(200)))

    states = asyncio.run(all_at_once())
    assert all(state.error() is None for state in states)
    assert states[7].text() == straight.run("w7", backend=tiny_runtime, seed=7).text()


def test_text_streams_from_a_compiled_run(tiny_runtime: Runtime) -> None:
    state = judge.compile().stream("An essay.", backend=tiny_runtime, seed=3)
    assert "".join(state.text_iter()) == state.text()


# ---------------------------------------------------------------- limits and ends


@lw.function
def endless(s: lw.State, word: str) -> None:
    s += word + lw.gen("first", max_tokens=3)
    forks = s.fork(3)
    forks += lw.gen("long", max_tokens=2000, regex="[a-z]{1900}")
    forks.join()
    s += lw.gen("never", max_tokens=3)


def test_cancelling_mid_fork_frees_everything(tiny_runtime: Runtime) -> None:
    state = endless.compile().run("x", backend=tiny_runtime, seed=1, wait=False)
    assert state.get("first", timeout=20)
    assert wait_until(lambda: tiny_runtime.stats().engine.running > 0)
    state.cancel()
    with pytest.raises(lw.Cancelled):
        state.text()
    assert wait_until(lambda: is_idle(tiny_runtime))


def test_more_tokens_than_a_run_was_given_end_it(tiny_runtime: Runtime) -> None:
    compiled = endless.compile()
    with pytest.raises(lw.LimitExceeded, match="max_total_tokens"):
        compiled.run("x", backend=tiny_runtime, seed=1, max_total_tokens=50)
    assert wait_until(lambda: is_idle(tiny_runtime))
    used = judge.compile().run("y", backend=tiny_runtime, seed=2).usage().output
    assert judge.compile().run("y", backend=tiny_runtime, seed=2, max_total_tokens=used)["verdict"]
    with pytest.raises(lw.LimitExceeded):
        judge.compile().run("y", backend=tiny_runtime, seed=2, max_total_tokens=used - 1)


def test_a_timeout_ends_a_compiled_run_in_the_engine_too(tiny_runtime: Runtime) -> None:
    with pytest.raises(lw.DeadlineExceeded):
        endless.compile().run("x", backend=tiny_runtime, seed=1, timeout=0.5)
    assert wait_until(lambda: is_idle(tiny_runtime))


def test_a_client_that_vanishes_leaves_nothing(tiny_runtime: Runtime) -> None:
    connection = lw.connect(tiny_runtime.address)
    endless.compile().run("x", backend=connection, seed=1, wait=False)
    assert wait_until(lambda: tiny_runtime.stats().engine.running > 0)
    connection.shutdown()
    assert wait_until(lambda: is_idle(tiny_runtime))


def test_a_failed_op_fails_what_depends_on_it(tiny_runtime: Runtime) -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "x" + lw.gen("good", max_tokens=3)
        forks = s.fork(2)
        forks[0] += lw.gen("bad", regex="a++", max_tokens=3)
        forks[1] += forks[0]["bad"] + lw.gen("never", max_tokens=3)
        s += lw.gen("after", max_tokens=3)

    state = program.compile().run(backend=tiny_runtime, seed=1, wait=False)
    with pytest.raises(lw.RegexError, match="gen 'bad'"):
        state.text(timeout=20)
    assert state["good"]
    assert state["after"]
    assert wait_until(lambda: is_idle(tiny_runtime))


def test_text_that_does_not_fit_fails_what_forks_from_it_by_name(tiny_runtime: Runtime) -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "a word " * 2000
        forks = s.fork(2)
        forks += lw.gen("x", max_tokens=2)
        forks.join()
        s += lw.gen("y", max_tokens=2)

    for run in (program.compile().run, program.run):
        state = run(backend=tiny_runtime, seed=1, wait=False)
        for name in ("x", "y"):
            with pytest.raises(lw.PromptTooLong):
                state.get(name, timeout=20)
        state.cancel()
    assert wait_until(lambda: is_idle(tiny_runtime))


def test_only_who_may_read_along_is_told_texts_as_they_grow(tiny_runtime: Runtime) -> None:
    heard: list[str] = []

    class Hearing(OpByOp):
        def call(self, program: Encoded, arguments: Any, terms: Terms, listener: Listener) -> Session:
            def hear(event: Event) -> None:
                heard.append(type(event).__name__)
                listener(event)

            return self._runtime.call(program, arguments, terms, hear)

        def warm(self, program: Encoded) -> Session:
            return self._runtime.warm(program)

    backend, compiled = Hearing(tiny_runtime), straight.compile()
    whole = compiled.run("w", backend=backend, seed=1)
    assert "Chunk" not in heard
    heard.clear()
    (batched,) = compiled.run_batch([{"word": "w"}], backend=backend, seed=1)
    assert "Chunk" not in heard
    assert (batched["a"], batched["b"]) == (whole["a"], whole["b"])
    streamed = compiled.stream("w", backend=backend, seed=1)
    assert "".join(streamed.text_iter()) == whole.text()
    assert "Chunk" in heard


def test_bounds_come_from_the_constraints(tiny_runtime: Runtime) -> None:
    @lw.function
    def program(s: lw.State, word: str) -> None:
        s += word + lw.gen("date", regex="[0-9]{4}-[0-9]{2}") + lw.gen("free") + lw.gen("word", regex="[a-z]+")

    explanation = program.compile().explain(backend=tiny_runtime)
    told = {section.title: section.lines for section in explanation.sections}
    assert told["max_tokens"] == ("0.1 gen date: at most 7 tokens, asked are the run's",)


# ---------------------------------------------------------------- the front by itself


@contextmanager
def recording(front: Front) -> Iterator[list[Request]]:
    """The requests that the engine gets meanwhile."""
    seen: list[Request] = []
    submit = front.link.submit

    def record(request: Request, rules: Any, on_event: Any) -> None:
        seen.append(request)
        submit(request, rules, on_event)

    front.link.submit = record  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        front.link.submit = submit  # type: ignore[method-assign]


@lw.function
def straight(s: lw.State, word: str) -> None:
    s += word + lw.gen("a", max_tokens=3) + "text" + lw.gen("b", max_tokens=3) + lw.select("c", ["x", "y"]) + "end"


@lw.function
def refers(s: lw.State, word: str) -> None:
    s += word + lw.gen("a", max_tokens=3) + lw.gen("b", max_tokens=3)
    s += s["a"] + s["b"] + lw.gen("c", max_tokens=3) + word + lw.gen("d", max_tokens=3)
    forks = s.fork(2)
    for fork in forks:
        fork += fork["d"] + lw.gen("e", max_tokens=2)
    (idle,) = s.fork(1)
    idle += "only text"
    s += forks[1]["e"]


async def executed(server: FrontServer, program: lw.Function) -> lw.State:
    connection = await asyncio.to_thread(lw.connect, server.address)
    try:
        return await asyncio.to_thread(program.compile().run, "word", backend=connection, seed=1, timeout=30)
    finally:
        await asyncio.to_thread(connection.shutdown)


def test_a_program_makes_as_many_requests_as_its_chains_and_holds_only_what_is_continued(tmp_path: Any) -> None:
    async def work() -> None:
        engine = EngineConfig(model="tiny", dtype="float64", kv_tokens=4096, threads=1)
        front = await Front.start(engine, ServerConfig())
        server = FrontServer(front, f"ipc://{tmp_path}/s", 64)
        server.start()
        try:
            for program, requests, holds in ((straight, 1, 0), (refers, 4, 2), (judge, 5, 1)):
                expected = chains(program.compile().ir)
                with recording(front) as seen:
                    await executed(server, program)
                assert len(seen) == sum(map(len, expected)) == requests, program.name
                assert sum(request.hold_lease is not None for request in seen) == holds, program.name
            await branches_go_together_the_longest_first(front, server)
            await constraints_compile_before_the_first_call(front, server)
            await programs_are_forgotten_and_come_again(front, server)
        finally:
            await server.close()
            await front.close()

    asyncio.run(work())


async def branches_go_together_the_longest_first(front: Front, server: FrontServer) -> None:
    @lw.function
    def uneven(s: lw.State, word: str) -> None:
        s += word
        for fork, tokens in zip(s.fork(3), (2, 4, 3), strict=True):
            fork += str(tokens) + lw.gen("x", max_tokens=tokens)

    with recording(front) as seen:
        await executed(server, uneven)
    gens = [segment for request in seen[1:] for segment in request.chain if isinstance(segment, GenSegment)]
    assert [gen.sampling.max_tokens for gen in gens] == [4, 3, 2]
    assert len({request.group for request in seen[1:]}) == 1
    assert seen[1].group is not None
    assert all(request.parent_lease == seen[0].hold_lease for request in seen[1:])


async def constraints_compile_before_the_first_call(front: Front, server: FrontServer) -> None:
    program = Program((Branch((Text("a"), Gen("x", constraint=Regex("only [0-9] here")))),))
    task = front.programs.register("", program.hash, program.to_msgpack())
    assert (await task).prefix == 1
    key = constraint_key(Regex("only [0-9] here"))
    for _ in range(1000):
        if key in front.pool._cache:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody compiled it")


async def programs_are_forgotten_and_come_again(front: Front, server: FrontServer) -> None:
    """A front that forgets a program gets it again, and one that is none is refused by name."""
    connection = await asyncio.to_thread(lw.connect, server.address)
    compiled = straight.compile()
    try:
        for _ in range(2):
            front.programs = Programs(front.pool)  # everything is forgotten
            state = await asyncio.to_thread(compiled.run, "word", backend=connection, seed=1, timeout=30)
            assert state["c"] in ("x", "y")
    finally:
        await asyncio.to_thread(connection.shutdown)


def test_what_is_no_program_is_refused_on_the_wire(tiny_runtime: Runtime) -> None:
    cyclic = Program((Branch((Text("a"), Ref("x", (0, 2)), Gen("x"))),))
    other = Program((Branch((Text("a"),)),))
    for data, name, message in (
        (cyclic.to_msgpack(), cyclic.hash, "branch 0, op 1 .*waits for something"),
        (b"garbage", Encoded(other, b"", "0" * 32).hash, "not a program"),
        (other.to_msgpack(), "1" * 32, "not the one that its hash names"),
    ):
        client = Client(tiny_runtime.address)
        heard: list[Any] = []
        try:
            client.call(name, data, {}, Sampling(), 1, heard.append)
            assert wait_until(heard.__len__)
            assert heard[0].error.type == "ProgramError"
            with pytest.raises(lw.ProgramError, match=message):
                raise lw.ProgramError(heard[0].error.message)
        finally:
            client.close()


def test_a_call_without_an_argument_says_which(tiny_runtime: Runtime) -> None:
    program = Encoded.of(straight.compile().ir)
    client = Client(tiny_runtime.address)
    heard: list[Any] = []
    try:
        client.call(program.hash, program.data, {}, Sampling(), 1, heard.append)
        assert wait_until(lambda: len(heard) >= 3)
        assert "no argument 'word'" in heard[0].error.message
    finally:
        client.close()
