"""Gens of several outputs: what programs read of them, with a scripted backend."""

from __future__ import annotations

from typing import Any

import pytest

import latticework as lw
from latticework.lang.backends.scripted import Reply
from latticework.lang.events import TokenLogprob
from latticework.lang.ir import sample_seed
from latticework.lang.samples import mean_logprob


def scored(text: str, *logprobs: float) -> Reply:
    return Reply(text, logprobs=tuple(TokenLogprob(0, "t", logprob) for logprob in logprobs))


@lw.function
def program(s: lw.State, n: int, best_of: int | None = None) -> None:
    s += "Say: " + lw.gen("x", n=n, best_of=best_of) + "." + lw.gen("y")


def test_the_variable_is_a_list_and_the_text_goes_on_with_the_first() -> None:
    with lw.Scripted({"x": ["a", "bc", "d"], "y": "!"}, chunk=1) as backend:
        state = program.run(3, backend=backend)
        assert state["x"] == state.value("x") == ["a", "bc", "d"]
        assert state.text() == "Say: a.!"
        assert [done.text for done in state.meta("x")] == ["a", "bc", "d"]
        assert [done.usage.output for done in state.meta("x")] == [1, 2, 1]
        assert "".join(state.text_iter("x")) == "a"
        assert [name for name, _, _ in backend.asked] == ["x", "y"]
        assert state.usage().output == 5
        assert state.usage().prompt == len("Say: ") + len("Say: a.")
        seeds = [done.seed for done in state.meta("x")]
        assert seeds == [sample_seed(seeds[0], sample) for sample in range(3)]


def test_best_of_gives_the_best_and_streams_nothing_before() -> None:
    replies = [scored("worst", -3.0), scored("longer", -1.0, -0.5, -1.0), scored("best", -0.1, -0.2)]
    with lw.Scripted({"x": replies * 2, "y": "!"}, chunk=1) as backend:
        one = program.run(1, 3, backend=backend)
        assert (one["x"], one.text()) == ("best", "Say: best.!")
        assert one.meta("x").logprobs == ()
        assert one.usage().output == len("worstlongerbest!")
        two = program.run(2, 3, backend=backend)
        assert two["x"] == ["best", "longer"]


def test_an_output_without_tokens_is_never_the_best() -> None:
    with lw.Scripted({"x": [scored(""), scored("a", -9.0)], "y": "!"}) as backend:
        state = program.run(2, 2, backend=backend)
        assert state["x"] == ["a", ""]
        assert mean_logprob(state.meta("x")[1]) == float("-inf")


def test_typed_values_are_lists_of_values_and_name_the_variable_when_wrong() -> None:
    @lw.function
    def typed(s: lw.State) -> None:
        s += lw.gen("x", schema=int, n=2)

    with lw.Scripted({"x": ["1", "2", "3", "x"]}) as backend:
        assert typed.run(backend=backend).value("x") == [1, 2]
        with pytest.raises(lw.InvalidValue) as caught:
            typed.run(backend=backend).value("x")
        assert caught.value.field == "x"


def test_branches_join_lists_of_lists() -> None:
    @lw.function
    def forked(s: lw.State) -> None:
        forks = s.fork(2)
        forks += lw.gen("x", n=2)
        forks.join()

    with lw.Scripted({"x": list("abcd")}) as backend:
        assert forked.run(backend=backend)["x"] == [["a", "b"], ["c", "d"]]


def test_a_failed_output_fails_the_gen() -> None:
    with lw.Scripted({"x": ["a", lw.Busy("no"), "c"], "y": "!"}) as backend, pytest.raises(lw.Busy):
        program.run(3, backend=backend)


def test_a_list_cannot_be_appended_as_text() -> None:
    @lw.function
    def wrong(s: lw.State) -> None:
        s += lw.gen("x", n=2)
        s += s["x"]

    with lw.Scripted({"x": ["a", "b"]}) as backend, pytest.raises(lw.InvalidArgument, match="list"):
        wrong.run(backend=backend)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [({"n": 0}, "n"), ({"n": 65}, "n"), ({"n": 3, "best_of": 2}, "best_of"), ({"n": 2, "choices": ["a", "b"]}, "n")],
)
def test_what_cannot_be_asked_for_is_refused_at_once(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(lw.InvalidArgument) as caught:
        lw.gen("x", **wrong)
    assert caught.value.field == field
