"""Appending and reading: text, variables, roles, forks, joins, waits and messages."""

import time
from typing import Any

import pytest
from pydantic import BaseModel

import latticework as lw
from latticework.lang.backends.scripted import Reply
from latticework.lang.events import TokenLogprob, Usage
from latticework.lang.ir import Branch, Fork, Gen, Join, Program, Role, Set, Text


class City(BaseModel):
    name: str
    population: int


def run(body: Any, replies: Any = (), **scripted: Any) -> lw.State:
    with lw.Scripted(replies, **scripted) as backend:
        return lw.function(body).run(backend=backend, seed=0)


# ---------------------------------------------------------------- reading


def test_the_program_of_the_readme_gives_a_typed_value() -> None:
    @lw.function
    def extract(s: lw.State, text: str) -> None:
        s += lw.system("You extract data.")
        s += lw.user("Text: " + text)
        s += lw.assistant(lw.gen("city", schema=City, max_tokens=80, temperature=0))

    with lw.Scripted({"city": '{"name":"Rome","population":3}'}) as backend:
        state = extract.run(text="Rome has 3", backend=backend)
    assert state["city"] == '{"name":"Rome","population":3}'
    assert state.value("city") == City(name="Rome", population=3)
    assert state.messages() == [
        {"role": "system", "content": "You extract data."},
        {"role": "user", "content": "Text: Rome has 3"},
        {"role": "assistant", "content": '{"name":"Rome","population":3}'},
    ]
    assert state.text() == (
        "<|im_start|>system\nYou extract data.<|im_end|>\n<|im_start|>user\nText: Rome has 3<|im_end|>\n"
        '<|im_start|>assistant\n{"name":"Rome","population":3}<|im_end|>\n'
    )


def test_a_variable_read_in_the_body_can_be_appended_again() -> None:
    def body(s: lw.State) -> None:
        s += "q: " + lw.gen("x")
        s += " again " + s["x"]

    assert run(body, {"x": "A"}).text() == "q: A again A"


def test_meta_tells_how_a_variable_came_about() -> None:
    reply = Reply("ab", finish="length", complete=False, logprobs=(TokenLogprob(1, "ab", 0.0),))

    def body(s: lw.State) -> None:
        s += "1234" + lw.gen("x") + lw.select("y", ["p", "q"])

    state = run(body, {"x": reply, "y": Reply("q", scores=(-2.0, -1.0))})
    meta = state.meta("x")
    assert (meta.finish, meta.complete, meta.usage) == ("length", False, Usage(prompt=4, computed=4, output=2))
    assert meta.logprobs[0].logprob == 0.0
    assert (state.meta("y").finish, state.meta("y").scores) == ("select", (-2.0, -1.0))
    assert state.usage() == Usage(prompt=4 + 6, computed=4 + 6, output=3)


def test_value_is_the_text_where_no_type_was_asked_for() -> None:
    def body(s: lw.State) -> None:
        s += lw.gen("x") + lw.select("y", ["p"]) + lw.gen("z", json_schema={"type": "array"}) + lw.gen("w", schema=int)

    state = run(body, {"x": "5", "z": "[1]", "w": "5"})
    assert [state.value(name) for name in "xyzw"] == ["5", "p", [1], 5]


def test_a_value_that_does_not_decode_raises_with_its_text() -> None:
    def body(s: lw.State) -> None:
        s += lw.gen("x", schema=City)

    state = run(body, {"x": '{"name": "Ro'})
    with pytest.raises(lw.InvalidValue, match="Ro"):
        state.value("x")
    assert state["x"] == '{"name": "Ro'


def test_an_unknown_variable_raises_at_once_and_lists_the_known_ones() -> None:
    def body(s: lw.State) -> None:
        s += lw.gen("x") + lw.gen("y")
        with pytest.raises(lw.UnknownVariable, match=r"'nope'.*'x', 'y'") as caught:
            s["nope"]
        assert "test_state.py" in (caught.value.where or "")
        with pytest.raises(KeyError):
            list(s.text_iter("nope"))

    # Nothing is answered while the body looks: were it waiting, this would hang.
    state = run(body, {"x": Reply("a", delay=0.1), "y": "b"})
    for read in (state.get, state.value, state.meta):
        with pytest.raises(lw.UnknownVariable):
            read("nope")
    assert "nope" not in state
    assert "x" in state


