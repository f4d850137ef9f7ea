"""What the OpenAI backend sends, what it refuses to send, and how it takes a server's faults."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import latticework as lw
from latticework.lang.backends import openai_http
from latticework.lang.backends.openai_bodies import alone_scores
from latticework.lang.events import Chunk, Done, Event
from latticework.lang.ir import Gen, Text
from tests.lang.backends.fault_server import Act, FaultServer

KEY = "sentinel-key-that-nobody-may-see"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_http, "FIRST_PAUSE", 0.02)


@pytest.fixture
def make() -> Iterator[Callable[..., tuple[FaultServer, lw.OpenAI]]]:
    """A server that follows a script, and a backend that speaks to it."""
    made: list[Any] = []

    def both(*acts: Act, owner: str | None = "vllm", **options: Any) -> tuple[FaultServer, lw.OpenAI]:
        server = FaultServer(acts, owner)
        backend = lw.OpenAI("m", base_url=server.url, **{"api_key": KEY, "timeout": 10.0, **options})
        made.append((server, backend))
        return server, backend

    yield both
    for server, backend in made:
        backend.shutdown()
        server.__exit__(None, None, None)


@lw.function
def ask(s: lw.State, question: str = "Hi") -> None:
    s += lw.system("Be brief.")
    s += lw.user(question)
    s += lw.assistant(lw.gen("answer", max_tokens=9))


@lw.function
def complete(s: lw.State) -> None:
    s += "Once " + lw.gen("x", max_tokens=4)


# ---------------------------------------------------------------- what is sent


def test_a_chat_is_sent_as_messages(make: Any) -> None:
    server, backend = make(Act(("Hel", "lo")))
    state = ask.run(backend=backend, seed=1, temperature=0.5, stop=["END"])
    assert state["answer"] == "Hello"
    (path, body), *more = server.asked
    assert not more
    assert path == "/v1/chat/completions"
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert (body["max_tokens"], body["temperature"], body["stop"], body["stream"]) == (9, 0.5, ["END"], True)
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    usage = state.meta("answer").usage
    assert (usage.prompt, usage.cached, usage.computed, usage.output) == (7, 2, 5, 3)
    assert (backend.token_usage.prompt_tokens, backend.token_usage.completion_tokens) == (7, 3)
    backend.token_usage.reset()
    assert backend.token_usage.completion_tokens == 0
    assert state.messages()[-1] == {"role": "assistant", "content": "Hello"}


def test_a_conversation_goes_on_with_what_was_said(make: Any) -> None:
    @lw.function
    def talk(s: lw.State) -> None:
        s += lw.user("One")
        s += lw.assistant(lw.gen("a"))
        s += lw.user("Two")
        s += lw.assistant(lw.gen("b"))

    server, backend = make(Act(("first",)), Act(("second",)))
    state = talk.run(backend=backend)
    assert [message["content"] for message in server.asked[1][1]["messages"]] == ["One", "first", "Two"]
    assert state["b"] == "second"


def test_a_completion_is_sent_as_text(make: Any) -> None:
    @lw.function
    def both(s: lw.State) -> None:
        s += "Once " + lw.gen("x") + " and " + lw.gen("y")

    server, backend = make(Act(("upon",)), Act(("so on",)), is_chat_model=False)
    assert both.run(backend=backend).text() == "Once upon and so on"
    assert [body["prompt"] for _, body in server.asked] == ["Once ", "Once upon and "]
    assert server.asked[0][0] == "/v1/completions"


def test_branches_ask_side_by_side_with_seeds_of_their_own(make: Any) -> None:
    @lw.function
    def branches(s: lw.State) -> None:
        s += "Say "
        forks = s.fork(3)
        for index, fork in enumerate(forks):
            fork += f"{index}: " + lw.gen("x")
        forks.join()
        s += "done"

    server, backend = make(*[Act(delay=0.2)] * 3, is_chat_model=False)
    state = branches.run(backend=backend, seed=3)
    assert state["x"] == ["ok"] * 3
    assert server.most == 3
    assert sorted(body["prompt"] for _, body in server.asked) == ["Say 0: ", "Say 1: ", "Say 2: "]
    assert len({body["seed"] for _, body in server.asked}) == 3


def test_several_outputs_are_one_request(make: Any) -> None:
    @lw.function
    def several(s: lw.State) -> None:
        s += "x" + lw.gen("x", n=3)

    server, backend = make(is_chat_model=False)
    state = several.run(backend=backend)
    assert state["x"] == ["ok"] * 3
    assert server.asked[0][1]["n"] == 3
    assert state.usage().output == 3


def test_text_streams_as_it_comes(make: Any) -> None:
    _, backend = make(Act(tuple("abcdef")), is_chat_model=False)
    events: list[Event] = []
    over = threading.Event()

    def listen(event: Event) -> None:
        events.append(event)
        if isinstance(event, Done):
            over.set()

    session = backend.open(lw.Sampling(), 1, 0, listen)
    session.append(0, 0, (Text("x"), Gen("x")))
    assert over.wait(20)
    session.close()
    assert [event.text for event in events if isinstance(event, Chunk)] == list("abcdef")
    assert isinstance(events[-1], Done)
    assert events[-1].text == "abcdef"


@pytest.mark.parametrize(
    ("owner", "op", "field", "value"),
    [
        ("vllm", {"regex": "[0-9]"}, "structured_outputs", {"regex": "[0-9]"}),
        ("vllm", {"grammar": lw.Gbnf('root ::= "a"')}, "structured_outputs", {"grammar": 'root ::= "a"'}),
        ("sglang", {"regex": "[0-9]"}, "regex", "[0-9]"),
        ("sglang", {"grammar": lw.Gbnf('root ::= "a"')}, "ebnf", 'root ::= "a"'),
        ("latticework", {"regex": "[0-9]"}, "regex", "[0-9]"),
        ("vllm", {"top_k": 5}, "top_k", 5),
        ("vllm", {"include_stop": True}, "include_stop_str_in_output", True),
        ("sglang", {"include_stop": True}, "no_stop_trim", True),
        ("latticework", {"stop_regex": "a"}, "stop_regex", ["a"]),
        ("openai", {"logit_bias": {5: 2.0}}, "logit_bias", {"5": 2.0}),
        ("openai", {"return_logprob": True, "top_logprobs": 2}, "top_logprobs", 2),
    ],
)
def test_a_server_is_asked_in_its_own_words(make: Any, owner: str, op: dict[str, Any], field: str, value: Any) -> None:
    @lw.function
    def one(s: lw.State) -> None:
        s += lw.user("x") + lw.assistant(lw.gen("x", **op))

    server, backend = make(owner=owner)
    one.run(backend=backend)
    assert server.asked[0][1][field] == value


@pytest.mark.parametrize("owner", ["openai", "somebody", None])
def test_a_json_schema_is_asked_for_as_a_strict_format(make: Any, owner: str | None) -> None:
    @lw.function
    def one(s: lw.State) -> None:
        s += lw.user("x") + lw.assistant(lw.gen("x", json_schema={"type": "integer"}))

    server, backend = make(Act(("7",)), owner=owner)
    assert one.run(backend=backend).value("x") == 7
    body = server.asked[0][1]
    assert body["response_format"]["json_schema"] == {"name": "answer", "strict": True, "schema": {"type": "integer"}}
    assert "max_completion_tokens" in body
    assert "temperature" not in body


@pytest.mark.parametrize(("owner", "answer"), [("vllm", "b"), ("openai", '{"choice":"b"}'), ("sglang", "b")])
def test_a_chat_selects_by_constrained_choice(make: Any, owner: str, answer: str) -> None:
    @lw.function
    def pick(s: lw.State) -> None:
        s += lw.user("a or b.c?") + lw.assistant(lw.select("x", ["a", "b", "b.c"]))

    server, backend = make(Act((answer,)), owner=owner)
    state = pick.run(backend=backend)
    assert state["x"] == "b"
    assert state.meta("x").finish == "select"
    body = server.asked[0][1]
    assert body["temperature"] == 0
    if owner == "vllm":
        assert body["structured_outputs"] == {"choice": ["a", "b", "b.c"]}
    elif owner == "sglang":
        assert body["regex"] == r"(a|b|b\.c)"
    else:
        assert body["response_format"]["json_schema"]["schema"]["properties"]["choice"]["enum"] == ["a", "b", "b.c"]


@pytest.mark.parametrize("owner", ["vllm", "openai", "sglang", "latticework"])
@pytest.mark.parametrize(
    ("method", "temperature", "field"),
    [
        ("probability", 0.0, "choices_method"),
        ("unconditional_likelihood_normalized", 0.0, "choices_method"),
        ("token_length_normalized", 0.5, "temperature"),
        ("probability", 1.0, "temperature"),
    ],
)
def test_a_select_that_needs_scores_is_refused_where_there_are_none(
    make: Any, owner: str, method: Any, temperature: float, field: str
) -> None:
    @lw.function
    def pick(s: lw.State) -> None:
        s += lw.user("a or b?") + lw.assistant(lw.gen("first"))
        s += lw.user("again?") + lw.assistant(lw.select("x", ["a", "b"], temperature, method))

    server, backend = make(owner=owner)
    with pytest.raises(lw.Unsupported, match="no scores") as caught:
        pick.compile().run(backend=backend)
    assert caught.value.field == field
    assert server.asked == []


def test_a_select_that_a_constrained_choice_is_takes_its_method(make: Any) -> None:
    @lw.function
    def pick(s: lw.State) -> None:
        s += lw.user("a or b?") + lw.assistant(lw.select("x", ["a", "b"], 0.0, lw.greedy_token_selection))

    _, backend = make(Act(("b",)))
    assert pick.run(backend=backend)["x"] == "b"


def test_a_token_that_a_server_puts_before_an_option_is_no_part_of_it() -> None:
    def told(*tokens: tuple[str, float | None]) -> dict[str, Any]:
        texts, numbers = zip(*tokens, ("!", -9.0), strict=True)
        return {"finish_reason": "length", "logprobs": {"tokens": list(texts), "token_logprobs": list(numbers)}}

    begun = told(("<s>", None), ("re", -4.0), ("d", -1.0), (" one", -0.5))
    plain = told(("re", None), ("d", -1.0), (" one", -0.5))
    answer = {"choices": [{"index": 1, **plain}, {"index": 0, **begun}, {"index": 2, **told(("a", None))}]}
    assert alone_scores(answer, ["red one", "red one", "a"]) == [-1.5, -1.5, 0.0]
    with pytest.raises(lw.RuntimeFailure, match="no scores"):
        alone_scores({"choices": [{"index": 0}]}, ["a"])


def test_a_choice_that_is_none_is_an_error(make: Any) -> None:
    @lw.function
    def pick(s: lw.State) -> None:
        s += lw.user("x") + lw.assistant(lw.select("x", ["a", "b"]))

    _, backend = make(Act(("c",)))
    with pytest.raises(lw.RuntimeFailure, match="was to choose"):
        pick.run(backend=backend)


def test_a_server_that_goes_on_with_a_message_is_told_to(make: Any) -> None:
    @lw.function
    def begun(s: lw.State) -> None:
        s += lw.user("x") + lw.assistant("It is " + lw.gen("x"))

    server, backend = make()
    begun.run(backend=backend)
    body = server.asked[0][1]
    assert body["messages"][-1] == {"role": "assistant", "content": "It is "}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


# ---------------------------------------------------------------- what is not


@pytest.mark.parametrize(
    ("program", "options"),
    [
        (lambda s: s.__iadd__("x" + lw.gen("x")), {}),
        (lambda s: s.__iadd__(lw.user("x" + lw.gen("x"))), {}),
        (lambda s: s.__iadd__(lw.user("x") + lw.assistant("It is " + lw.gen("x"))), {}),
        (lambda s: s.__iadd__(lw.user("x") + lw.assistant(lw.gen("a") + " and " + lw.gen("b"))), {}),
        (lambda s: s.__iadd__(lw.user("x") + lw.gen("x")), {}),
        (lambda s: s.__iadd__(lw.user("x") + lw.assistant(lw.gen("x", regex="a"))), {}),
        (lambda s: s.__iadd__(lw.user("x") + lw.assistant(lw.gen("x", top_k=3))), {}),
        (lambda s: s.__iadd__(lw.user("x") + lw.assistant(lw.gen("x", stop=list("abcde")))), {}),
        (lambda s: s.__iadd__(lw.user("x") + lw.assistant(lw.gen("x", best_of=2))), {}),
        (lambda s: s.__iadd__(lw.user("x") + lw.assistant(lw.gen("x", prompt_logprobs=1))), {}),
        (lambda s: s.__iadd__(lw.user("x") + lw.assistant(lw.gen("x", regex="a", after="b"))), {}),
        (lambda s: s.__iadd__(lw.user("x") + lw.assistant(lw.gen("x", heal=True))), {}),
        (lambda s: s.__iadd__("x" + lw.gen("x", heal=True)), {"is_chat_model": False}),
        (lambda s: s.__iadd__(lw.user("x")), {"is_chat_model": False}),
        (lambda s: s.__iadd__(lw.gen("x")), {"is_chat_model": False}),
        (lambda s: s.__iadd__("x" + lw.select("x", ["a", "b"])), {"is_chat_model": False}),
        (lambda s: s.__iadd__("x" + lw.gen("x", json_schema={})), {"is_chat_model": False}),
    ],
)  # fmt: skip
def test_what_a_server_cannot_do_is_refused_before_anything_is_sent(make: Any, program: Any, options: Any) -> None:
    @lw.function
    def body(s: lw.State) -> None:
        program(s)

    server, backend = make(owner="openai", **options)
    with pytest.raises(lw.Unsupported) as caught:
        body.run(backend=backend)
    assert server.asked == []
    assert caught.value.where is not None


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"base_url": "localhost"}, "base_url"),
        ({"base_url": "http://me:secret@localhost/v1"}, "base_url"),
        ({"base_url": "http://localhost:no"}, "base_url"),
        ({"api_key": "a\nb"}, "api_key"),
        ({"dialect": "other"}, "dialect"),
        ({"timeout": 0}, "timeout"),
        ({"retries": -1}, "retries"),
        ({"concurrency": 0}, "concurrency"),
        ({"model": ""}, "model"),
        ({"verify": "/nowhere.pem"}, "verify"),
    ],
)
def test_a_wrong_setting_is_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(lw.InvalidArgument) as caught:
        lw.OpenAI(**{"model": "m", "base_url": "http://localhost/v1", **options})
    assert caught.value.field == field
    assert "secret" not in str(caught.value)


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(make: Any, status: int) -> None:
    server, backend = make(Act(status=status), Act(status=status), Act(("fine",)))
    assert ask.run(backend=backend)["answer"] == "fine"
    assert len(server.asked) == 3
    assert server.asked[0] == server.asked[2]


def test_a_connection_that_is_closed_and_a_server_that_is_slow_are_tried_again(make: Any) -> None:
    server, backend = make(Act(silent=True), Act(delay=1.0), Act(("fine",)), timeout=0.3)
    assert ask.run(backend=backend)["answer"] == "fine"
    assert len(server.asked) == 3


def test_a_server_is_waited_for_as_long_as_it_asks(make: Any) -> None:
    server, backend = make(Act(status=429, headers={"retry-after": "0.4"}), Act(("fine",)))
    assert ask.run(backend=backend)["answer"] == "fine"
    assert server.times[1] - server.times[0] >= 0.4


def test_a_server_that_asks_for_too_long_a_pause_is_not_waited_for(make: Any) -> None:
    server, backend = make(Act(status=429, headers={"retry-after": "3600"}))
    with pytest.raises(lw.QuotaExceeded):
        ask.run(backend=backend)
    assert len(server.asked) == 1


def test_pauses_grow_and_come_to_an_end(make: Any) -> None:
    server, backend = make(*[Act(status=503)] * 9, retries=3)
    with pytest.raises(lw.Busy, match="status 503"):
        ask.run(backend=backend)
    assert len(server.asked) == 4
    pauses = [after - before for before, after in pairwise(server.times)]
    assert all(pause >= least for pause, least in zip(pauses, (0.01, 0.02, 0.04), strict=True))


@pytest.mark.parametrize(
    ("status", "body", "kind", "field"),
    [
        (400, {"error": {"message": "bad top_p", "param": "top_p"}}, lw.InvalidArgument, "top_p"),
        (400, {"error": {"message": "long", "code": "context_length_exceeded"}}, lw.PromptTooLong, None),
        (401, {"error": {"message": f"Incorrect API key provided: {KEY}"}}, lw.InvalidArgument, "api_key"),
        (404, {"error": {"message": "no such model", "param": "model"}}, lw.InvalidArgument, "model"),
        (422, {"detail": "odd"}, lw.InvalidArgument, None),
        (400, ["what"], lw.InvalidArgument, None),
        (418, {"error": None}, lw.RuntimeFailure, None),
    ],
)
def test_what_cannot_pass_is_told_at_once(make: Any, status: int, body: Any, kind: type, field: str | None) -> None:
    server, backend = make(Act(status=status, body=body))
    with pytest.raises(kind) as caught:
        ask.run(backend=backend)
    assert len(server.asked) == 1
    assert caught.value.field == field  # type: ignore[attr-defined]
    assert KEY not in str(caught.value)


def test_a_stream_that_is_cut_before_its_first_text_is_tried_again(make: Any) -> None:
    server, backend = make(Act(("a", "b"), cut=0), Act(("", "b"), cut=1), Act(("fine",)))
    assert ask.run(backend=backend)["answer"] == "fine"
    assert len(server.asked) == 3


def test_a_stream_that_is_cut_later_fails_and_never_repeats_itself(make: Any) -> None:
    server, backend = make(Act(("a", "b", "c"), cut=2))
    state = ask.run(backend=backend, stream=True)
    with pytest.raises(lw.ConnectionLost):
        state["answer"]
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "act",
    [
        Act(raw="data: {\n\ndata: [DONE]\n\n"),
        Act(raw='data: {"choices": 7}\n\ndata: [DONE]\n\n'),
        Act(raw='data: {"error": {"message": "out of memory"}}\n\n'),
        Act(raw="data: [DONE]\n\n"),
        Act(finish="content_filter"),
        Act(raw='data: {"choices": [{"index": 0, "delta": {"refusal": "no"}}]}\n\ndata: [DONE]\n\n'),
    ],
)
def test_an_answer_that_is_none_is_an_error(make: Any, act: Act) -> None:
    _, backend = make(act)
    with pytest.raises(lw.RuntimeFailure):
        ask.run(backend=backend)


def test_a_run_that_is_too_slow_ends_with_its_deadline(make: Any) -> None:
    _, backend = make(Act(delay=5.0))
    with pytest.raises(lw.DeadlineExceeded):
        ask.run(backend=backend, timeout=0.2)


def test_retries_end_with_the_deadline(make: Any) -> None:
    server, backend = make(*[Act(status=503, headers={"retry-after": "30"})] * 9)
    with pytest.raises((lw.Busy, lw.DeadlineExceeded)):
        ask.run(backend=backend, timeout=0.5)
    assert len(server.asked) == 1


def test_a_branch_that_fails_does_not_fail_its_siblings(make: Any) -> None:
    @lw.function
    def branches(s: lw.State) -> None:
        s += "Say "
        forks = s.fork(2)
        forks[0].__iadd__("first " + lw.gen("x"))
        s.text()
        forks[1].__iadd__("second " + lw.gen("x"))
        with pytest.raises(lw.InvalidArgument):
            forks[0]["x"]
        assert forks[1]["x"] == "ok"

    _, backend = make(Act(status=400), is_chat_model=False)
    branches.run(backend=backend)


def test_cancelling_closes_the_request(make: Any) -> None:
    server, backend = make(Act(delay=0.3))
    state = ask.run(backend=backend, wait=False)
    while not server.asked:
        time.sleep(0.01)
    state.cancel()
    with pytest.raises(lw.Cancelled):
        state["answer"]


def test_a_backend_that_is_shut_down_fails_what_is_open_and_takes_no_more(make: Any) -> None:
    server, backend = make(Act(delay=0.3))
    state = ask.run(backend=backend, wait=False)
    while not server.asked:
        time.sleep(0.01)
    backend.shutdown()
    with pytest.raises(lw.ConnectionLost):
        state["answer"]
    with pytest.raises(lw.ConnectionLost):
        ask.run(backend=backend)


# ---------------------------------------------------------------- bounds and secrets


def test_many_runs_share_one_thread_and_a_bounded_number_of_requests(make: Any) -> None:
    server, backend = make(*[Act(delay=0.02)] * 40, concurrency=5)
    ask.run(backend=backend)
    before = threading.active_count()
    states = [ask.run(str(index), backend=backend, wait=False) for index in range(20)]
    assert [state["answer"] for state in states] == ["ok"] * 20
    assert server.most <= 5
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("latticework-openai") == 1
    assert before <= threading.active_count() + 20


def test_the_key_is_in_no_log_and_no_repr(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    _, backend = make(Act(status=500), Act(status=401, body={"error": {"message": KEY}}))
    with caplog.at_level(logging.DEBUG), pytest.raises(lw.InvalidArgument) as caught:
        ask.run(backend=backend)
    assert KEY not in caplog.text + repr(backend) + str(backend) + repr(vars(backend)) + repr(caught.value)
    assert "***" in str(caught.value)


def test_importing_the_language_imports_no_http_library() -> None:
    script = "import latticework as lw, sys; lw.OpenAI; print('httpx' in sys.modules, 'openai' in sys.modules)"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
