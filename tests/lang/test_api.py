"""The public verbs: what they make, and what they refuse at once."""

import enum
import inspect
import threading
from collections.abc import Callable
from typing import Any, Literal

import pytest
from pydantic import BaseModel

import latticework as lw
from latticework.lang.expr import Expr
from latticework.lang.ir import Gen, JsonSchema, Regex, Role, Select, Text


class City(BaseModel):
    name: str


def ops(expr: Expr) -> list[object]:
    return [piece.op for piece in expr.pieces]


# ---------------------------------------------------------------- expressions


def test_a_gen_carries_only_the_fields_it_was_given() -> None:
    (op,) = ops(lw.gen("x", 80, temperature=0, stop="\n"))
    assert op == Gen(
        "x", lw.Sampling(max_tokens=80, temperature=0, stop=("\n",)), ("max_tokens", "temperature", "stop")
    )


def test_logprobs_are_asked_for_by_sglangs_names() -> None:
    assert ops(lw.gen(return_logprob=True)) == [Gen(None, lw.Sampling(logprobs=0), ("logprobs",))]
    assert ops(lw.gen(top_logprobs=3)) == [Gen(None, lw.Sampling(logprobs=3), ("logprobs",))]


def test_each_kind_of_constraint_becomes_its_struct() -> None:
    assert ops(lw.gen("x", regex="[0-9]+"))[0] == Gen("x", constraint=Regex("[0-9]+"))
    for given in ({"type": "integer"}, '{"type": "integer"}'):
        assert ops(lw.gen("x", json_schema=given))[0] == Gen("x", constraint=JsonSchema({"type": "integer"}))
    city: dict[str, Any] = {
        "properties": {"name": {"type": "string"}},
        "required": ["name"],
        "type": "object",
        "additionalProperties": False,
    }
    assert ops(lw.gen("x", schema=City))[0] == Gen("x", constraint=JsonSchema(city))
    assert ops(lw.gen("x", schema=Literal["a", "b"]))[0] == Gen("x", constraint=JsonSchema({"enum": ["a", "b"]}))
    assert ops(lw.gen("x", schema=enum.Enum("E", {"A": "a"})))[0] == Gen("x", constraint=JsonSchema({"enum": ["a"]}))


def test_grammars_and_markers_become_their_structs() -> None:
    assert ops(lw.gen("x", grammar='start: "a"'))[0] == Gen("x", constraint=lw.Lark('start: "a"'))
    for grammar in (lw.Gbnf('root ::= "a"'), lw.Triggered((lw.Tag("<", lw.Regex("a"), ">"),))):
        assert ops(lw.gen("x", grammar=grammar))[0] == Gen("x", constraint=grammar)
    (piece,) = lw.gen("x", json_schema={"type": "integer"}, after="</think>").pieces
    assert piece.op == Gen("x", constraint=lw.After("</think>", JsonSchema({"type": "integer"})))
    assert piece.decoder is not None
    assert piece.decoder.decode("x", "so 1 and 2 </think>3") == 3
    for wrong in (
        lambda: lw.gen("x", after="</think>"),
        lambda: lw.gen("x", after="</think>", choices=["a"]),
        lambda: lw.gen("x", after="", regex="a"),
        lambda: lw.gen("x", grammar=3),  # type: ignore[arg-type]
        lambda: lw.gen("x", grammar=""),
        lambda: lw.gen("x", grammar="a", regex="a"),
    ):
        with pytest.raises(lw.InvalidArgument):
            wrong()


def test_gen_with_choices_is_a_select() -> None:
    assert ops(lw.gen("x", choices=["a", "b"], temperature=0, max_tokens=4)) == [Select("x", ("a", "b"))]
    assert ops(lw.select("x", ("a", "b"))) == [Select("x", ("a", "b"))]


def test_expressions_and_text_join_in_any_order() -> None:
    expr = "a" + lw.gen("x") + "b" + lw.select("y", ["1", "2"]) + lw.gen("z")
    assert ops(expr) == [Text("a"), Gen("x"), Text("b"), Select("y", ("1", "2")), Gen("z")]
    assert ops(lw.gen("x") + "") == [Gen("x")]


