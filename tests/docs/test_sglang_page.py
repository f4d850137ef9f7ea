"""The page for those who come from SGLang has each of its public names, and says truly whether it is here."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import latticework as sgl
from latticework.lang import choices, ir

PAGE = (Path(__file__).parents[2] / "docs" / "sglang.md").read_text()
TABLE = PAGE.split("| SGLang | here |")[1].split("\n\n")[0]

HERE = """
function gen gen_int gen_string select image video system user assistant system_begin system_end user_begin user_end
assistant_begin assistant_end separate_reasoning Runtime Engine RuntimeEndpoint OpenAI set_default_backend flush_cache
get_server_info global_config token_length_normalized greedy_token_selection unconditional_likelihood_normalized
""".split()
ELSEWHERE = "Anthropic VertexAI LiteLLM Crusoe ServerArgs".split()
METHODS = {
    sgl.Function: "run run_batch bind trace compile cache",
    sgl.State: "get_var set_var get_meta_info text messages sync error ret_value text_iter text_async_iter fork copy"
    " var_scope",
    sgl.Branches: "join",
}


@pytest.mark.parametrize("name", HERE)
def test_a_name_of_sglangs_is_on_the_page_and_here(name: str) -> None:
    assert re.search(rf"`{name}\b", TABLE), name
    assert name in sgl.__all__
    assert getattr(sgl, name) is not None


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_name_that_is_not_here_is_said_to_be_missing(name: str) -> None:
    (row,) = [row for row in TABLE.splitlines() if f"`{name}`" in row.split(" | ")[0]]
    assert "not here" in row
    assert not hasattr(sgl, name)


def test_the_methods_of_programs_states_and_branches_are_on_the_page_and_here() -> None:
    for kind, names in METHODS.items():
        for name in names.split():
            assert re.search(rf"`\.?{name}\b", TABLE), name
            assert hasattr(kind, name)


def test_the_names_of_modules_are_here() -> None:
    for name in ("REGEX_INT", "REGEX_FLOAT", "REGEX_STR", "REGEX_BOOL"):
        assert f"{name}`" in TABLE
        assert isinstance(getattr(ir, name), str)
    assert isinstance(choices.token_length_normalized, choices.ChoicesSamplingMethod)


def test_what_gen_has_beyond_sglang_is_on_the_page() -> None:
    ours = [one.name for one in inspect.signature(sgl.gen).parameters.values() if one.kind is one.KEYWORD_ONLY]
    unmentioned = {name for name in ours if f"`{name}=`" not in TABLE}
    assert unmentioned == {"heal", "top_logprobs"}  # refused; top_logprobs_num by another name


def test_differences_in_calls_are_as_the_page_says() -> None:
    @sgl.function
    def ask(s: sgl.State, question: str) -> None:
        s += question + sgl.gen(max_tokens=4)

    @sgl.function
    def outer(s: sgl.State) -> None:
        ask("What?")

    with sgl.Scripted([" It."]) as backend:
        state = ask.run(question="What?", backend=backend)
        assert state.text() == "What? It."
        assert state.variables() == ()
        for call in (ask.trace, ask.compile):
            with pytest.raises(sgl.InvalidArgument, match="backend"):
                call(backend=backend)
    with pytest.raises(sgl.ProgramError):
        outer.trace()
    with pytest.raises(sgl.InvalidArgument, match="tp_size"):
        sgl.Runtime(model_path="tiny", tp_size=2)
    with pytest.raises(sgl.Unsupported, match="chat_template_name"):
        sgl.RuntimeEndpoint("http://127.0.0.1:1", chat_template_name="chatml")