def test_the_program_sets_variables_of_its_own() -> None:
    def body(s: lw.State) -> None:
        s["a"] = "text"
        s["b"] = 5
        s["a"] += " more"
        s += s["a"]
        (fork,) = s.fork(1)
        assert fork["a"] == "text more"
        with pytest.raises(lw.InvalidArgument):
            s[""] = "x"
        with pytest.raises(lw.InvalidArgument):
            s["c"] = lw.gen("d")

    state = run(body)
    assert (state["a"], state["b"], state.value("b"), state.text()) == ("text more", 5, 5, "text more")
    assert Set("b", (Text("5"),)) in state.program().branches[0].ops
    with pytest.raises(lw.ProgramError, match="meta"):
        state.meta("a")


def test_a_name_used_twice_reads_as_the_later_one() -> None:
    def body(s: lw.State) -> None:
        for expected in ("one", "two"):
            s += lw.gen("x")
            assert s["x"] == expected

    assert run(body, {"x": ["one", "two"]})["x"] == "two"


def test_a_gen_without_a_name_is_text_only() -> None:
    def body(s: lw.State) -> None:
        s += "a" + lw.gen() + lw.select(None, ["c"])

    state = run(body, ["b"])
    assert state.text() == "abc"
    assert state.variables() == ()


@pytest.mark.parametrize("value", [5, None, b"bytes", ["a"], {"a": 1}])
def test_only_text_and_expressions_can_be_appended(value: Any) -> None:
    def body(s: lw.State) -> None:
        with pytest.raises(lw.InvalidArgument, match="cannot be appended"):
            s += value

    run(body)


# ---------------------------------------------------------------- roles


def test_roles_as_methods_as_blocks_and_as_expressions_are_the_same() -> None:
    def methods(s: lw.State) -> None:
        s.system("a")
        s.user("b" + lw.gen("x"))
        s.assistant(lw.gen("y"))

    def blocks(s: lw.State) -> None:
        with s.system():
            s += "a"
        with s.user():
            s += "b"
            s += lw.gen("x")
        with s.assistant() as message:
            message += lw.gen("y")

    def expressions(s: lw.State) -> None:
        s += lw.system("a") + lw.user("b" + lw.gen("x"))
        s += lw.assistant(lw.gen("y"))

    replies = {"x": "1", "y": "2"}
    states = [run(body, replies) for body in (methods, blocks, expressions)]
    assert len({state.text() for state in states}) == 1
    assert len({state.program() for state in states}) == 1
    assert states[0].messages()[1] == {"role": "user", "content": "b1"}


def test_a_message_inside_a_message_raises_at_the_line() -> None:
    def body(s: lw.State) -> None:
        with s.user():
            s += "a"
            with pytest.raises(lw.ProgramError, match="assistant message cannot stand inside a user message") as caught:
                s += lw.assistant("b")
            assert "test_state.py" in (caught.value.where or "")

    run(body)


def test_an_error_inside_a_message_block_is_the_one_that_is_raised() -> None:
    def body(s: lw.State) -> None:
        with s.user():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(body)


def test_text_outside_messages_is_text_but_no_message() -> None:
    def body(s: lw.State) -> None:
        s += "before"
        s.user("a")
        s += "after"

    state = run(body, roles="plain")
    assert state.text() == "beforeuser: a\nafter"
    assert state.messages() == [{"role": "user", "content": "a"}]


# ---------------------------------------------------------------- forks


def test_branches_continue_from_the_parents_text_and_variables() -> None:
    def body(s: lw.State) -> None:
        s += "p " + lw.gen("a")
        forks = s.fork(2)
        for index, fork in enumerate(forks):
            fork += f" {index} " + lw.gen("b")
        assert [fork["a"] for fork in forks] == ["A", "A"]
        assert [fork.text() for fork in forks] == ["p A 0 B", "p A 1 B"]
        forks.join()
        s += " then " + lw.gen("c")
        assert forks[1].text() == "p A 1 B"

    with lw.Scripted({"a": "A", "b": "B", "c": "C"}) as backend:
        state = lw.function(body).run(backend=backend)
        assert state.text() == "p A then C"
        assert state["b"] == ["B", "B"]
        assert sorted(prompt for name, prompt, _ in backend.asked if name == "b") == ["p A 0 ", "p A 1 "]


def test_join_gathers_values_and_metas_as_lists_in_branch_order() -> None:
    def body(s: lw.State) -> None:
        forks = s.fork(3)
        for index, fork in enumerate(forks):
            fork += f"{index}" + lw.gen("n", schema=int)
        forks[1]["only"] = "here"
        forks.join()

    def script(prompt: str, op: object) -> Reply:
        return Reply(prompt, delay=0.02 * (3 - int(prompt)))

    state = run(body, script)
    assert state["n"] == ["0", "1", "2"]
    assert state.value("n") == [0, 1, 2]
    assert [meta.text for meta in state.meta("n")] == ["0", "1", "2"]
    assert state["only"] == ["here"]