def test_a_role_wraps_its_content() -> None:
    assert ops(lw.system("s") + lw.user("u" + lw.gen("x"))) == [
        Role("system"),
        Text("s"),
        Role(None),
        Role("user"),
        Text("u"),
        Gen("x"),
        Role(None),
    ]


def test_building_an_expression_leaves_its_parts_alone() -> None:
    part = lw.gen("x")
    assert ops(part + "a") != ops(part)
    assert ops(part) == [Gen("x")]


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: lw.gen(5), "name"),  # type: ignore[arg-type]
        (lambda: lw.gen(""), "name"),
        (lambda: lw.gen("x", -1), "max_tokens"),
        (lambda: lw.gen("x", 0), "max_tokens"),
        (lambda: lw.gen("x", "80"), "max_tokens"),  # type: ignore[arg-type]
        (lambda: lw.gen("x", temperature=-1), "temperature"),
        (lambda: lw.gen("x", top_p=0), "top_p"),
        (lambda: lw.gen("x", top_k=0), "top_k"),
        (lambda: lw.gen("x", min_p=2), "min_p"),
        (lambda: lw.gen("x", seed=-1), "seed"),
        (lambda: lw.gen("x", stop=""), "stop"),
        (lambda: lw.gen("x", stop_token_ids=["a"]), "stop_token_ids"),  # type: ignore[list-item]
        (lambda: lw.gen("x", top_logprobs=99), "logprobs"),
        (lambda: lw.gen("x", choices=[]), "choices"),
        (lambda: lw.gen("x", choices="yes"), "choices"),
        (lambda: lw.gen("x", choices=["a", "a"]), "choices"),
        (lambda: lw.gen("x", choices=["a", 1]), "choices"),  # type: ignore[list-item]
        (lambda: lw.gen("x", choices=["a", "b"], temperature=-0.5), "temperature"),
        (lambda: lw.select("x", ["a"], 0.5, lw.greedy_token_selection), "temperature"),
        (lambda: lw.gen("x", choices_method=lw.probability), "choices_method"),
        (lambda: lw.gen("x", dtype=int, regex="a"), "dtype"),
        (lambda: lw.gen("x", dtype=list), "dtype"),
        (lambda: lw.gen("x", dtype="integer"), "dtype"),
        (lambda: lw.gen("x", top_logprobs=1, top_logprobs_num=1), "top_logprobs"),
        (lambda: lw.gen("x", return_logprob=1), "return_logprob"),  # type: ignore[arg-type]
        (lambda: lw.select("x"), "choices"),
        (lambda: lw.gen("x", choices=["a", "b"], stop="\n"), "stop"),
        (lambda: lw.select("x", []), "choices"),
        (lambda: lw.select("x", "abc"), "choices"),
        (lambda: lw.select("x", ["a"], choices_method="best"), "choices_method"),  # type: ignore[arg-type]
        (lambda: lw.gen("x", on_length="stop", regex="a"), "on_length"),  # type: ignore[arg-type]
        (lambda: lw.gen("x", on_length="cut"), "on_length"),
        (lambda: lw.gen("x", regex=5), "regex"),  # type: ignore[arg-type]
        (lambda: lw.gen("x", json_schema=City), "json_schema"),  # type: ignore[arg-type]
        (lambda: lw.gen("x", json_schema="{"), "json_schema"),
        (lambda: lw.gen("x", json_schema=[]), "json_schema"),  # type: ignore[arg-type]
        (lambda: lw.gen("x", schema=object), "schema"),
        (lambda: lw.user("\ud800"), "text"),
        (lambda: lw.gen("\ud800"), "name"),
    ],
)
def test_bad_input_raises_at_the_call_and_names_the_field(make: Callable[[], object], field: str) -> None:
    with pytest.raises(lw.InvalidArgument) as caught:
        make()
    assert caught.value.field == field


def test_two_constraints_at_once_are_refused_by_both_names() -> None:
    with pytest.raises(lw.InvalidArgument, match="regex and schema"):
        lw.gen("x", regex="a", schema=City)
    with pytest.raises(lw.InvalidArgument, match="choices and json_schema"):
        lw.gen("x", choices=["a"], json_schema={})


