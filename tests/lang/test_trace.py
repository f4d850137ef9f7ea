"""A body run on symbols: which program it makes, and where it says that it needs a value."""

from __future__ import annotations

import ast
import json
import operator
import re
import threading
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import latticework as lw
from latticework.lang.errors import InvalidArgument, NeedsValue
from latticework.lang.ir import Arg, Fork, Gen, Join, Op, Ref, Regex, Role, Sampling, Set, Text


def ops(function: lw.Function, branch: int = 0, **constants: Any) -> list[Op]:
    return list(function.trace(**constants).branches[branch].ops)


def test_text_falls_apart_into_text_arguments_and_variables() -> None:
    @lw.function
    def program(s: lw.State, question: str, word: str) -> None:
        s += f"Q: {question}, {word}!" + lw.gen("a", max_tokens=3)
        s += "so " + s["a"]
        s += question + ", ".join([word, s["a"]]) + str(word)

    assert ops(program) == [
        Text("Q: "),
        Arg("question"),
        Text(", "),
        Arg("word"),
        Text("!"),
        Gen("a", Sampling(max_tokens=3), ("max_tokens",)),
        Text("so "),
        Ref("a"),
        Arg("question"),
        Arg("word"),
        Text(", "),
        Ref("a"),
        Arg("word"),
    ]


def test_defaults_and_given_constants_are_part_of_the_program() -> None:
    @lw.function
    def program(s: lw.State, word: str, n: int = 2, *, style: str = "plain") -> None:
        for index in range(n):
            s += f"{index} {style}" if style != "none" else f"{index} "
            s += word

    assert ops(program) == [Text("0 plain"), Arg("word"), Text("1 plain"), Arg("word")]
    assert ops(program, n=1, style="none") == [Text("0 "), Arg("word")]
    assert ops(program, n=1, word="w") == [Text("0 plain"), Text("w")]


def test_roles_forks_and_joins_are_traced() -> None:
    @lw.function
    def program(s: lw.State, topic: str) -> None:
        with s.user():
            s += topic
        forks = s.fork(2)
        for index, fork in enumerate(forks):
            with fork.assistant():
                fork += f"{index}" + lw.gen("tip")
        forks.join()
        s += lw.user(" and ".join(s["tip"]))

    traced = program.trace()
    assert traced.branches[0].ops == (
        Role("user"),
        Arg("topic"),
        Role(None),
        Fork((1, 2)),
        Join((1, 2)),
        Role("user"),
        Ref("tip", (1, 2)),
        Text(" and "),
        Ref("tip", (2, 2)),
        Role(None),
    )
    assert traced.branches[2].ops == (Role("assistant"), Text("1"), Gen("tip"), Role(None))
    assert lw.Program.from_msgpack(traced.to_msgpack()) == traced


def test_branches_can_be_read_without_a_join() -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "a"
        forks = s.fork(2)
        forks += lw.gen("x")
        forks[0] += forks[1]["x"]
        s += forks[0]["x"]

    traced = program.trace()
    assert traced.branches[1].ops == (Gen("x"), Ref("x", (2, 0)))
    assert traced.branches[0].ops[-1] == Ref("x", (1, 0))


def test_a_nested_function_is_inlined() -> None:
    @lw.function
    def inner(s: lw.State, what: str) -> str:
        s += f"[{what}]" + lw.gen("i")
        return s["i"]

    @lw.function
    def outer(s: lw.State, word: str) -> None:
        s += inner(s, word) + "|" + inner(s, what="k")

    assert ops(outer) == [
        Text("["), Arg("word"), Text("]"), Gen("i"), Text("[k]"), Gen("i"), Ref("i", (0, 3)), Text("|"), Ref("i"),
    ]  # fmt: skip


def test_variables_of_the_programs_own_are_sets_and_constants_stay_values() -> None:
    @lw.function
    def program(s: lw.State, word: str) -> None:
        s["n"] = 3
        s["t"] = f"<{word}>"
        for _ in range(s["n"]):
            s += s["t"]

    assert ops(program)[:2] == [Set("n", (Text("3"),)), Set("t", (Text("<"), Arg("word"), Text(">")))]
    assert ops(program)[2:] == [Text("<"), Arg("word"), Text(">")] * 3