def test_join_gathers_a_variable_that_the_parent_already_has() -> None:
    def body(s: lw.State) -> None:
        s += lw.gen("x")
        forks = s.fork(2)
        forks += lw.gen("x")
        assert s["x"] == "parent"
        forks.join()

    assert run(body, {"x": ["parent", "one", "two"]})["x"] == ["one", "two"]


def test_a_variable_the_branches_only_inherited_is_not_gathered() -> None:
    def body(s: lw.State) -> None:
        s += lw.gen("x")
        forks = s.fork(2)
        forks += lw.gen("y")
        forks.join()

    assert run(body, {"x": "a", "y": "b"})["x"] == "a"


def test_what_is_gathered_twice_is_a_list_of_lists() -> None:
    def body(s: lw.State) -> None:
        outer = s.fork(2)
        for branch in outer:
            inner = branch.fork(2)
            inner += lw.gen("x")
            inner.join()
            assert branch["x"] == ["a", "a"]
        outer.join()

    assert run(body, {"x": "a"})["x"] == [["a", "a"], ["a", "a"]]


def test_the_parent_may_go_on_beside_its_branches() -> None:
    def body(s: lw.State) -> None:
        s += "a"
        forks = s.fork(2)
        s += "b"
        forks += "c"
        assert [state.text() for state in (s, *forks)] == ["ab", "ac", "ac"]

    assert run(body).text() == "ab"


def test_branches_can_be_indexed_counted_and_appended_to_but_not_replaced() -> None:
    def body(s: lw.State) -> None:
        forks = s.fork(3)
        forks[0] += "a"
        forks[-1] += "b"
        forks += "!"
        assert len(forks) == 3
        assert [fork.text() for fork in forks] == ["a!", "!", "b!"]
        with pytest.raises(lw.InvalidArgument):
            forks[0] = forks[1]
        with pytest.raises(IndexError):
            forks[3]

    run(body)


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "2", None])
def test_a_fork_needs_at_least_one_branch(n: Any) -> None:
    def body(s: lw.State) -> None:
        with pytest.raises(lw.InvalidArgument) as caught:
            s.fork(n)
        assert caught.value.field == "size"

    run(body)


def test_appending_to_a_joined_branch_raises() -> None:
    def body(s: lw.State) -> None:
        forks = s.fork(1)
        forks.join()
        forks.join()  # waits again, changes nothing
        with pytest.raises(lw.ProgramError, match="joined"):
            forks[0] += "x"
        with pytest.raises(lw.ProgramError, match="joined"):
            forks[0].fork(1)

    state = run(body)
    assert sum(isinstance(op, Join) for op in state.program().branches[0].ops) == 1


def test_branches_that_are_never_joined_are_waited_for() -> None:
    kept: list[lw.State] = []

    def body(s: lw.State) -> None:
        forks = s.fork(2)
        forks += lw.gen("x")
        kept.extend(forks)

    run(body, {"x": Reply("a", delay=0.02)})
    assert [fork["x"] for fork in kept] == ["a", "a"]


def test_a_thousand_nested_forks_are_no_recursion() -> None:
    def body(s: lw.State) -> None:
        for depth in range(1200):
            (s,) = s.fork(1)
            s += "." if depth % 100 == 0 else ""
        assert s.text() == "." * 12

    run(body)


# ---------------------------------------------------------------- limits


def test_a_program_that_grows_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latticework.lang.run.MAX_OPS", 100)
    monkeypatch.setattr("latticework.lang.run.MAX_BRANCHES", 10)

    def endless(s: lw.State) -> None:
        while True:
            s += "x"

    def forking(s: lw.State) -> None:
        s.fork(10)

    with pytest.raises(lw.ProgramError, match="100 ops"):
        run(endless)
    with pytest.raises(lw.ProgramError, match="10 branches"):
        run(forking)


# ---------------------------------------------------------------- waits and messages


def test_a_straight_line_program_waits_once_however_many_gens_it_has() -> None:
    def body(s: lw.State) -> None:
        for index in range(20):
            s += f"{index}: " + lw.gen(f"x{index}") + "\n"
            s.user(lw.gen())

    state = run(body, lambda prompt, op: Reply("a", delay=0.002))
    assert state["x19"] == "a"
    assert state.waits == 1


