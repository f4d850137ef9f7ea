"""SGLang's names and arguments: what they become here."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

import latticework as lw
from latticework.lang import ir
from latticework.lang.backends.scripted import Reply
from latticework.lang.events import Done, TokenLogprob, Usage
from latticework.lang.ir import Gen, Regex, Select
from latticework.lang.meta import meta_info

SGLANG = {
    "gen": "name max_tokens min_tokens n stop stop_token_ids stop_regex temperature top_p top_k min_p frequency_penalty"
    " presence_penalty ignore_eos return_logprob logprob_start_len top_logprobs_num return_text_in_logprobs dtype"
    " choices choices_method regex json_schema",
    "gen_int": "name max_tokens n stop",
    "gen_string": "name max_tokens n stop",
    "select": "name choices temperature choices_method",
    "function": "func num_api_spec_tokens",
    "separate_reasoning": "expr model_type",
    "image": "expr",
    "video": "path num_frames",
    **dict.fromkeys(("system", "user", "assistant"), "expr"),
    **{f"{role}_{half}": "" for role in ("system", "user", "assistant") for half in ("begin", "end")},
}


def op(expr: Any) -> Any:
    (piece,) = expr.pieces
    return piece.op


@pytest.mark.parametrize("name", SGLANG)
def test_arguments_have_sglangs_names_in_its_order(name: str) -> None:
    parameters = inspect.signature(getattr(lw, name)).parameters.values()
    positional = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    assert positional == SGLANG[name].split()


def test_every_argument_of_gen_by_position() -> None:
    given = ("x", 9, 2, 3, "s", [5], "r", 0.5, 0.9, 7, 0.1, 0.2, 0.3, True, True, 0, 4, True)
    assert op(lw.gen(*given)).sampling == lw.Sampling(
        max_tokens=9,
        min_tokens=2,
        n=3,
        stop=("s",),
        stop_token_ids=(5,),
        stop_regex=("r",),
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        min_p=0.1,
        frequency_penalty=0.2,
        presence_penalty=0.3,
        ignore_eos=True,
        logprobs=4,
        prompt_logprobs=4,
    )
    assert op(lw.gen_int("x", 9, 3, "s", [5], "r", 0.5)) == op(lw.gen("x", 9, None, 3, "s", [5], "r", 0.5, dtype=int))
    assert op(lw.gen_string("x", min_tokens=2)) == op(lw.gen("x", None, 2, dtype=str))


@pytest.mark.parametrize("dtype", [int, "int", float, "float", str, "str", bool, "bool"])
def test_a_dtype_is_a_pattern_and_a_type_of_value(dtype: Any) -> None:
    kind = dtype if isinstance(dtype, str) else dtype.__name__
    gen = op(lw.gen("x", dtype=dtype))
    assert isinstance(gen.constraint, Regex)
    assert len(gen.sampling.stop_regex) == (kind in ("int", "float"))
    texts = {"int": ("-12", -12), "float": ("3.5", 3.5), "str": ('"a b"', "a b"), "bool": ("False", False)}

    @lw.function
    def program(s: lw.State) -> None:
        s += lw.gen("x", dtype=dtype)

    text, value = texts[kind]
    assert re.fullmatch(gen.constraint.pattern, text)
    with lw.Scripted({"x": text}) as backend:
        state = program.run(backend=backend)
    assert (state["x"], state.value("x")) == (text, value)
    with lw.Scripted({"x": "what?"}) as backend:
        wrong = program.run(backend=backend)
    with pytest.raises(lw.InvalidValue, match=kind):
        wrong.value("x")


def test_patterns_of_numbers_are_json() -> None:
    for wrong in ("007", "+1", "1.", ".5", "1.5"):
        assert not re.fullmatch(ir.REGEX_INT, wrong)
    for wrong in ("1.", ".5", "00.5", "1e3"):
        assert not re.fullmatch(ir.REGEX_FLOAT, wrong)
    assert not re.fullmatch(ir.REGEX_STR, '"a\nb"')


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (None, "token_length_normalized"),
        (lw.greedy_token_selection, "greedy_token_selection"),
        ("probability", "probability"),
        (lw.unconditional_likelihood_normalized, "unconditional_likelihood_normalized"),
    ],
)
def test_choices_and_their_method_make_a_select(method: Any, name: Any) -> None:
    assert op(lw.gen("x", choices=["a", "b"], choices_method=method)) == Select("x", ("a", "b"), name)
    if method is not None:
        assert op(lw.select("x", ["a", "b"], 0.0, method)) == Select("x", ("a", "b"), name)


def test_logprobs_of_the_prompt_begin_where_sglangs_argument_says() -> None:
    none, all_of_it, some = (op(lw.gen("x", logprob_start_len=start)).sampling for start in (-1, 0, 7))
    assert (none.prompt_logprobs, all_of_it.prompt_logprobs, some.prompt_logprobs) == (None, 0, 0)
    assert (none.prompt_logprobs_start, all_of_it.prompt_logprobs_start, some.prompt_logprobs_start) == (0, 0, 7)
    assert op(lw.gen("x", logprob_start_len=7, top_logprobs_num=2)).sampling.prompt_logprobs == 2
    for wrong in (-2, 0.5, True, "0"):
        with pytest.raises(lw.InvalidArgument, match="logprob_start_len"):
            lw.gen("x", logprob_start_len=wrong)  # type: ignore[arg-type]


def test_a_trace_can_be_printed_from_its_last_node(capsys: pytest.CaptureFixture[str]) -> None:
    @lw.function
    def program(s: lw.State, word: str) -> None:
        s += "Say " + word
        forks = s.fork(2)
        forks += lambda i: f"{i}" + lw.gen("x", max_tokens=3)
        forks.join()
        s += lw.select("y", ["a", "b"])

    program.trace().last_node.print_graph_dfs()
    assert capsys.readouterr().out.splitlines() == [
        '%1 = text "Say "',
        "%2 = %1 + arg word",
        "%3 = %2 + fork 1 2",
        '%4 = %3 + text "0"',
        "%5 = %4 + gen x max_tokens=3",
        '%6 = %3 + text "1"',
        "%7 = %6 + gen x max_tokens=3",
        "%8 = %3 + join %5 %7",
        '%9 = %8 + select y from ["a", "b"] by token_length_normalized',
    ]
    with pytest.raises(lw.ProgramError, match="no ops"):
        lw.function(lambda s: None).trace().last_node  # noqa: B018


def test_a_trace_of_branches_that_nobody_joins_is_printed_up_to_the_fork(capsys: pytest.CaptureFixture[str]) -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "Say "
        forks = s.fork(2)
        forks += lw.gen("x")

    program.trace().last_node.print_graph_dfs()
    assert capsys.readouterr().out.splitlines() == ['%1 = text "Say "', "%2 = %1 + fork 1 2"]


# ---------------------------------------------------------------- run


def test_run_takes_sglangs_settings() -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += lw.gen("x")

    with lw.Scripted({"x": ["a", "b", "c"]}) as backend:
        program.run(
            max_new_tokens=7,
            n=3,
            stop=["s"],
            stop_token_ids=[4],
            stop_regex="r",
            temperature=0.5,
            top_p=0.9,
            top_k=5,
            min_p=0.1,
            frequency_penalty=0.1,
            presence_penalty=0.2,
            ignore_eos=True,
            return_logprob=True,
            logprob_start_len=-1,
            top_logprobs_num=2,
            return_text_in_logprobs=True,
            stream=False,
            backend=backend,
            use_thread=True,
        )
        assert backend.asked[0][2] == lw.Sampling(
            max_tokens=7,
            n=3,
            stop=("s",),
            stop_token_ids=(4,),
            stop_regex=("r",),
            temperature=0.5,
            top_p=0.9,
            top_k=5,
            min_p=0.1,
            frequency_penalty=0.1,
            presence_penalty=0.2,
            ignore_eos=True,
            logprobs=2,
        )


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"max_new_tokens": 7, "max_tokens": 8}, lw.InvalidArgument),
        ({"logprob_start_len": -2}, lw.InvalidArgument),
        ({"max_new_tokens": 0}, lw.InvalidArgument),
        ({"return_logprob": "yes"}, lw.InvalidArgument),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_sent(settings: dict[str, Any], error: Any) -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += lw.gen("x")

    with lw.Scripted({"x": "a"}) as backend:
        with pytest.raises(error):
            program.run(backend=backend, **settings)
        assert backend.opened == 0


# ---------------------------------------------------------------- meta_info


def test_meta_info_has_sglangs_names() -> None:
    token = TokenLogprob(5, "a", -0.5, ((5, "a", -0.5), (6, "b", -1.5)))
    done = Done(
        *(0, 0, "a", "stop"),
        stopped_by="\n",
        usage=Usage(prompt=9, cached=4, computed=5, output=2),
        logprobs=(token,),
        prompt_logprobs=(token, token),
        seed=3,
    )
    assert meta_info(done) == {
        "prompt_tokens": 9,
        "completion_tokens": 2,
        "cached_tokens": 4,
        "seed": 3,
        "finish_reason": {"type": "stop", "matched": "\n"},
        "output_token_logprobs": [[-0.5, 5, "a"]],
        "output_top_logprobs": [[[-0.5, 5, "a"], [-1.5, 6, "b"]]],
        "output_token_logprobs_length": 1,
        "input_token_logprobs": [[-0.5, 5, "a"]] * 2,
        "input_top_logprobs": [[[-0.5, 5, "a"], [-1.5, 6, "b"]]] * 2,
    }
    (first, second) = meta_info([done, Done(0, 0, "a", "length", usage=Usage(output=7))])
    assert first["prompt_tokens"] == 9
    assert second["finish_reason"] == {"type": "length", "length": 7}


def test_a_state_has_sglangs_methods() -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s.set_var("set", "value")
        s += lw.gen("x")
        s.sync()

    reply = Reply("ab", logprobs=(TokenLogprob(1, "ab", 0.0),))
    with lw.Scripted({"x": reply}) as backend:
        state = program.run(backend=backend)
    state.sync(timeout=1)
    assert (state.get_var("x"), state.get_var("set", timeout=1)) == ("ab", "value")
    assert state.get_meta_info("x", timeout=1)["output_token_logprobs"] == [[0.0, 1, "ab"]]
    assert ("x" in state, "y" in state, state.error()) == (True, False, None)
    with pytest.raises(lw.ProgramError, match="set by the program"):
        state.get_meta_info("set")


def test_gens_of_a_program_have_the_names_of_the_patterns_at_hand() -> None:
    assert op(lw.gen("x", regex=ir.REGEX_INT)) == Gen("x", constraint=Regex(ir.REGEX_INT))
