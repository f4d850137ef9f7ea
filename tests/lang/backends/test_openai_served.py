"""The OpenAI backend against our own server over real HTTP: a program gives what it gives on the runtime itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import latticework as lw
from latticework.lang.backends.runtime import Connection
from tests.conftest import SERVER_KEYS
from tests.runtime.server.conftest import ServedFront

KEY = SERVER_KEYS["ada"]
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}, "b": {"enum": ["x", "y"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def served(tiny_server: ServedFront) -> ServedFront:
    return tiny_server


@pytest.fixture(scope="module")
def near(served: ServedFront) -> Iterator[Connection]:
    """The same runtime, by its own link."""
    assert served.link is not None
    with lw.connect(served.link.address) as connection:
        yield connection


@pytest.fixture(scope="module")
def chat(served: ServedFront) -> Iterator[lw.OpenAI]:
    with lw.OpenAI("tiny", base_url=f"{served.url}/v1", api_key=KEY) as backend:
        yield backend


@pytest.fixture(scope="module")
def text(served: ServedFront) -> Iterator[lw.OpenAI]:
    with lw.OpenAI("tiny", is_chat_model=False, base_url=f"{served.url}/v1", api_key=KEY) as backend:
        yield backend


@lw.function
def talk(s: lw.State) -> None:
    s += lw.system("You tell stories.")
    s += lw.user("Of whom?")
    s += lw.assistant(lw.gen("hero", max_tokens=8, regex="[A-Z][a-z]+"))  # bytes that are no text come back as others
    s += lw.user("And then?")
    with s.assistant():
        s += lw.gen("ending", max_tokens=10, temperature=0.7, top_p=0.9, top_k=40, stop=["q"])


@lw.function
def tale(s: lw.State) -> None:
    s += "Once there was " + lw.gen("hero", max_tokens=6, frequency_penalty=0.5) + ". "
    forks = s.fork(2)
    for fork in forks:
        fork += "It ended " + lw.gen("ending", max_tokens=6)
    forks.join()
    s += "Code: " + lw.gen("code", regex="[0-9]{3}") + ", " + lw.gen("json", json_schema=SCHEMA, max_tokens=60)
    s += ". It was " + lw.select("verdict", ["good", "bad", "so-so"])
    s += lw.gen("several", n=2, max_tokens=5) + "!"


@pytest.mark.parametrize("seed", [1, 2])
def test_a_chat_says_what_the_runtime_says(near: Connection, chat: lw.OpenAI, seed: int) -> None:
    there, here = talk.run(backend=near, seed=seed), talk.run(backend=chat, seed=seed)
    assert here["hero"] == there["hero"]
    assert here["ending"] == there["ending"]
    assert here.meta("hero").usage.output == there.meta("hero").usage.output
    assert [message["content"] for message in here.messages()] == [m["content"] for m in there.messages()]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_completion_says_what_the_runtime_says(near: Connection, text: lw.OpenAI, seed: int) -> None:
    there, here = tale.run(backend=near, seed=seed), tale.run(backend=text, seed=seed)
    assert here.text() == there.text()
    for name in ("hero", "ending", "code", "json", "verdict", "several"):
        assert here[name] == there[name]
    assert here.value("json") == there.value("json")
    assert here.meta("verdict").scores == pytest.approx(there.meta("verdict").scores, abs=1e-9)


METHODS = ["token_length_normalized", "unconditional_likelihood_normalized", "probability"]
WAYS = [("greedy_token_selection", 0.0), *((method, heat) for method in METHODS for heat in (0.0, 1.5))]


@pytest.mark.parametrize(("method", "temperature"), WAYS)
def test_every_method_of_a_select_decides_and_draws_as_in_the_runtime(
    near: Connection, text: lw.OpenAI, method: Any, temperature: float
) -> None:
    @lw.function
    def pick(s: lw.State) -> None:
        s += "Of red, blue and green: "
        for number in range(4):
            options = ["red", "blue", "green and more", "x", "日本é"]
            s += lw.select(f"x{number}", options, temperature, method) + ", "

    there, here = pick.run(backend=near, seed=5), pick.run(backend=text, seed=5)
    for number in range(4):
        one, other = here.meta(f"x{number}"), there.meta(f"x{number}")
        assert (one.text, one.seed) == (other.text, other.seed)
        assert one.scores == pytest.approx(other.scores, abs=1e-9)
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-9)


def test_options_alone_are_one_more_request(text: lw.OpenAI) -> None:
    @lw.function
    def pick(s: lw.State) -> None:
        s += "Red: " + lw.select("x", ["a", "bb"], choices_method="unconditional_likelihood_normalized")

    before = text.attempts
    pick.run(backend=text)
    assert text.attempts == before + 2


def test_options_are_scored_by_their_own_tokens_whatever_they_are_made_of(near: Connection, text: lw.OpenAI) -> None:
    @lw.function
    def pick(s: lw.State) -> None:
        s += "Ein Bär, café: " + lw.select("x", ["é", "Bär", "x", "日本", " "])

    there, here = pick.run(backend=near).meta("x"), pick.run(backend=text).meta("x")
    assert here.scores == pytest.approx(there.scores, abs=1e-9)
    assert here.text == there.text


def test_more_options_than_a_request_holds_are_scored_in_several(near: Connection, text: lw.OpenAI) -> None:
    @lw.function
    def pick(s: lw.State) -> None:
        s += "Number: " + lw.select("x", [str(number) for number in range(130)])

    before = text.attempts
    there, here = pick.run(backend=near).meta("x"), pick.run(backend=text).meta("x")
    assert text.attempts == before + 3
    assert here.scores == pytest.approx(there.scores, abs=1e-9)
    assert here.text == there.text


def test_a_chat_selects_by_constrained_choice(chat: lw.OpenAI) -> None:
    @lw.function
    def pick(s: lw.State) -> None:
        s += lw.user("Red or blue?") + lw.assistant(lw.select("x", ["red", "blue"]))

    state = pick.run(backend=chat)
    assert state["x"] in ("red", "blue")
    assert state.meta("x").finish == "select"


@pytest.mark.parametrize("mode", ["chat", "text"])
def test_log_probabilities_are_the_runtimes(near: Connection, request: pytest.FixtureRequest, mode: str) -> None:
    @lw.function
    def ask(s: lw.State) -> None:
        wanted = lw.gen("x", max_tokens=6, temperature=0, return_logprob=True, top_logprobs=2)
        s += lw.user("Hi") + lw.assistant(wanted) if mode == "chat" else "Hi" + wanted

    there, here = ask.run(backend=near).meta("x"), ask.run(backend=request.getfixturevalue(mode)).meta("x")
    assert [token.text for token in here.logprobs] == [token.text for token in there.logprobs]
    for one, other in zip(here.logprobs, there.logprobs, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-9)
        assert [(t, p) for _, t, p in one.top] == [(t, pytest.approx(p, abs=1e-9)) for _, t, p in other.top]


def test_text_streams(chat: lw.OpenAI) -> None:
    state = talk.run(backend=chat, seed=1, stream=True)
    assert "".join(state.text_iter("ending")) == state["ending"]


def test_a_batch_keeps_its_order(text: lw.OpenAI) -> None:
    @lw.function
    def ask(s: lw.State, word: str) -> None:
        s += word + lw.gen("x", regex=f"-{word}-")

    words = ["a", "bb", "ccc", "dd", "e"]
    states = ask.run_batch([{"word": word} for word in words], backend=text)
    assert [state["x"] for state in states] == [f"-{word}-" for word in words]


def test_what_the_server_refuses_is_an_error_of_ours(text: lw.OpenAI) -> None:
    @lw.function
    def wrong(s: lw.State) -> None:
        s += "x" + lw.gen("x", regex=r"(a)\1")

    with pytest.raises(lw.RegexError):
        wrong.run(backend=text)
    long = lw.function(lambda s: s.__iadd__("x" * 5000 + lw.gen("x")))
    with pytest.raises(lw.PromptTooLong):
        long.run(backend=text)


def test_a_wrong_key_is_named_and_not_shown(served: ServedFront) -> None:
    with lw.OpenAI("tiny", base_url=f"{served.url}/v1", api_key="sentinel-key-of-eve") as backend:
        with pytest.raises(lw.InvalidArgument) as caught:
            talk.run(backend=backend)
        assert caught.value.field == "api_key"
        assert "eve" not in str(caught.value)


def test_a_model_that_is_not_served_is_named(served: ServedFront) -> None:
    with (
        lw.OpenAI("other", base_url=f"{served.url}/v1", api_key=KEY) as backend,
        pytest.raises(lw.InvalidArgument, match="does not exist") as caught,
    ):
        talk.run(backend=backend)
    assert caught.value.field == "model"


def test_cancelling_a_run_frees_its_sequence(served: ServedFront, text: lw.OpenAI) -> None:
    @lw.function
    def endless(s: lw.State) -> None:
        s += "x" + lw.gen("x", regex="[a-z]{3900}", max_tokens=4000)

    state: Any = endless.run(backend=text, wait=False)
    link = served.front.link
    while not link.open_requests:
        pass
    state.cancel()
    with pytest.raises(lw.Cancelled):
        state["x"]
    while link.open_requests:
        pass