def test_several_outputs_are_a_list() -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "a" + lw.gen("x", n=2)
        s += s["x"][1]

    assert ops(program)[-1] == Ref("x", None, 1)


def test_text_that_looks_like_a_symbol_is_text() -> None:
    markers: list[str] = []

    @lw.function
    def program(s: lw.State, word: str) -> None:
        s += "".join(markers) + "x"
        markers.append(f"{word}")

    ops(program)
    seen = markers[0]
    assert ops(program) == [Text(seen + "x")]  # another trace's secret means nothing


def test_a_constraint_is_kept() -> None:
    @lw.function
    def program(s: lw.State, word: str) -> None:
        s += word + lw.gen("x", regex="[0-9]+", temperature=0)

    assert ops(program)[-1] == Gen("x", Sampling(temperature=0.0), ("temperature",), Regex("[0-9]+"))


def test_tracing_is_the_same_in_any_thread_and_leaves_runs_alone() -> None:
    @lw.function
    def program(s: lw.State, word: str) -> None:
        s += word + lw.gen("x")

    found: list[lw.Program] = []
    thread = threading.Thread(target=lambda: found.append(program.trace()))
    thread.start()
    thread.join(30)
    assert found == [program.trace()]
    with lw.Scripted({"x": "y"}) as backend:
        assert program.run("w", backend=backend).text() == "wy"


# ---------------------------------------------------------------- what needs a value


def body(act: Callable[[lw.State, Any, Any], object]) -> lw.Function:
    @lw.function
    def program(s: lw.State, q: str, n: int) -> None:
        s += "a" + lw.gen("x", schema=int)
        act(s, q, n)

    return program


@lw.function
def other(s: lw.State, q: str) -> None:
    s += q + lw.gen("y")


def append(s: lw.State, value: Any) -> None:
    s += value


def append_messages(s: lw.State) -> None:
    s.user("a")
    s += s.text()


@pytest.mark.parametrize(
    ("act", "field"),
    [
        (lambda s, q, n: s["x"] == "a", "x"),
        (lambda s, q, n: operator.eq("a", s["x"]), "x"),
        (lambda s, q, n: 1 if s["x"] else 2, "x"),
        (lambda s, q, n: int(s["x"]), "x"),
        (lambda s, q, n: float(q), "q"),
        (lambda s, q, n: len(q), "q"),
        (lambda s, q, n: list(q), "q"),
        (lambda s, q, n: q in ("a", "b"), "q"),
        (lambda s, q, n: {"a": 1}[q], "q"),
        (lambda s, q, n: "a" in q, "q"),
        (lambda s, q, n: q[0], "q"),
        (lambda s, q, n: range(n), "n"),
        (lambda s, q, n: n + 1, "n"),
        (lambda s, q, n: 1 + n, "n"),
        (lambda s, q, n: n * 2, "n"),
        (lambda s, q, n: n > 2, "n"),
        (lambda s, q, n: f"{q!r}", "q"),
        (lambda s, q, n: f"{n:>5}", "n"),
        (lambda s, q, n: q.upper(), "q"),
        (lambda s, q, n: s.fork(n), "n"),
        (lambda s, q, n: s.value("x"), "x"),
        (lambda s, q, n: s.meta("x").finish == "stop", "x"),
        (lambda s, q, n: s.usage(), None),
        (lambda s, q, n: next(s.text_iter("x")), "x"),
        (lambda s, q, n: append(s, f"{q}!".upper()), None),
        (lambda s, q, n: append(s, f" {q} ".strip()), None),
        (lambda s, q, n: append(s, f"{q}"[:40]), None),
        (lambda s, q, n: append(s, json.dumps({"q": f"{q}"})), None),
        (lambda s, q, n: append(s, f"{q}".replace(",", "")), None),
        (lambda s, q, n: int(f"{q}"), None),
        (lambda s, q, n: json.loads(f"{q}"), None),
        (lambda s, q, n: lw.gen("y", max_tokens=n), "n"),
        (lambda s, q, n: append(s, lw.gen("y", regex=f"{q}")), None),
        (lambda s, q, n: append(s, lw.gen(f"y{q}")), None),
        (lambda s, q, n: append(s, lw.gen("y", stop=f"{q}")), None),
        (lambda s, q, n: append(s, lw.select("y", [f"{q}", "b"])), None),
        (lambda s, q, n: s.__setitem__("l", [q]), "q"),
        (lambda s, q, n: other.run(q), None),
        (lambda s, q, n: other.run_batch([{"q": q}]), None),
        (lambda s, q, n: append_messages(s), None),
    ],
)  # fmt: skip
def test_what_asks_for_a_value_says_where_and_of_what(
    act: Callable[[lw.State, Any, Any], object], field: str | None
) -> None:
    with pytest.raises(NeedsValue) as caught:
        body(act).trace()
    assert caught.value.where is not None
    assert "test_trace.py:" in caught.value.where
    assert caught.value.field == field
    assert caught.value.hint


