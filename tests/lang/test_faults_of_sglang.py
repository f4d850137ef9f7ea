"""What SGLang's frontend is known to get wrong, and what happens here instead: a test for each.

The list is that of the design, and of SGLang's own issues. Whatever could hang has a deadline.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

import latticework as lw
from latticework.lang.backends.scripted import Reply
from latticework.lang.choices import decide
from latticework.lang.events import TokenLogprob
from latticework.lang.ir import Gen, Select
from latticework.runtime.model.locate import find_model
from latticework.runtime.text.chat import ChatTemplate
from tests.runtime.model.by_hand import save_llama

pytestmark = pytest.mark.timeout(60)

BROKEN = lw.EngineDied("the engine process ended")
NEVER = Reply("late", delay=3600.0)


# ---------------------------------------------------------------- errors


@lw.function
def two(s: lw.State) -> None:
    s += "p" + lw.gen("a")
    s += lw.gen("b")


def test_an_error_is_raised_where_the_variable_is_read_and_is_no_key_error() -> None:
    with lw.Scripted({"a": BROKEN, "b": "b"}) as backend:
        state = two.run(backend=backend, wait=False)
        for read in (lambda: state["a"], lambda: state["b"], state.text, state.sync, lambda: list(state.text_iter())):
            with pytest.raises(lw.EngineDied, match="gen 'a'"):
                read()
        assert isinstance(state.error(), lw.EngineDied)
        with pytest.raises(lw.EngineDied):
            two.run(backend=backend)
        with pytest.raises(lw.EngineDied):
            two.run_batch([{}, {}], backend=backend)


def test_what_is_appended_after_a_failure_fails_and_never_hangs() -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += lw.gen("a")
        with pytest.raises(lw.EngineDied):
            s["a"]
        s += "more" + lw.gen("b")
        for read in (lambda: s["b"], s.text, s.sync):
            with pytest.raises(lw.EngineDied):
                read()

    with lw.Scripted({"a": BROKEN, "b": "never asked"}) as backend:
        program.run(backend=backend, timeout=30)
        assert [name for name, _, _ in backend.asked] == ["a"]


def test_every_wait_has_a_deadline_and_a_program_can_be_cancelled() -> None:
    with lw.Scripted({"a": NEVER, "b": "b"}) as backend:
        state = two.run(backend=backend, wait=False)
        for read in (lambda: state.get_var("a", timeout=0.01), lambda: state.sync(0.01), lambda: state.text(0.01)):
            with pytest.raises(lw.DeadlineExceeded):
                read()
        with pytest.raises(lw.DeadlineExceeded):
            two.run(backend=backend, timeout=0.05)
        state.cancel()
        with pytest.raises(lw.Cancelled):
            state["a"]
    assert backend.opened == backend.closed


def test_an_unknown_variable_is_named_with_those_there_are() -> None:
    with lw.Scripted({"a": "1", "b": "2"}) as backend:
        state = two.run(backend=backend)
    for read in (lambda: state["c"], lambda: list(state.text_iter("c")), lambda: state.get_meta_info("c")):
        with pytest.raises(lw.UnknownVariable, match="'c'; it has: 'a', 'b'") as caught:
            read()
        assert isinstance(caught.value, KeyError)


def test_a_stream_of_a_variable_waits_for_it_and_ends_with_its_error() -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += lw.gen("a")
        if s["a"]:
            s += lw.gen("b") + lw.gen("c")

    with lw.Scripted({"a": Reply("1", delay=0.05), "b": "late", "c": BROKEN}) as backend:
        state = program.run(backend=backend, stream=True)
        assert "".join(state.text_iter("b", timeout=30)) == "late"  # the body had not come to it yet
        with pytest.raises(lw.EngineDied, match="gen 'c'"):
            list(state.text_iter(timeout=30))


# ---------------------------------------------------------------- select


@pytest.mark.parametrize("make", [lambda: lw.gen("x", choices=[]), lambda: lw.select("x", [])])
def test_no_choices_are_refused_and_never_free_text(make: Any) -> None:
    with pytest.raises(lw.InvalidArgument, match="at least one"):
        make()


def test_a_logprob_of_exactly_zero_counts_as_any_other() -> None:
    assert decide("token_length_normalized", [[-1.0, 0.0, 0.0]]).scores == (pytest.approx(-1 / 3),)
    assert decide("token_length_normalized", [[0.0]]).scores == (0.0,)


def test_a_temperature_above_zero_draws_among_the_choices() -> None:
    (piece,) = lw.gen("x", choices=["a", "b"], temperature=0.5, choices_method=lw.probability).pieces
    assert piece.op == Select("x", ("a", "b"), "probability", 0.5)


# ---------------------------------------------------------------- forks


def test_a_join_gathers_a_variable_that_the_parent_has_already() -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += lw.gen("x")
        forks = s.fork(2)
        forks += lw.gen("x")
        forks.join()

    with lw.Scripted({"x": ["old", "1", "2"]}) as backend:
        assert program.run(backend=backend)["x"] == ["1", "2"]


def test_a_join_can_append_the_branches_text() -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "p "
        forks = s.fork(3)
        forks += lambda i: f"{i}: " + lw.gen("x") + ", "
        forks.join(mode="concate_and_append")
        s += "end " + lw.gen("y")

    with lw.Scripted({"x": ["a", "b", "c"], "y": "!"}) as backend:
        state = program.run(backend=backend, timeout=30)
        assert state.text() == "p 0: a, 1: b, 2: c, end !"
        assert backend.asked[-1][:2] == ("y", "p 0: a, 1: b, 2: c, end ")
    assert "x" not in state


def test_text_can_be_appended_to_all_branches() -> None:
    @lw.function
    def program(s: lw.State) -> list[str]:
        forks = s.fork(2)
        forks += "same "
        forks += ["left", "right"]
        return [fork.text() for fork in forks]

    with lw.Scripted() as backend:
        assert program.run(backend=backend).ret_value == ["same left", "same right"]


def test_a_branch_knows_how_its_parents_variables_came_about() -> None:
    @lw.function
    def program(s: lw.State) -> Any:
        s += lw.gen("x")
        (fork,) = s.fork()
        return fork["x"], fork.get_meta_info("x")["completion_tokens"]

    with lw.Scripted({"x": "abc"}) as backend:
        assert program.run(backend=backend).ret_value == ("abc", 3)


def test_a_fork_of_no_text_is_one_like_any_other(tiny_runtime: lw.Runtime) -> None:
    @lw.function
    def program(s: lw.State) -> None:
        forks = s.fork(3)
        forks += lambda i: f"{i}: " + lw.gen("x", max_tokens=2)
        forks.join()

    state = program.run(backend=tiny_runtime, seed=1, timeout=30)
    assert len(state["x"]) == 3
    assert program.compile().run(backend=tiny_runtime, seed=1, timeout=30)["x"] == state["x"]


def test_a_fork_of_nothing_is_refused() -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s.fork(0)

    with lw.Scripted() as backend, pytest.raises(lw.InvalidArgument, match="at least 1"):
        program.run(backend=backend)


# ---------------------------------------------------------------- tracing


def test_forks_messages_and_scopes_can_be_traced() -> None:
    @lw.function
    def program(s: lw.State, topic: str, tone: str = "dry") -> None:
        with s.user():
            s += "On " + topic + ", " + tone
        forks = s.fork(2)
        forks += lw.gen("x")
        forks.join()
        with s.var_scope("all"):
            s += "a" + lw.gen(max_tokens=3) + "b"

    with lw.Scripted(lambda prompt, op: str(op.name)) as backend:
        compiled = program.compile()
        assert "dry" in str(compiled.ir)  # a default is a constant
        state = compiled.run("cats", backend=backend)
        plain = program.run("cats", backend=backend)
    for name in ("x", "all"):
        assert state[name] == plain[name]
    assert state.text() == plain.text()


def test_a_branch_on_a_value_cannot_be_traced_down_one_path_silently() -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += lw.gen("x")
        if s["x"] == "yes":
            s += "!"

    with pytest.raises(lw.NeedsValue, match="x"):
        program.compile()


# ---------------------------------------------------------------- batches and threads


@pytest.mark.parametrize("generator_style", [True, False])
def test_a_batch_runs_the_body_once_for_each_item_and_never_with_made_up_arguments(generator_style: bool) -> None:
    seen: list[str] = []

    @lw.function
    def program(s: lw.State, word: str) -> None:
        seen.append(word)
        s += "a long constant prefix " * 20 + word + lw.gen("x")

    with lw.Scripted({"x": "a"}) as backend:
        items = [{"word": word} for word in "abc"]
        settings: dict[str, Any] = {"generator_style": generator_style}
        assert len(list(program.run_batch(items, backend=backend, **settings))) == 3
    assert sorted(seen) == ["a", "b", "c"]


def test_a_batchs_item_that_does_not_fit_is_named() -> None:
    @lw.function
    def program(s: lw.State, word: str) -> None:
        s += word + lw.gen("x")

    with lw.Scripted({"x": "a"}) as backend:
        for wrong in (("a", "b"), {"name": "a"}, 7):
            with pytest.raises(lw.InvalidArgument, match="item 1"):
                program.run_batch([("a",), wrong], backend=backend)  # type: ignore[list-item]
        assert backend.opened == 0


def test_neither_a_state_nor_a_fork_costs_a_thread() -> None:
    @lw.function
    def program(s: lw.State) -> None:
        forks = s.fork(50)
        forks += lw.gen("x")
        forks.join()

    before = threading.active_count()
    with lw.Scripted({"x": Reply("a", delay=0.05)}) as backend:
        states = [program.run(backend=backend, stream=True) for _ in range(3)]
        assert threading.active_count() - before <= 8  # for 150 forks: the bodies that wait, and the backend
        assert [len(state["x"]) for state in states] == [50] * 3


# ---------------------------------------------------------------- text and streams


def test_an_expression_in_an_f_string_is_refused() -> None:
    with pytest.raises(lw.InvalidArgument, match="put into a string"):
        f"{lw.gen('a')}"


def test_no_logprob_of_a_stream_is_lost_when_chunks_come_together() -> None:
    logprobs = tuple(TokenLogprob(number, "ab"[number % 2], -float(number)) for number in range(40))

    @lw.function
    def program(s: lw.State) -> None:
        s += lw.gen("answer", return_logprob=True)

    async def stream() -> None:
        state = program.run(backend=backend, stream=True)
        tokens = length = 0
        seen: list[list[Any]] = []
        async for text, meta in state.text_async_iter("answer", return_meta_data=True):
            assert len(text) <= 40
            new = meta["output_token_logprobs"]
            assert len(new) == meta["completion_tokens"] - tokens == meta["output_token_logprobs_length"] - length
            tokens, length = meta["completion_tokens"], meta["output_token_logprobs_length"]
            seen += new
            await asyncio.sleep(0.003)  # several chunks come meanwhile
        assert seen == [[one.logprob, one.token, one.text] for one in logprobs]

    with lw.Scripted({"answer": Reply("ab" * 20, logprobs=logprobs)}, chunk=1, delay=0.001) as backend:
        asyncio.run(stream())


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 2])
def test_reasoning_is_separated_in_streams_and_of_several_outputs(stream: bool, n: int) -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "Q" + lw.separate_reasoning(lw.gen("x", n=n), model_type="qwen3")

    with lw.Scripted({"x": ["<think>hm</think>4", "<think>oh</think>5"]}, chunk=2) as backend:
        state = program.run(backend=backend, stream=stream)
        assert state["x"] == ("4" if n == 1 else ["4", "5"])
        assert state["x_reasoning_content"] == ("hm" if n == 1 else ["hm", "oh"])


def test_gens_without_a_name_are_text_and_never_overwrite_one_another() -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "a" + lw.gen() + "b" + lw.gen()

    with lw.Scripted(["1", "2"]) as backend:
        state = program.run(backend=backend)
    assert (state.text(), state.variables()) == ("a1b2", ())


# ---------------------------------------------------------------- chat templates

MARKERS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
NAMES = ["Llama-2-7b-chat-hf", "vicuna-7b-v1.5", "Qwen2-7B-Instruct", "mistral-chatml", "gemma-2-it"]


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model as a folder, without a template."""
    folder: Path = tmp_path_factory.mktemp("model")
    save_llama(folder)
    return folder


