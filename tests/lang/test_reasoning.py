"""Thoughts and answers of reasoning models as two variables."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import latticework as lw
from latticework.lang.backends.scripted import Reply
from latticework.lang.reasoning import FORMATS

MODELS = sorted(FORMATS)


@pytest.mark.parametrize(
    ("model", "text", "thoughts", "answer"),
    [
        ("qwen3", "<think>\nhm, 2+2\n</think>\n\n4", "hm, 2+2", "4"),
        ("qwen3", "no thoughts, 4", "", "no thoughts, 4"),
        ("qwen3", "<think>cut off", "cut off", ""),
        ("qwen3", "  <think></think>4", "", "4"),
        ("qwen3", "<thi", "", "<thi"),
        ("deepseek-r1", "hm, 2+2</think>4", "hm, 2+2", "4"),
        ("deepseek-r1", "<think>hm</think>4 </think>", "hm", "4 </think>"),
        ("deepseek-r1", "still thinking </thi", "still thinking </thi", ""),
        ("kimi", "◁think▷hm◁/think▷4", "hm", "4"),
    ],
)
def test_text_falls_into_thoughts_and_answer(model: str, text: str, thoughts: str, answer: str) -> None:
    assert FORMATS[model].split(text, True) == (thoughts, answer)


@settings(deadline=None)
@given(model=st.sampled_from(MODELS), pieces=st.lists(st.sampled_from(["<think>", "</think>", "<", "th", " a", "\n"])))
def test_what_was_said_of_text_so_far_is_never_taken_back(model: str, pieces: list[str]) -> None:
    text = "".join(pieces)
    said = ("", "")
    for end in range(len(text) + 1):
        now = FORMATS[model].split(text[:end], end == len(text))
        assert now[0].startswith(said[0])
        assert now[1].startswith(said[1])
        said = now


@lw.function
def think(s: lw.State, n: int = 1) -> None:
    s += "Q" + lw.separate_reasoning("A: " + lw.gen("x", n=n, return_logprob=True) + ".", model_type="qwen3")
    s += "B: " + lw.gen("y")


def test_a_gen_has_a_variable_for_each_and_the_text_keeps_both() -> None:
    with lw.Scripted({"x": "<think>hm</think> 4", "y": "b"}) as backend:
        state = think.run(backend=backend)
        assert state.variables() == ("x", "x_reasoning_content", "y")
        assert (state["x"], state["x_reasoning_content"], state["y"]) == ("4", "hm", "b")
        assert state.text() == "QA: <think>hm</think> 4.B: b"
        assert state.meta("x").text == "4"
        assert state.get_meta_info("x_reasoning_content")["completion_tokens"] == len("<think>hm</think> 4")


def test_several_outputs_are_lists_of_both() -> None:
    with lw.Scripted({"x": ["<think>1</think>a", "b", "<think>3"], "y": "y"}) as backend:
        state = think.run(n=3, backend=backend)
        assert state["x"] == ["a", "b", ""]
        assert state["x_reasoning_content"] == ["1", "", "3"]


@pytest.mark.parametrize("chunk", [1, 3, None])
def test_both_stream(chunk: int | None) -> None:
    with lw.Scripted({"x": "<think>a </ b</think> c d ", "y": "y"}, chunk=chunk) as backend:
        state = think.run(backend=backend, stream=True)
        assert "".join(state.text_iter("x_reasoning_content")) == "a </ b"
        assert "".join(state.text_iter("x")) == "c d"
        assert "".join(state.text_iter()) == "QA: <think>a </ b</think> c d .B: y"


def test_branches_gather_both() -> None:
    @lw.function
    def program(s: lw.State) -> None:
        forks = s.fork(2)
        forks += lw.separate_reasoning(lw.gen("x"), "deepseek-r1")
        forks.join()

    with lw.Scripted({"x": ["1</think>a", "2</think>b"]}) as backend:
        state = program.run(backend=backend)
        assert (state["x"], state["x_reasoning_content"]) == (["a", "b"], ["1", "2"])


def test_a_typed_answer_is_read_from_the_answer_alone() -> None:
    @lw.function
    def program(s: lw.State) -> None:
        schema = {"type": "integer"}
        s += lw.separate_reasoning(lw.gen("x", json_schema=schema, after="</think>"), "qwen3")

    with lw.Scripted({"x": "<think>1, 2</think>4"}) as backend:
        assert program.run(backend=backend).value("x") == 4


def test_a_failed_gen_fails_both() -> None:
    with lw.Scripted({"x": lw.EngineDied("died"), "y": "y"}) as backend:
        state = think.run(backend=backend, wait=False)
        for name in ("x", "x_reasoning_content"):
            with pytest.raises(lw.EngineDied):
                state[name]
            with pytest.raises(lw.EngineDied):
                list(state.text_iter(name))


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: lw.separate_reasoning(lw.gen("x"), "gpt-2"), "model_type"),
        (lambda: lw.separate_reasoning(lw.gen("x")), "model_type"),
        (lambda: lw.separate_reasoning("text", "qwen3"), "expr"),
        (lambda: lw.separate_reasoning(lw.gen(), "qwen3"), "expr"),
        (lambda: lw.separate_reasoning(None, "qwen3"), "expr"),
    ],
)
def test_what_cannot_be_separated_is_refused_at_once(make: Any, field: str) -> None:
    with pytest.raises(lw.InvalidArgument) as caught:
        make()
    assert caught.value.field == field


def test_it_cannot_be_compiled_and_says_where() -> None:
    with pytest.raises(lw.Unsupported, match="separate_reasoning") as caught:
        think.compile()
    assert __file__ in (caught.value.where or "")


def test_a_wait_for_either_has_a_deadline() -> None:
    with lw.Scripted({"x": Reply("late", delay=3600.0), "y": "y"}) as backend:
        state = think.run(backend=backend, wait=False)
        with pytest.raises(lw.DeadlineExceeded):
            state.get_var("x_reasoning_content", timeout=0.01)
        state.cancel()
