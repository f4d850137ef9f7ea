"""The branches of a fork: appending to all of them, and both ways to join them."""

from __future__ import annotations

from typing import Any

import pytest

import latticework as lw
from latticework.lang.backends.scripted import Reply
from latticework.lang.ir import Branch, Fork, Gen, Join, Program, Role, Text

pytestmark = pytest.mark.timeout(60)


def run(body: Any, replies: Any = (), **settings: Any) -> lw.State:
    with lw.Scripted(replies) as backend:
        return lw.function(body).run(backend=backend, seed=0, **settings)


def named(prompt: str, op: Any) -> str:
    return f"<{op.name}>"


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("same", ["same", "same"]),
        (lw.gen("x"), ["<x>", "<x>"]),
        (lambda i: f"branch {i}", ["branch 0", "branch 1"]),
        (lambda i: f"{i}: " + lw.gen("x"), ["0: <x>", "1: <x>"]),
        (["left", lw.gen("x")], ["left", "<x>"]),
        (("left", "right"), ["left", "right"]),
    ],
)
def test_what_is_added_to_a_group_goes_to_every_branch(value: Any, texts: list[str]) -> None:
    def body(s: lw.State) -> list[str]:
        forks = s.fork(2)
        forks += value
        return [fork.text() for fork in forks]

    assert run(body, named).ret_value == texts


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["only one"], "1 values were given to 2 branches"),
        (5, "a int cannot be appended to branches"),
        (None, "a NoneType cannot be appended"),
        ({"a": 1}, "a dict cannot be appended"),
        (lambda i: i, "a int cannot be appended"),
    ],
)
def test_what_cannot_be_added_to_a_group_is_refused(value: Any, message: str) -> None:
    def body(s: lw.State) -> None:
        forks = s.fork(2)
        with pytest.raises(lw.InvalidArgument, match=message):
            forks += value

    run(body)


def test_appending_the_branches_is_their_own_text_in_order_with_their_messages() -> None:
    def body(s: lw.State) -> None:
        s += lw.user("base")
        forks = s.fork(2)
        forks[0] += lw.user("one " + lw.gen("x"))
        forks[1] += lw.assistant("two")
        deeper = forks[1].fork(2)
        deeper += "never seen"
        deeper.join()
        forks.join("concate_and_append")
        s += lw.user("end")
        assert s.variables() == ()

    state = run(body, named)
    assert state.messages() == [
        {"role": "user", "content": "base"},
        {"role": "user", "content": "one <x>"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "end"},
    ]
    assert state.program().branches[0] == Branch(
        (
            *(Role("user"), Text("base"), Role(None)),
            *(Fork((1, 2)), Join((1, 2))),
            *(Role("user"), Text("one "), Text("<x>"), Role(None), Role("assistant"), Text("two"), Role(None)),
            *(Role("user"), Text("end"), Role(None)),
        )
    )


def test_a_message_that_a_branch_ends_is_ended_in_the_parent_too() -> None:
    def body(s: lw.State) -> None:
        s += lw.user_begin() + "a"
        forks = s.fork(1)
        forks += "b" + lw.user_end()
        forks.join("concate_and_append")
        s += lw.assistant("c")

    assert [message["content"] for message in run(body).messages()] == ["ab", "c"]


def test_joining_twice_gathers_once_and_appends_once() -> None:
    def body(s: lw.State) -> None:
        for mode in ("gather_variable", "concate_and_append"):
            forks = s.fork(2)
            forks += "x"
            forks.join(mode)
            forks.join(mode)

    state = run(body)
    assert state.text() == "xx"
    assert state.program() == Program(
        (
            Branch((Fork((1, 2)), Join((1, 2)), Fork((3, 4)), Join((3, 4)), Text("x"), Text("x"))),
            *[Branch((Text("x"),))] * 4,
        )
    )


def test_an_unknown_mode_is_refused_and_joins_nothing() -> None:
    def body(s: lw.State) -> None:
        forks = s.fork(2)
        with pytest.raises(lw.InvalidArgument, match="mode is 'append'"):
            forks.join("append")  # type: ignore[arg-type]
        forks += "still open"

    run(body)


def test_a_failed_branch_is_not_appended_and_its_error_is_raised() -> None:
    def body(s: lw.State) -> None:
        s += "a"
        forks = s.fork(2)
        forks += ["fine", lw.gen("x")]
        with pytest.raises(lw.EngineDied):
            forks.join("concate_and_append")
        assert s.text() == "a"

    run(body, {"x": lw.EngineDied("died")})


def test_a_join_has_a_deadline() -> None:
    def body(s: lw.State) -> None:
        for mode in ("gather_variable", "concate_and_append"):
            forks = s.fork(2)
            forks += lw.gen("x")
            with pytest.raises(lw.DeadlineExceeded):
                forks.join(mode, timeout=0.01)
        s.cancel()

    with pytest.raises(lw.Cancelled):
        run(body, {"x": Reply("late", delay=3600.0)})