def named(folder: Path, name: str, to: Path, template: str | None) -> str:
    """The model under a name that promises another template."""
    copy = to / "meta-llama" / name
    shutil.copytree(folder, copy)
    if template is not None:
        (copy / "chat_template.jinja").write_text(template + "{% if add_generation_prompt %}<assistant>{% endif %}")
    return str(copy)


@pytest.mark.parametrize("name", NAMES)
def test_a_models_own_template_is_used_whatever_its_path_is(llama_folder: Path, tmp_path: Path, name: str) -> None:
    template = ChatTemplate.of(find_model(named(llama_folder, name, tmp_path, MARKERS)))
    assert template.render([{"role": "user", "content": "Hi"}], True) == "<user>Hi</user><assistant>"
    assert template.opening((), "user") == "<user>"


def test_a_model_without_a_template_gets_none_by_its_path(llama_folder: Path, tmp_path: Path) -> None:
    template = ChatTemplate.of(find_model(named(llama_folder, "Llama-2-7b-chat-hf", tmp_path, None)))
    with pytest.raises(lw.Unsupported, match="has no chat template"):
        template.opening((), "user")


def test_a_program_writes_roles_in_the_models_own_template(llama_folder: Path, tmp_path: Path) -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += lw.user("Hi") + lw.assistant(lw.gen("x", choices=["yes", "no"]))

    path = named(llama_folder, "Llama-2-7b-chat-hf", tmp_path, MARKERS)
    with lw.Runtime(path, dtype="float64", kv_tokens=1024, threads=1) as runtime:
        state = program.run(backend=runtime, timeout=30)
    assert state.text() == f"<user>Hi</user><assistant>{state['x']}</assistant>"