def test_a_constant_that_is_no_parameter_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="has no parameter 'm'; it has: q"):
        other.trace(m=1)


def test_what_the_body_raises_itself_comes_out_as_it_is() -> None:
    @lw.function
    def program(s: lw.State, q: str) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        program.trace()


def test_a_body_that_returns_its_state_is_refused() -> None:
    @lw.function
    def program(s: lw.State) -> lw.State:
        s += "a"
        return s

    with pytest.raises(lw.ProgramError, match="returned a state"):
        program.trace()


# ---------------------------------------------------------------- what a value does not hear of


@lw.function
def contained(s: lw.State, q: str) -> None:
    s += lw.gen("x")
    if s["x"] in "yes, yep":
        s += q


@lw.function
def contained_argument(s: lw.State, q: str) -> None:
    s += "a" if q not in "bcd" else "e"


@lw.function
def kept_in_a_name(s: lw.State, q: str) -> None:
    s += lw.gen("x")
    answer = s["x"]
    whole = f"{answer}!"
    s += "a" if whole in "yes! no!" else "b"


@lw.function
def compared_as_text(s: lw.State, q: str) -> None:
    s += "a" if f"{q}!" == "yes!" else "b"


@lw.function
def prefix(s: lw.State, q: str) -> None:
    s += "a" if "yes".startswith(q) else "b"


@lw.function
def searched(s: lw.State, q: str) -> None:
    s += lw.gen("x")
    s += "a" if re.search("[0-9]", s["x"]) else "b"


@lw.function
def calls_another(s: lw.State, q: str) -> None:
    prefix(s, q)


@pytest.mark.parametrize(
    ("function", "asks"),
    [
        (contained, "s['x'] in 'yes, yep'"),
        (contained_argument, "q not in 'bcd'"),
        (kept_in_a_name, "whole in 'yes! no!'"),
        (compared_as_text, "f'{q}!' == 'yes!'"),
        (prefix, "'yes'.startswith(q)"),
        (searched, "re.search('[0-9]', s['x'])"),
        (calls_another, "'yes'.startswith(q)"),
    ],
)
def test_a_question_that_no_value_hears_of_is_found_in_the_source(function: lw.Function, asks: str) -> None:
    with pytest.raises(NeedsValue) as caught:
        function.trace()
    assert caught.value.message.startswith(asks)
    assert "test_trace.py:" in (caught.value.where or "")
    line = int((caught.value.where or "").rpartition(":")[2])
    source = Path(__file__).read_text().splitlines()[line - 1]
    assert ast.unparse(ast.parse(asks)).split("(")[0].split(" ")[-1] in source.replace('"', "'")


def test_questions_about_constants_are_answered() -> None:
    @lw.function
    def program(s: lw.State, q: str, mode: str = "ab") -> None:
        s["mine"] = "b"
        names = ["x", "y"]
        q = "constant"
        if mode in "abc" and s["mine"] in mode and f"{mode}!" == "ab!" and q in "constant" and "ab".startswith(mode):
            for name in names:
                s += name if re.search("[xy]", name) else ""

    assert ops(program)[-2:] == [Text("x"), Text("y")]


def test_a_body_without_source_is_traced() -> None:
    names: dict[str, Any] = {}
    FunctionType(compile("def f(s, q):\n    s += q\n", "nowhere.py", "exec"), names)()
    assert ops(lw.function(names["f"])) == [Arg("q")]