def test_an_invalid_regex_points_at_the_character() -> None:
    with pytest.raises(lw.RegexError) as caught:
        lw.gen("x", regex="ab[c")
    assert caught.value.position == 2
    assert str(caught.value).splitlines()[-2:] == ["ab[c", "  ^"]


@pytest.mark.parametrize("into", [lambda e: f"a {e} b", lambda e: str(e), "{}".format, lambda e: f"{e:>10}"])
def test_an_expression_inside_a_string_raises(into: Callable[[object], str]) -> None:
    with pytest.raises(lw.InvalidArgument, match="gen 'x' was put into a string") as caught:
        into(lw.gen("x"))
    assert "f-string" in (caught.value.hint or "")


def test_the_repr_of_an_expression_is_still_for_debugging() -> None:
    assert repr("a" + lw.gen("x")) == "Expr(text + gen 'x')"


def test_a_message_inside_a_message_raises_at_once() -> None:
    with pytest.raises(lw.ProgramError, match="assistant message cannot stand inside a user message"):
        lw.user("a" + lw.assistant("b"))


# ---------------------------------------------------------------- programs


@lw.function
def echo(s: lw.State, text: str, times: int = 1) -> str:
    """Says it."""
    s += text * times + lw.gen("x")
    return "returned"


def test_a_program_keeps_the_name_docstring_and_signature_of_its_function() -> None:
    assert echo.__name__ == "echo"
    assert echo.__doc__ == "Says it."
    assert list(inspect.signature(echo).parameters) == ["s", "text", "times"]
    assert inspect.unwrap(echo) is echo.body


def test_a_program_runs_with_positional_and_keyword_arguments() -> None:
    with lw.Scripted({"x": "!"}) as backend:
        assert echo.run("ab", 2, backend=backend).text() == "abab!"
        state = echo.run(text="c", backend=backend)
        assert (state.text(), state.ret_value) == ("c!", "returned")


def test_the_decorator_also_works_with_parentheses() -> None:
    @lw.function()
    def program(s: lw.State) -> None:
        s += "a"

    with lw.Scripted() as backend:
        assert program.run(backend=backend).text() == "a"


def test_the_state_parameter_may_have_any_name() -> None:
    @lw.function
    def program(conversation: lw.State, s: str) -> None:
        conversation += s

    with lw.Scripted() as backend:
        assert program.run(s="text", backend=backend).text() == "text"


@pytest.mark.parametrize("kwargs", [{}, {"text": "a", "nope": 1}, {"s": 1}])
def test_arguments_that_do_not_fit_are_refused_before_anything_runs(kwargs: dict[str, Any]) -> None:
    with lw.Scripted() as backend:
        with pytest.raises(lw.InvalidArgument, match="echo"):
            echo.run(backend=backend, **kwargs)
        assert backend.opened == 0


def test_what_cannot_be_a_program_is_refused_by_the_decorator() -> None:
    def generator(s: lw.State) -> Any:
        yield s

    def nothing() -> None: ...

    with pytest.raises(lw.InvalidArgument, match="generator"):
        lw.function(generator)
    with pytest.raises(lw.InvalidArgument, match="no parameter for its state"):
        lw.function(nothing)
    with pytest.raises(lw.InvalidArgument, match="expected a function"):
        lw.function(5)  # type: ignore[call-overload]


def test_calling_a_program_on_a_state_runs_its_body_there() -> None:
    @lw.function
    def outer(s: lw.State) -> None:
        s += "<"
        assert echo(s, "a", times=2) == "returned"
        s += ">" + s["x"]

    with lw.Scripted({"x": "!"}) as backend:
        state = outer.run(backend=backend)
        assert state.text() == "<aa!>!"
        assert backend.opened == 1


def test_calling_a_program_without_a_state_is_a_run_of_its_own() -> None:
    with lw.Scripted({"x": "!"}) as backend:
        assert echo("a", times=3, backend=backend).text() == "aaa!"


# ---------------------------------------------------------------- run settings