def test_cancelling_in_the_middle_of_a_fork_fails_every_branch_and_leaves_nothing_open() -> None:
    def body(s: lw.State) -> None:
        forks = s.fork(3)
        forks += lw.gen("x")
        s.cancel()
        for read in (forks.join, lambda: forks[1]["x"], forks[2].text):
            with pytest.raises(lw.Cancelled):
                read()
        with pytest.raises(lw.Cancelled):
            s.fork(2)

    with lw.Scripted({"x": Reply("late", delay=3600.0)}) as backend, pytest.raises(lw.Cancelled):
        lw.function(body).run(backend=backend)
    assert (backend.opened, backend.closed) == (1, 1)


def test_branches_of_another_state_cannot_be_put_in_and_joined_ones_are_closed() -> None:
    def body(s: lw.State) -> None:
        first, second = s.fork(2), s.fork(2)
        with pytest.raises(lw.InvalidArgument, match="cannot be replaced"):
            first[0] = second[0]
        inner = first[0].fork(2)
        first.join()
        with pytest.raises(lw.ProgramError, match="joined"):
            inner.join()  # its parent is over
        with pytest.raises(lw.ProgramError, match="joined"):
            first += "x"
        second.join()

    run(body)


def test_a_copy_is_a_branch_that_is_joined_at_its_end() -> None:
    def body(s: lw.State) -> None:
        s += "a"
        with s.copy() as copied:
            copied += lw.gen("x")
            assert copied.text() == "a<x>"
        assert s["x"] == ["<x>"]
        assert s.text() == "a"

    run(body, named)


def test_a_fork_takes_sglangs_arguments() -> None:
    def body(s: lw.State) -> None:
        assert len(s.fork(size=3, position_ids_offset=None)) == 3
        assert len(s.fork()) == 1
        with pytest.raises(lw.Unsupported, match="positions"):
            s.fork(2, [0, 1])

    run(body)


# ---------------------------------------------------------------- scopes, and messages by halves


def test_a_scope_is_all_that_was_appended_in_it() -> None:
    def body(s: lw.State) -> None:
        s += "before "
        with s.var_scope("outer") as opened:
            assert opened is s
            s += "{" + lw.gen("x")
            with s.var_scope("inner"):
                s += lw.gen() + "-" + lw.select("y", ["yes"])
            assert "outer" not in s
            s += "}"
        s += " after " + s["inner"]
        with pytest.raises(lw.ProgramError, match="set by the program"):
            s.meta("inner")

    state = run(body, lambda prompt, op: "yes" if op.name == "y" else f"<{op.name}>")
    assert state["outer"] == state.value("outer") == "{<x><None>-yes}"
    assert state["inner"] == "<None>-yes"
    assert state.text() == "before {<x><None>-yes} after <None>-yes"
    assert "".join(state.text_iter("outer")) == state["outer"]


def test_a_scope_of_a_branch_is_gathered() -> None:
    def body(s: lw.State) -> None:
        forks = s.fork(2)
        for index, fork in enumerate(forks):
            with fork.var_scope("v"):
                fork += f"{index}" + lw.gen()
        forks.join()

    assert run(body, named)["v"] == ["0<None>", "1<None>"]


def test_a_scope_that_failed_raises_why() -> None:
    def body(s: lw.State) -> None:
        with s.var_scope("v"):
            s += lw.gen("x")
        with pytest.raises(lw.EngineDied):
            s["v"]

    run(body, {"x": lw.EngineDied("died")})


def test_messages_by_halves_are_messages() -> None:
    def body(s: lw.State) -> None:
        s += lw.system_begin() + "a" + lw.system_end() + lw.user_begin()
        s += "b"
        s += lw.user_end() + lw.assistant_begin() + lw.gen("x")
        s += lw.assistant_end() + lw.user()

    assert [(one["role"], one["content"]) for one in run(body, named).messages()] == [
        ("system", "a"),
        ("user", "b"),
        ("assistant", "<x>"),
        ("user", ""),
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lw.user_end(), "no message is open"),
        (lambda: lw.user_begin() + "a" + lw.assistant_end(), "a user message is open"),
        (lambda: lw.user_begin() + lw.assistant_begin(), "cannot stand inside a user message"),
    ],
)
def test_halves_that_do_not_match_are_refused_at_the_users_line(make: Any, message: str) -> None:
    def body(s: lw.State) -> None:
        with pytest.raises(lw.ProgramError, match=message) as caught:
            s += make()
        assert __file__ in (caught.value.where or "")

    run(body)


def test_a_name_set_again_means_the_later_value() -> None:
    def body(s: lw.State) -> None:
        s += lw.gen("x") + lw.gen("x")
        assert s["x"] == "2"
        s["x"] = "mine"
        assert s["x"] == "mine"
        s += lw.gen("x")
        assert s["x"] == "3"

    run(body, {"x": ["1", "2", "3"]})


def test_a_gen_inside_a_group_keeps_its_own_settings() -> None:
    def body(s: lw.State) -> None:
        forks = s.fork(2)
        forks += lambda i: lw.gen("x", max_tokens=i + 1)

    gens = [branch.ops[0] for branch in run(body, named).program().branches[1:]]
    assert gens == [Gen("x", lw.Sampling(max_tokens=n), ("max_tokens",)) for n in (1, 2)]