# ---------------------------------------------------------------- arguments


def test_a_programs_own_parameters_win_over_settings_of_the_same_names() -> None:
    @lw.function
    def program(s: lw.State, n: int, stop: str, stream: bool, backend: str, temperature: float) -> str:
        s += lw.gen("x", max_tokens=3)
        return f"{n} {stop} {stream} {backend} {temperature}"

    with lw.Scripted({"x": "a"}) as backend:
        lw.set_default_backend(backend)
        try:
            state = program.run(n=1, stop="s", stream=True, backend="b", temperature=2.5, sampling=lw.Sampling(top_k=7))
        finally:
            lw.set_default_backend(None)
        assert state.ret_value == "1 s True b 2.5"
        assert backend.asked[0][2] == lw.Sampling(max_tokens=3, top_k=7)


def test_a_run_takes_the_settings_that_a_gen_takes() -> None:
    with lw.Scripted({"a": "1", "b": "2"}) as backend:
        two.run(backend=backend, min_new_tokens=3, repetition_penalty=1.5, logit_bias={5: 2.0})
        wanted = lw.Sampling(min_tokens=3, repetition_penalty=1.5, logit_bias=((5, 2.0),))
        assert [sampling for _, _, sampling in backend.asked] == [wanted] * 2


def test_grammars_and_tagged_texts_reach_the_backend() -> None:
    grammar = lw.Gbnf('root ::= "a" | "b"')
    tagged = lw.Triggered((lw.Tag("<f>", lw.JsonSchema({"type": "object"}), "</f>"),))
    for given, op in ((grammar, grammar), (tagged, tagged), ('start: "a"', lw.Lark('start: "a"'))):
        (piece,) = lw.gen("x", grammar=given).pieces
        assert isinstance(piece.op, Gen)
        assert piece.op.constraint == op