def test_run_settings_are_defaults_under_the_ops_own() -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += lw.gen("a") + lw.gen("b", max_tokens=3, temperature=0.5)

    with lw.Scripted({"a": "", "b": ""}) as backend:
        program.run(backend=backend, max_tokens=9, top_k=4, stop="\n", temperature=None)
        program.run(backend=backend, sampling=lw.Sampling(max_tokens=7, min_p=0.1), max_tokens=8)
        asked = [sampling for _, _, sampling in backend.asked]
    assert asked == [
        lw.Sampling(max_tokens=9, top_k=4, stop=("\n",)),
        lw.Sampling(max_tokens=3, top_k=4, stop=("\n",), temperature=0.5),
        lw.Sampling(max_tokens=8, min_p=0.1),
        lw.Sampling(max_tokens=3, min_p=0.1, temperature=0.5),
    ]


def test_a_programs_own_parameter_wins_over_a_run_setting_of_its_name() -> None:
    seen: list[object] = []

    @lw.function
    def program(s: lw.State, stop: str, stream: int, temperature: str, seed: str, n: int) -> None:
        seen.append((stop, stream, temperature, seed, n))
        s += lw.gen("x")

    with lw.Scripted({"x": "a"}) as backend:
        state = program.run(
            stop="a", stream=2, temperature="hot", seed="s", n=5, backend=backend, sampling=lw.Sampling(stop=("\n",))
        )
        assert state.text() == "a"
        assert backend.asked[0][2].stop == ("\n",)
    assert seen == [("a", 2, "hot", "s", 5)]


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"seed": -1}, "seed"),
        ({"seed": "a"}, "seed"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
        ({"sampling": {"max_tokens": 1}}, "sampling"),
    ],
)
def test_bad_run_settings_are_refused_before_anything_runs(settings: dict[str, Any], field: str) -> None:
    with lw.Scripted() as backend:
        with pytest.raises(lw.InvalidArgument) as caught:
            echo.run("a", backend=backend, **settings)
        assert caught.value.field == field
        assert backend.opened == 0


def test_the_run_seed_is_kept_or_drawn_once_and_reported() -> None:
    with lw.Scripted({"x": "a"}) as backend:
        assert echo.run("a", seed=5, backend=backend).seed == 5
        assert echo.run("a", sampling=lw.Sampling(seed=6), backend=backend).seed == 6
        drawn = {echo.run("a", backend=backend).seed for _ in range(4)}
        assert len(drawn) == 4
        again = [echo.run("a", seed=5, backend=backend).meta("x").seed for _ in range(2)]
        assert again[0] == again[1]
        assert echo.run("a", seed=6, backend=backend).meta("x").seed != again[0]


def test_a_default_backend_serves_runs_that_name_none() -> None:
    with lw.Scripted({"x": "!"}) as backend:
        lw.set_default_backend(backend)
        try:
            assert echo.run("a").text() == "a!"
        finally:
            lw.set_default_backend(None)
    with pytest.raises(lw.InvalidArgument, match="not a backend"):
        lw.set_default_backend("http://localhost")  # type: ignore[arg-type]


def test_a_backend_that_cannot_be_reached_raises_from_run() -> None:
    backend = lw.Scripted()
    backend.shutdown()
    with pytest.raises(lw.ConnectionLost):
        echo.run("a", backend=backend)
    assert not [thread for thread in threading.enumerate() if thread.name == "scripted backend"]


def test_gen_takes_every_field_of_sampling() -> None:
    renamed = {"logprobs": "top_logprobs", "prompt_logprobs_start": "logprob_start_len"}
    parameters = inspect.signature(lw.gen).parameters
    assert {renamed.get(name, name) for name in lw.Sampling.__struct_fields__} <= set(parameters)
    given: dict[str, Any] = {
        "frequency_penalty": 0.5,
        "presence_penalty": -1.0,
        "repetition_penalty": 1.2,
        "logit_bias": {7: 1.0},
        "min_tokens": 2,
        "ignore_eos": False,
        "stop_regex": "a+",
        "include_stop": True,
        "n": 2,
        "best_of": 3,
    }
    (piece,) = lw.gen("x", **given).pieces
    assert isinstance(piece.op, Gen)
    assert set(piece.op.given) == set(given)
    assert piece.op.sampling == lw.Sampling(**given)
