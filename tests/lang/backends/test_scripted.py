"""The backend that answers from a script."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

import latticework as lw
from latticework.lang.backends.scripted import Reply, Scripted
from latticework.lang.events import Chunk, Done, Event, Failed, Rendered
from latticework.lang.ir import Fork, Gen, Join, Op, Ref, Role, Sampling, Select, Set, Text, derive_seed


def answers(ops: dict[int, list[Op]], until: Callable[[list[Event]], bool], **scripted: object) -> list[Event]:
    """Everything a session says about these ops, branch by branch."""
    events: list[Event] = []
    changed = threading.Condition()

    def listen(event: Event) -> None:
        with changed:
            events.append(event)
            changed.notify()

    with Scripted(**scripted) as backend:  # type: ignore[arg-type]
        session = backend.open(Sampling(), 1, 0, listen)
        for branch, block in ops.items():
            session.append(branch, 0, block)
        with changed:
            assert changed.wait_for(lambda: until(events), 20)
        session.close()
    return events


def count(n: int) -> Callable[[list[Event]], bool]:
    return lambda events: len(events) >= n


def test_every_role_is_rendered_and_every_gen_and_select_answered_in_order() -> None:
    block: list[Op] = [Role("user"), Text("a"), Gen("x"), Role(None), Select("y", ("p", "q"))]
    events = answers({0: block}, count(4), replies={"x": "X", "y": "q"})
    assert [(type(event), getattr(event, "position", None), getattr(event, "text", None)) for event in events] == [
        (Rendered, 0, "<|im_start|>user\n"),
        (Done, 2, "X"),
        (Rendered, 3, "<|im_end|>\n"),
        (Done, 4, "q"),
    ]


def test_chunks_concatenate_to_the_text() -> None:
    events = answers({0: [Gen("x")]}, done, replies=["abcde"], chunk=2)
    assert [event.text for event in events if isinstance(event, Chunk)] == ["ab", "cd", "e"]


def done(events: list[Event]) -> bool:
    return any(isinstance(event, Done) for event in events)


def test_replies_come_by_name_in_order_or_from_a_function() -> None:
    program = lw.function(lambda s: s.__iadd__("p" + lw.gen("x") + lw.gen("y") + lw.gen("x")))
    scripts: list[Any] = [
        {"x": ["1", "3"], "y": "2"},
        ["1", "2", "3"],
        lambda prompt, op: str(len(prompt)),
    ]
    for script in scripts:
        with Scripted(script) as backend:
            assert program.run(backend=backend).text() == "p123"


def test_what_is_not_scripted_fails_except_a_select_which_takes_its_first() -> None:
    with Scripted({"x": ["once"]}) as backend:
        assert lw.function(lambda s: s.__iadd__(lw.select("y", ["a", "b"]))).run(backend=backend)["y"] == "a"
        program = lw.function(lambda s: s.__iadd__(lw.gen("x")))
        program.run(backend=backend)
        with pytest.raises(lw.ProgramError, match="no reply is scripted for 'x'"):
            program.run(backend=backend)


def test_a_select_cannot_be_answered_with_something_else() -> None:
    with Scripted({"y": "c"}) as backend, pytest.raises(lw.InvalidArgument, match="none of"):
        lw.function(lambda s: s.__iadd__(lw.select("y", ["a", "b"]))).run(backend=backend)


def test_a_script_that_raises_fails_the_op_and_not_the_backend() -> None:
    def script(prompt: str, op: object) -> str:
        if prompt == "bad":
            raise ZeroDivisionError("in the script")
        return "ok"

    program = lw.function(lambda s, text: s.__iadd__(text + lw.gen("x")))
    with Scripted(script) as backend:
        with pytest.raises(lw.RuntimeFailure, match="in the script"):
            program.run("bad", backend=backend)
        assert program.run("good", backend=backend)["x"] == "ok"


def test_a_child_may_be_appended_to_before_its_fork_has_run() -> None:
    ops: dict[int, list[Op]] = {0: [Gen("slow"), Fork((1,)), Join((1,)), Gen("after")], 1: [Gen("child")]}
    replies = {"slow": Reply("s", delay=0.02), "child": Reply("c", delay=0.02), "after": "a"}
    events = answers(ops, count(3), replies=replies)
    assert [event.text for event in events if isinstance(event, Done)] == ["s", "c", "a"]


def test_variables_set_and_referred_to_become_text() -> None:
    prompts: list[str] = []

    def script(prompt: str, op: object) -> str:
        prompts.append(prompt)
        return "G"

    answers({0: [Gen("x"), Set("v", (Text("<"), Ref("x"))), Ref("v"), Ref("x"), Gen("y")]}, count(2), replies=script)
    assert prompts == ["", "G<GG"]
    events = answers({0: [Ref("nope"), Gen("y")]}, count(1))
    assert isinstance(events[0], Failed)
    assert events[0].error.type == "UnknownVariable"


def test_seeds_follow_the_place_of_the_op() -> None:
    ops: dict[int, list[Op]] = {0: [Gen("a"), Fork((1, 2)), Gen("b")], 1: [Gen("c")], 2: [Gen("d"), Gen("e")]}
    events = answers(ops, count(5), replies=lambda prompt, op: "x")
    seeds = {(event.branch, event.position): event.seed for event in events if isinstance(event, Done)}
    assert seeds == {
        (0, 0): derive_seed(1, 0, (), 0),
        (0, 2): derive_seed(1, 0, (), 1),
        (1, 0): derive_seed(1, 0, (0, 0), 0),
        (2, 0): derive_seed(1, 0, (0, 1), 0),
        (2, 1): derive_seed(1, 0, (0, 1), 1),
    }


def test_closing_answers_what_is_open_with_cancelled() -> None:
    events: list[Event] = []
    with Scripted({"x": Reply("late", delay=3600.0)}) as backend:
        session = backend.open(Sampling(), 1, 0, events.append)
        session.append(0, 0, [Gen("x"), Text("a"), Role("user"), Select("y", ("a",))])
        session.close()
        session.close()
        session.append(0, 4, [Gen("x")])
        seen = threading.Event()
        backend.later(0.0, seen.set)
        assert seen.wait(20)
        assert backend.closed == 1
    assert [(event.position, event.error.type) for event in events if isinstance(event, Failed)] == [
        (0, "Cancelled"),
        (2, "Cancelled"),
        (3, "Cancelled"),
    ]


def test_shutting_down_fails_the_runs_that_are_open() -> None:
    backend = Scripted({"x": Reply("late", delay=3600.0)})
    state = lw.function(lambda s: s.__iadd__(lw.gen("x"))).run(backend=backend, wait=False)
    backend.shutdown()
    with pytest.raises(lw.ConnectionLost):
        state.text()


def test_shutting_down_ends_the_thread_and_refuses_new_runs() -> None:
    backend = Scripted()
    backend.open(Sampling(), 1, 0, lambda event: None)
    backend.shutdown()
    backend.shutdown()
    assert not [thread for thread in threading.enumerate() if thread.name == "scripted backend"]
    with pytest.raises(lw.ConnectionLost):
        backend.open(Sampling(), 1, 0, lambda event: None)
