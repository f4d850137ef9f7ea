"""What is wrong with a program gets a named error, and nothing of the program stays in the runtime.

Each program here has branches and gens under way, or text held, when it goes wrong; each run has a deadline.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

import latticework as lw
from latticework.lang import ir
from latticework.lang.backends.runtime import Runtime
from latticework.lang.events import Event, Failed
from latticework.lang.ir import Branch, Fork, Gen, Join, Op, Program, Ref, Role, Sampling, Text, content_hash
from latticework.runtime.link.client import Client

pytestmark = pytest.mark.timeout(120)

SECONDS = 30.0
SHORT = Sampling(max_tokens=3)


def is_idle(runtime: Runtime) -> bool:
    stats = runtime.stats()
    return stats.open_runs == stats.open_requests == stats.engine.leases == stats.engine.running == 0


def eventually(condition: Callable[[], object], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


# ---------------------------------------------------------------- programs


def begun(s: lw.State, most: int = 40) -> Any:
    """Text that is held, and branches with gens under way, of at least three quarters of `most` tokens."""
    s += "A beginning that is held. " + lw.gen("first", max_tokens=3)
    forks = s.fork(2)
    forks += lw.gen("x", max_tokens=most, regex=f"[a-z]{{{most * 3 // 4},{most}}}")
    return forks


def unknown_variable(s: lw.State) -> None:
    begun(s)
    s["nope"]


def unknown_variable_of_a_branch(s: lw.State) -> None:
    forks = begun(s)
    s += forks[0]["y"]


def the_same_choice_twice(s: lw.State) -> None:
    begun(s)
    s += lw.select("y", ["a", "b", "a"])


def a_fork_of_none(s: lw.State) -> None:
    begun(s)
    s.fork(0)


def gen_after_an_error(s: lw.State) -> None:
    begun(s)
    s += lw.gen("bad", regex="[a-z]{30}", max_tokens=3)
    s += "more" + lw.gen("late", max_tokens=3)
    s["late"]


def an_error_that_nobody_reads(s: lw.State) -> None:
    forks = begun(s)
    forks[0] += lw.gen("bad", regex="a++", max_tokens=3)
    s += "more" + lw.gen("late", max_tokens=3)


def nested_roles(s: lw.State) -> None:
    begun(s)
    with s.user():
        s += lw.assistant("x")


def an_end_of_no_message(s: lw.State) -> None:
    begun(s)
    s += lw.user_end()


def a_joined_branch_goes_on(s: lw.State) -> None:
    forks = begun(s)
    forks.join()
    forks[1] += lw.gen("late", max_tokens=3)


def a_branch_of_another_fork(s: lw.State) -> None:
    forks = begun(s)
    forks[0] = s.fork(1)[0]


def text_that_is_none(s: lw.State) -> None:
    begun(s)
    s += 7  # type: ignore[arg-type]


def an_error_of_the_body(s: lw.State) -> None:
    begun(s)
    raise KeyError("mine")


def cancelled_by_itself(s: lw.State) -> None:
    forks = begun(s)
    s.cancel()
    forks.join()


BAD: list[tuple[Callable[[lw.State], None], type[BaseException], str]] = [
    (unknown_variable, lw.UnknownVariable, "'nope'; it has: 'first'"),
    (unknown_variable_of_a_branch, lw.UnknownVariable, "'y'; it has: 'first', 'x'"),
    (the_same_choice_twice, lw.InvalidArgument, "the same choice twice"),
    (a_fork_of_none, lw.InvalidArgument, "at least 1"),
    (gen_after_an_error, lw.BudgetTooSmall, "gen 'bad'"),
    (an_error_that_nobody_reads, lw.RegexError, "gen 'bad'"),
    (nested_roles, lw.ProgramError, "inside a user message"),
    (an_end_of_no_message, lw.ProgramError, "no message is open"),
    (a_joined_branch_goes_on, lw.ProgramError, "has been joined"),
    (a_branch_of_another_fork, lw.InvalidArgument, "cannot be replaced"),
    (text_that_is_none, lw.InvalidArgument, "int"),
    (an_error_of_the_body, KeyError, "mine"),
    (cancelled_by_itself, lw.Cancelled, "cancelled"),
]


@pytest.mark.parametrize(("body", "error", "message"), BAD, ids=lambda value: getattr(value, "__name__", ""))
def test_a_wrong_program_raises_by_name_and_leaves_nothing(
    tiny_runtime: Runtime, body: Callable[[lw.State], None], error: type[BaseException], message: str
) -> None:
    with pytest.raises(error, match=message):
        lw.function(body).run(backend=tiny_runtime, seed=1, timeout=SECONDS)
    assert eventually(lambda: is_idle(tiny_runtime))


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", [object()], {"a": lambda: None}, "half \ud800"])
def test_an_argument_that_cannot_be_sent_is_named_before_anything_is(tiny_runtime: Runtime, value: Any) -> None:
    @lw.function
    def program(s: lw.State, word: Any) -> None:
        s += "Say " + word + lw.gen("x", max_tokens=3)

    with pytest.raises(lw.InvalidArgument) as caught:
        program.compile().run(value, backend=tiny_runtime, timeout=SECONDS)
    assert caught.value.field == "word"
    assert eventually(lambda: is_idle(tiny_runtime))


def test_a_client_that_vanishes_in_the_middle_of_a_fork_leaves_nothing(tiny_runtime: Runtime) -> None:
    connection = lw.connect(tiny_runtime.address)
    state = lw.function(begun).run(2000, backend=connection, seed=1, timeout=SECONDS, wait=False)
    assert state.get("first", timeout=SECONDS)
    assert eventually(lambda: tiny_runtime.stats().engine.leases > 0)
    connection.shutdown()
    with pytest.raises(lw.ConnectionLost):
        state.text(timeout=SECONDS)
    assert eventually(lambda: is_idle(tiny_runtime))


# ---------------------------------------------------------------- the wire


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ([Text("x"), Gen("a", SHORT), Fork((1,)), Join((2,)), Gen("b", SHORT)], "no fork of this branch"),
        ([Text("x"), Gen("a", SHORT), Join((0,)), Gen("b", SHORT)], "no fork of this branch"),
        ([Text("x"), Fork((0,)), Gen("a", SHORT)], "exist already"),
        ([Text("x"), Fork((1, 1)), Gen("a", SHORT)], "exist already"),
        ([Text("x"), Fork((1,)), Fork((1,)), Gen("a", SHORT)], "exist already"),
        ([Text("x"), Ref("nope"), Gen("a", SHORT)], "cannot have the op"),
    ],
)
def test_ops_that_cannot_be_fail_their_run_by_name(tiny_runtime: Runtime, ops: list[Op], message: str) -> None:
    heard: list[Event] = []
    client = Client(tiny_runtime.address)
    try:
        run = client.open(Sampling(), 1, 0, heard.append)
        client.append(run, 0, 0, ops)
        assert eventually(lambda: any(isinstance(event, Failed) for event in heard))
        errors = [event.error for event in heard if isinstance(event, Failed)]
        assert message in errors[0].message
        client.end(run)
        assert eventually(lambda: is_idle(tiny_runtime))
    finally:
        client.close()


def test_ops_out_of_order_or_of_no_branch_fail_by_name(tiny_runtime: Runtime) -> None:
    heard: list[Event] = []
    client = Client(tiny_runtime.address)
    try:
        run = client.open(Sampling(), 1, 0, heard.append)
        client.append(run, 0, 3, [Gen("a", SHORT)])
        client.append(run, 8, 0, [Gen("a", SHORT)])
        assert eventually(lambda: len(heard) == 2)
        assert all(isinstance(event, Failed) and event.error.type == "ProgramError" for event in heard)
    finally:
        client.close()
    assert eventually(lambda: is_idle(tiny_runtime))


def of_another_version() -> bytes:
    return msgspec.msgpack.encode({"version": 99, "branches": []})


def cyclic() -> bytes:
    return Program((Branch((Text("a"), Ref("x", (0, 2)), Gen("x"))),)).to_msgpack()


def with_a_fork_of_itself() -> bytes:
    fork = msgspec.to_builtins(Fork((0,)))
    return msgspec.msgpack.encode({"version": 1, "branches": [{"ops": [fork]}]})


def with_a_foreign_join() -> bytes:
    ops = [msgspec.to_builtins(op) for op in (Fork((1,)), Join((2,)))]
    return msgspec.msgpack.encode({"version": 1, "branches": [{"ops": ops}, {"ops": []}]})


def too_large() -> bytes:
    text = msgspec.to_builtins(Text("x" * (ir.MAX_TEXT_BYTES + 1)))
    return msgspec.msgpack.encode({"version": 1, "branches": [{"ops": [text]}]})


def with_nested_roles() -> bytes:
    return Program((Branch((Role("user"), Role("user"))),)).to_msgpack()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: b"garbage", "not a program"),
        (lambda: Program((Branch((Text("a"),)),)).to_msgpack()[:-2], "not a program"),
        (of_another_version, "IR version 99; this build reads 1"),
        (cyclic, "waits for something that waits for it"),
        (with_a_fork_of_itself, "which it cannot start"),
        (with_a_foreign_join, "joins a branch it did not fork"),
        (too_large, "characters of text"),
        (with_nested_roles, "a user message is open already"),
    ],
)
def test_a_program_from_the_wire_that_is_none_is_refused_by_name(
    tiny_runtime: Runtime, make: Callable[[], bytes], message: str
) -> None:
    data = make()
    heard: list[Any] = []
    client = Client(tiny_runtime.address)
    try:
        client.call(content_hash(data), data, {}, Sampling(), 1, heard.append)
        assert eventually(heard.__len__)
        assert heard[0].error.type == "ProgramError"
        assert message in heard[0].error.message
        assert eventually(lambda: is_idle(tiny_runtime))
    finally:
        client.close()
