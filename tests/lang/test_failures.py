"""Errors surface wherever the program or its caller looks, and nothing hangs."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import latticework as lw
from latticework.lang.backends.base import Listener
from latticework.lang.backends.scripted import Reply
from latticework.lang.events import Done, Failed
from latticework.lang.ir import Op, Sampling

BROKEN = lw.EngineDied("the engine process ended", hint="it is being restarted")
NEVER = Reply("late", delay=3600.0)


def run(body: Callable[[lw.State], Any], replies: Any = (), /, **settings: Any) -> lw.State:
    with lw.Scripted(replies) as backend:
        return lw.function(body).run(backend=backend, **settings)


# ---------------------------------------------------------------- a failed op


def test_a_failed_gen_raises_from_run_with_its_op_and_line() -> None:
    def body(s: lw.State) -> None:
        s += "a" + lw.gen("x")

    with pytest.raises(lw.EngineDied, match="the engine process ended") as caught:
        run(body, {"x": BROKEN})
    assert caught.value.where is not None
    assert caught.value.where.startswith("gen 'x' (")
    assert f"{__file__}:{body.__code__.co_firstlineno + 1})" in caught.value.where
    assert caught.value.hint == "it is being restarted"


@pytest.mark.parametrize(
    "read",
    [
        lambda s: s["x"],
        lambda s: s["after"],
        lambda s: s.value("x"),
        lambda s: s.meta("x"),
        lambda s: s.text(),
        lambda s: s.messages(),
        lambda s: s.wait(),
        lambda s: list(s.text_iter()),
        lambda s: list(s.text_iter("x")),
        lambda s: list(s.text_iter("after")),
        lambda s: s.fork(2)[1].text(),
        lambda s: s.fork(1).join() or s.text(),
    ],
)
def test_every_read_of_what_failed_raises_the_real_error(read: Callable[[lw.State], object]) -> None:
    def body(s: lw.State) -> None:
        s += "a" + lw.gen("ok") + lw.gen("x")
        s += "b" + lw.gen("after")
        with pytest.raises(lw.EngineDied, match="gen 'x'"):
            read(s)
        assert s["ok"] == "fine"
        assert isinstance(s.error(), lw.EngineDied)

    run(body, {"ok": "fine", "x": BROKEN, "after": "never asked"})


def test_appending_after_a_failure_never_hangs() -> None:
    def body(s: lw.State) -> None:
        s += lw.gen("x")
        with pytest.raises(lw.EngineDied):
            s["x"]
        s += "more" + lw.gen("y") + lw.select("z", ["a"])
        s.user(lw.gen())
        forks = s.fork(3)
        forks += lw.gen("w")
        for read in (lambda: s["y"], lambda: s["z"], lambda: forks[2]["w"], forks.join, s.text):
            with pytest.raises(lw.EngineDied):
                read()

    with lw.Scripted({"x": BROKEN}) as backend:
        lw.function(body).run(backend=backend)
        assert [name for name, _, _ in backend.asked] == ["x"]


def test_a_failed_branch_fails_alone_and_raises_at_its_join() -> None:
    def body(s: lw.State) -> None:
        s += "p"
        forks = s.fork(3)
        forks[0] += lw.gen("good")
        forks[1] += lw.gen("bad")
        forks[2] += lw.gen("good")
        with pytest.raises(lw.EngineDied, match="gen 'bad'"):
            forks.join()
        assert forks[2]["good"] == "yes"
        with pytest.raises(lw.EngineDied):
            s["bad"]
        s += lw.gen("after")

    state = run(body, {"good": "yes", "bad": BROKEN, "after": "!"})
    assert state.text() == "p!"


def test_a_failure_nobody_looked_at_raises_at_the_end_of_the_run() -> None:
    def body(s: lw.State) -> None:
        s.fork(2)[1].__iadd__(lw.gen("x"))

    with pytest.raises(lw.EngineDied):
        run(body, {"x": BROKEN})


def test_a_failure_the_body_has_caught_is_not_raised_again() -> None:
    def body(s: lw.State) -> str:
        (fork,) = s.fork(1)
        fork += lw.gen("x")
        try:
            return fork["x"]
        except lw.EngineDied:
            s += "plan b"
            return "b"

    state = run(body, {"x": BROKEN})
    assert (state.text(), state.ret_value) == ("plan b", "b")
    assert isinstance(state.error(), lw.EngineDied)


def test_a_failed_fork_child_does_not_take_the_variables_before_it() -> None:
    def body(s: lw.State) -> None:
        s += lw.gen("a")
        (fork,) = s.fork(1)
        fork += lw.gen("x")
        with pytest.raises(lw.EngineDied):
            fork["x"]
        assert fork["a"] == s["a"] == "A"

    run(body, {"a": "A", "x": BROKEN})


def test_each_raise_is_a_fresh_exception() -> None:
    def body(s: lw.State) -> None:
        s += lw.gen("x")
        caught = []
        for _ in range(2):
            try:
                s["x"]
            except lw.EngineDied as error:
                caught.append(error)
        assert caught[0] is not caught[1]

    run(body, {"x": BROKEN})


def test_an_error_that_is_none_of_ours_still_arrives() -> None:
    with pytest.raises(lw.RuntimeFailure, match="boom"):
        run(lambda s: s.__iadd__(lw.gen("x")), {"x": ValueError("boom")})


# ---------------------------------------------------------------- the body's own errors


def test_an_exception_of_the_body_is_raised_as_it_is_and_ends_the_run() -> None:
    def body(s: lw.State) -> None:
        s += lw.gen("x")
        raise ZeroDivisionError("mine")

    with lw.Scripted({"x": NEVER}) as backend:
        with pytest.raises(ZeroDivisionError, match="mine"):
            lw.function(body).run(backend=backend)
        wait_until(lambda: backend.closed == 1)


def test_a_body_in_a_thread_hands_its_exception_to_every_reader() -> None:
    def body(s: lw.State) -> None:
        s += lw.gen("x")
        assert s["x"] == "a"
        raise ZeroDivisionError("mine")

    with lw.Scripted({"x": "a"}) as backend:
        state = lw.function(body).run(backend=backend, wait=False)
        for read in (state.text, state.wait, lambda: state["later"], lambda: list(state.text_iter())):
            with pytest.raises(ZeroDivisionError):
                read()
        assert state["x"] == "a"
        assert isinstance(state.error(), ZeroDivisionError)


# ---------------------------------------------------------------- deadlines and cancelling


@pytest.mark.parametrize(
    "read",
    [
        lambda s: s.get("x", timeout=0.01),
        lambda s: s.value("x", timeout=0.01),
        lambda s: s.meta("x", timeout=0.01),
        lambda s: s.text(timeout=0.01),
        lambda s: s.messages(timeout=0.01),
        lambda s: s.wait(timeout=0.01),
        lambda s: list(s.text_iter(timeout=0.01)),
        lambda s: list(s.text_iter("x", timeout=0.01)),
    ],
)
def test_every_wait_takes_a_deadline(read: Callable[[lw.State], object]) -> None:
    def body(s: lw.State) -> None:
        s += lw.gen("x")
        with pytest.raises(lw.DeadlineExceeded) as caught:
            read(s)
        assert "test_failures.py" in (caught.value.where or "")
        s.cancel()

    with pytest.raises(lw.Cancelled):
        run(body, {"x": NEVER})


def test_a_join_takes_a_deadline_and_can_be_tried_again() -> None:
    def body(s: lw.State) -> None:
        forks = s.fork(2)
        forks += lw.gen("x")
        with pytest.raises(lw.DeadlineExceeded):
            forks.join(timeout=0.001)
        forks.join()

    assert run(body, {"x": Reply("a", delay=0.05)})["x"] == ["a", "a"]


def test_a_run_takes_a_deadline_wherever_it_waits() -> None:
    def reading(s: lw.State) -> None:
        s += lw.gen("x")
        s["x"]

    def ending(s: lw.State) -> None:
        s += lw.gen("x")

    for body in (reading, ending):
        with pytest.raises(lw.DeadlineExceeded):
            run(body, {"x": NEVER}, timeout=0.02)


def test_cancelling_from_outside_ends_body_readers_and_session() -> None:
    def body(s: lw.State) -> None:
        s += lw.gen("x")
        s += lw.gen("queued")
        s["x"]

    with lw.Scripted({"x": NEVER}) as backend:
        state = lw.function(body).run(backend=backend, wait=False)
        wait_until(lambda: bool(backend.asked))
        state.cancel()
        state.cancel()
        for read in (state.text, state.wait, lambda: state["x"], lambda: state["queued"], lambda: state["nope"]):
            with pytest.raises(lw.Cancelled):
                read()
        wait_until(lambda: backend.closed == 1)


def test_a_cancelled_body_stops_at_its_next_append() -> None:
    def body(s: lw.State) -> None:
        while True:
            s += "x"
            time.sleep(0.001)

    with lw.Scripted() as backend:
        state = lw.function(body).run(backend=backend, wait=False)
        state.cancel()
        with pytest.raises(lw.Cancelled):
            state.wait(timeout=20)
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "run of body"])


def test_cancelling_in_the_middle_of_a_fork_fails_every_branch() -> None:
    def body(s: lw.State) -> None:
        forks = s.fork(3)
        forks += lw.gen("x")
        s.cancel()
        for read in (forks.join, forks[2].text, lambda: forks[0]["x"]):
            with pytest.raises(lw.Cancelled):
                read()
        with pytest.raises(lw.Cancelled):
            s += "more"

    with pytest.raises(lw.Cancelled):
        run(body, {"x": NEVER})


def test_cancelling_a_finished_run_changes_nothing() -> None:
    state = run(lambda s: s.__iadd__(lw.gen("x")), {"x": "a"})
    state.cancel()
    assert (state["x"], state.text(), state.error()) == ("a", "a", None)


def test_ctrl_c_while_waiting_cancels_the_run_and_not_the_backend() -> None:
    def body(s: lw.State) -> None:
        s += lw.gen("x")
        raise KeyboardInterrupt

    with lw.Scripted({"x": [NEVER, "again"]}) as backend:
        with pytest.raises(KeyboardInterrupt):
            lw.function(body).run(backend=backend)
        wait_until(lambda: backend.closed == 1)
        assert lw.function(lambda s: s.__iadd__(lw.gen("x"))).run(backend=backend)["x"] == "again"


# ---------------------------------------------------------------- a backend that misbehaves


class Odd:
    """A backend whose sessions do one odd thing at their first append."""

    name = "odd"

    def __init__(self, oddity: Callable[[Listener], None]) -> None:
        self.oddity = oddity

    def open(self, sampling: Sampling, seed: int, item: int, listener: Listener, timeout: float | None = None) -> "Odd":
        self.listener = listener
        return self

    def append(self, branch: int, first: int, ops: Sequence[Op]) -> None:
        self.oddity(self.listener)

    def close(self) -> None: ...

    def shutdown(self) -> None: ...


def test_a_backend_that_fails_the_whole_run_fails_it() -> None:
    backend = Odd(lambda listener: listener(Failed(0, -1, BROKEN.to_data())))
    with pytest.raises(lw.EngineDied):
        lw.function(lambda s: s.__iadd__(lw.gen("x"))).run(backend=backend)


@pytest.mark.parametrize("place", [(0, 9), (7, 0), (-1, 0)])
def test_an_answer_to_nothing_fails_the_run_instead_of_hanging_it(place: tuple[int, int]) -> None:
    backend = Odd(lambda listener: listener(Done(*place, "text", "stop")))
    with pytest.raises(lw.RuntimeFailure, match="does not exist"):
        lw.function(lambda s: s.__iadd__(lw.gen("x"))).run(backend=backend)


def test_answers_from_inside_append_and_answers_given_twice_do_no_harm() -> None:
    def twice(listener: Listener) -> None:
        listener(Done(0, 0, "one", "stop"))
        listener(Done(0, 0, "two", "stop"))
        listener(Failed(0, 0, BROKEN.to_data()))

    state = lw.function(lambda s: s.__iadd__(lw.gen("x"))).run(backend=Odd(twice))
    assert state["x"] == "one"


def test_an_append_that_raises_fails_the_run_with_that_error() -> None:
    def ours(listener: Listener) -> None:
        raise lw.ConnectionLost("gone")

    def theirs(listener: Listener) -> None:
        raise ZeroDivisionError("bug")

    for oddity, expected in ((ours, lw.ConnectionLost), (theirs, ZeroDivisionError)):
        with pytest.raises(expected):
            lw.function(lambda s: s.__iadd__(lw.gen("x"))).run(backend=Odd(oddity))


def wait_until(ready: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.002)