def test_bound_values_never_override_those_of_a_call() -> None:
    @lw.function(num_api_spec_tokens=64)
    def program(s: lw.State, a: str, b: str = "b") -> str:
        return a + b

    bound = program.bind(a="A", b="B")
    with lw.Scripted() as backend:
        assert bound.run(backend=backend).ret_value == "AB"
        assert bound.run(b="2", backend=backend).ret_value == "A2"
        assert bound.run("1", backend=backend).ret_value == "1B"  # by position, too
        assert bound.bind(a="C").run("1", "2", backend=backend).ret_value == "12"
        assert bound.run_batch([{"a": "1"}, {}], backend=backend)[1].ret_value == "AB"
    assert bound.num_api_spec_tokens == 64
    with pytest.raises(lw.InvalidArgument, match="no parameter 'c'; it has: a, b"):
        program.bind(c=1)
    with pytest.raises(lw.InvalidArgument, match="multiple values"):
        program.run("1", a="2", backend=None)


def test_the_state_may_have_any_name_and_a_program_keeps_its_own() -> None:
    @lw.function
    def program(conversation: lw.State) -> None:
        """Says hello."""
        conversation += "hello"

    assert (program.__name__, program.__doc__) == ("program", "Says hello.")
    with lw.Scripted() as backend:
        assert program.run(backend=backend).text() == "hello"