def test_text_alone_starts_no_work_and_leaves_in_one_message() -> None:
    seen: list[int] = []

    with lw.Scripted({"x": "a"}) as backend:

        @lw.function
        def program(s: lw.State) -> None:
            for _ in range(10):
                s += "text"
                s["v"] = "x"
            s.user("hi")
            seen.append(backend.appends)
            s += lw.gen("x")
            seen.append(backend.appends)

        program.run(backend=backend)
    assert seen == [0, 1]


def test_what_is_appended_while_a_gen_runs_leaves_together_at_the_end_or_a_read() -> None:
    seen: list[int] = []

    with lw.Scripted(lambda prompt, op: Reply("a", delay=0.05)) as backend:

        @lw.function
        def program(s: lw.State) -> None:
            s += lw.gen("x")
            for _ in range(5):
                s += "text" + lw.gen("y")
            seen.append(backend.appends)
            s.get("y")
            seen.append(backend.appends)
            for _ in range(3):
                s += "tail"
            seen.append(backend.appends)

        program.run(backend=backend)
        assert seen == [1, 2, 2]
        assert backend.appends == 3


def test_queued_work_leaves_when_the_gen_before_it_ends_without_a_read() -> None:
    with lw.Scripted(lambda prompt, op: Reply("a", delay=0.02)) as backend:

        @lw.function
        def program(s: lw.State) -> None:
            s += lw.gen("x")
            s += "then" + lw.gen("y")
            while len(backend.asked) < 2:  # the body is busy with something else
                time.sleep(0.001)

        program.run(backend=backend, timeout=20)
        assert [prompt for _, prompt, _ in backend.asked] == ["", "athen"]


def test_a_read_sends_the_queued_work_of_every_branch() -> None:
    with lw.Scripted(lambda prompt, op: Reply("a", delay=0.02)) as backend:

        @lw.function
        def program(s: lw.State) -> None:
            forks = s.fork(2)
            for fork in forks:
                fork += lw.gen("x")
                fork += lw.gen("y")
            before = backend.appends
            forks[0].get("x")
            assert (before, backend.appends) == (3, 5)

        program.run(backend=backend)


def test_text_is_never_sent_twice() -> None:
    sent: list[object] = []

    with lw.Scripted(lambda prompt, op: "a") as backend:
        opened = backend.open

        def spying(*args: Any) -> Any:
            session = opened(*args)
            append = session.append

            def record(branch: int, first: int, ops: Any) -> None:
                sent.extend((branch, position, op) for position, op in enumerate(ops, first))
                append(branch, first, ops)

            session.append = record  # type: ignore[method-assign]
            return session

        backend.open = spying  # type: ignore[method-assign, assignment]

        @lw.function
        def program(s: lw.State) -> None:
            s += "long " * 10 + lw.gen("x")
            s.get("x")
            forks = s.fork(2)
            forks += lw.gen("y")
            forks.join()
            s += lw.gen("z")

        state = program.run(backend=backend)
    program_ops = [
        (number, position, op)
        for number, branch in enumerate(state.program().branches)
        for position, op in enumerate(branch.ops)
    ]
    assert sorted(sent, key=lambda entry: entry[:2]) == program_ops  # type: ignore[index]


def test_a_run_tells_what_it_appended_as_ir() -> None:
    def body(s: lw.State) -> None:
        s.user("a")
        forks = s.fork(2)
        forks[1] += lw.gen("x", max_tokens=3)
        forks.join()

    program = run(body, {"x": "a"}).program()
    assert program == Program(
        (
            Branch((Role("user"), Text("a"), Role(None), Fork((1, 2)), Join((1, 2)))),
            Branch(()),
            Branch((Gen("x", lw.Sampling(max_tokens=3), ("max_tokens",)),)),
        )
    )
    assert Program.from_json(program.to_json()) == program


def test_the_result_of_a_run_is_for_reading() -> None:
    state = run(lambda s: s.__iadd__("a"))
    for write in (
        lambda: state.__iadd__("x"),
        lambda: state.fork(2),
        lambda: state.user("x"),
    ):
        with pytest.raises(lw.ProgramError):
            write()
    assert repr(state) == "<State of branch 0, over, variables: none>"


def test_a_variable_of_a_finished_run_can_be_set_to_what_was_made_of_it() -> None:
    def body(s: lw.State) -> None:
        s += lw.gen("n")

    state = run(body, {"n": "12"})
    state["n"] = int(state["n"])
    assert state["n"] == 12
    assert state.text() == "12"


def test_a_state_kept_from_the_body_cannot_be_appended_to_later() -> None:
    kept: list[lw.State] = []
    run(kept.append)
    with pytest.raises(lw.ProgramError, match="ended"):
        kept[0] += "x"