def test_a_method_can_be_a_program() -> None:
    class Greeter:
        def __init__(self, name: str) -> None:
            self.name = name

        @lw.function
        def greet(self, s: lw.State, word: str) -> None:
            s += f"{self.name}: {word}" + lw.gen("x")

        @staticmethod
        @lw.function
        def plain(s: lw.State) -> None:
            s += "plain"

    with lw.Scripted({"x": "!"}) as backend:
        assert Greeter("Ann").greet.run("hi", backend=backend).text() == "Ann: hi!"
        assert Greeter("Bob").greet.bind(word="ho").run(backend=backend).text() == "Bob: ho!"
        assert Greeter.plain.run(backend=backend).text() == "plain"


def test_an_async_body_is_run() -> None:
    @lw.function
    async def program(s: lw.AsyncState) -> str:
        s += "a" + lw.gen("x")
        return str(await s["x"])

    with lw.Scripted({"x": "!"}) as backend:
        assert program.run(backend=backend).ret_value == "!"


# ---------------------------------------------------------------- gen's arguments


def test_stops_and_a_dtype_go_together() -> None:
    (piece,) = lw.gen("x", dtype=int, stop="7", stop_regex="8").pieces
    assert isinstance(piece.op, Gen)
    assert (piece.op.sampling.stop, piece.op.sampling.stop_regex) == (("7",), ("8", "[^-0-9]"))


@pytest.mark.parametrize(("dtype", "text", "value"), [(int, "12", 12), (float, "1.5", 1.5), (bool, "True", True)])
def test_a_dtypes_value_is_of_that_type(dtype: Any, text: str, value: Any) -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += lw.gen("x", dtype=dtype)

    with lw.Scripted({"x": text}) as backend:
        state = program.run(backend=backend)
    assert state.value("x") == value
    assert type(state.value("x")) is dtype


def test_a_json_schema_may_be_a_dict_and_is_no_companion_of_a_regex() -> None:
    with pytest.raises(lw.InvalidArgument, match="at most one"):
        lw.gen("x", json_schema={"type": "integer"}, regex="a")
    assert lw.gen("x", json_schema={"type": "integer"}).pieces == lw.gen("x", json_schema='{"type":"integer"}').pieces


def test_pictures_are_refused_before_anything_is_sent() -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += lw.user("What is it? " + lw.image("cat.png")) + lw.assistant(lw.gen("x"))

    with lw.Scripted({"x": "a cat"}) as backend:
        with pytest.raises(lw.Unsupported, match="pictures"):
            program.run(backend=backend)
        assert backend.appends == 0
    with pytest.raises(lw.Unsupported, match="pictures"):
        program.trace()
    with pytest.raises(lw.Unsupported, match="films"):
        lw.video("cat.mp4", 8)


def test_a_message_inside_a_message_raises_where_it_is_appended() -> None:
    @lw.function
    def program(s: lw.State) -> None:
        with s.user():
            s += lw.assistant("x")

    with lw.Scripted() as backend, pytest.raises(lw.ProgramError, match="inside a user message"):
        program.run(backend=backend)
