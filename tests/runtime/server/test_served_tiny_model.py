"""The official client against the whole server: real HTTP, real front, real engine, tiny model."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jsonschema
import openai
import pytest

from latticework.runtime.config import EngineConfig, ServerConfig
from latticework.runtime.programs.front import Front

ENGINE = EngineConfig(model="tiny", dtype="float64", kv_tokens=8192, threads=1)
HI: list[Any] = [{"role": "user", "content": "Hi"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "kind": {"enum": ["cat", "dog"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 30},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["name", "kind", "age", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def served(serve_front: Callable[[Callable[[], Any]], Any]) -> Any:
    return serve_front(lambda: Front.start(ENGINE, ServerConfig()))


@pytest.fixture
def client(served: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


def chat(client: openai.OpenAI, **fields: Any) -> Any:
    asked: dict[str, Any] = {"model": "tiny", "messages": HI, "max_tokens": 12} | fields
    return client.chat.completions.create(**asked)


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_the_same_seed_gives_the_same_text_streamed_or_not(client: openai.OpenAI) -> None:
    whole = chat(client, seed=5)
    again = chat(client, seed=5)
    other = chat(client, seed=6)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chat(client, seed=5, stream=True))
    assert whole.choices[0].message.content == again.choices[0].message.content == streamed
    assert whole.choices[0].message.content != other.choices[0].message.content
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert again.usage.prompt_tokens_details.cached_tokens > 0


def test_greedy_text_does_not_depend_on_the_seed(client: openai.OpenAI) -> None:
    texts = {chat(client, temperature=0, seed=seed).choices[0].message.content for seed in (1, 2)}
    assert len(texts) == 1


def test_usage_and_logprobs_come_with_a_stream(client: openai.OpenAI) -> None:
    fields = {"logprobs": True, "top_logprobs": 2, "stream": True, "stream_options": {"include_usage": True}}
    chunks = list(chat(client, max_tokens=6, temperature=0, **fields))
    tokens = [t for c in chunks if c.choices and c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert chunks[-1].usage.completion_tokens == len(tokens)
    assert all(token.top_logprobs[0].logprob >= token.logprob for token in tokens)
    assert all(token.logprob == token.top_logprobs[0].logprob for token in tokens)  # greedy


def test_a_completion_takes_text_or_its_tokens(client: openai.OpenAI) -> None:
    text = client.completions.create(model="tiny", prompt="abc", temperature=0, max_tokens=8)
    tokens = client.completions.create(model="tiny", prompt=[97, 98, 99], temperature=0, max_tokens=8)
    assert text.choices[0].text == tokens.choices[0].text
    assert text.usage is not None
    assert text.usage.prompt_tokens == 3


def test_constrained_answers_keep_their_constraint(client: openai.OpenAI) -> None:
    assert chat(client, extra_body={"choices": ["red", "blue"]}).choices[0].message.content in ("red", "blue")
    digits = chat(client, extra_body={"regex": "[0-9]{4}"}).choices[0].message.content
    assert len(digits) == 4
    assert digits.isdigit()


def test_grammars_and_structural_tags_of_other_clients_are_kept(client: openai.OpenAI) -> None:
    rule = 'root ::= "[" [0-9]{2} ("," [0-9]{2})* "]"'
    for fields in ({"ebnf": rule}, {"guided_grammar": rule}, {"structured_outputs": {"grammar": rule}}):
        assert re.fullmatch(r"\[[0-9]{2}(,[0-9]{2})*\]", _text(client, fields))
    formats = {
        "type": "triggered_tags",
        "triggers": ["<"],
        "tags": [{"begin": "<f>", "content": {"type": "regex", "pattern": "[0-9]{3}"}, "end": "</f>"}],
        "at_least_one": True,
        "stop_after_first": True,
    }
    text = _text(client, {"response_format": {"type": "structural_tag", "format": formats}})
    assert re.fullmatch(r"[^<]*<f>[0-9]{3}</f>", text)


def test_a_grammar_that_is_none_is_400_with_its_place(client: openai.OpenAI) -> None:
    for fields, field, position in (
        ({"ebnf": "root ::= [a"}, "ebnf", 9),
        ({"structured_outputs": {"regex": "a("}}, "structured_outputs.regex", None),
        ({"structured_outputs": {"json": {"type": "strin"}}}, "structured_outputs.json", None),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            chat(client, extra_body=fields)
        body: Any = caught.value.body
        assert body["param"] == field
        assert position is None or body["position"] == position
        assert {"position", "pointer"} & set(body)


def _text(client: openai.OpenAI, fields: dict[str, Any]) -> str:
    content: str = chat(client, extra_body=fields, max_tokens=40, seed=1).choices[0].message.content
    return content


@pytest.mark.parametrize("max_tokens", [60, 120])
def test_json_answers_are_valid(client: openai.OpenAI, max_tokens: int) -> None:
    formats: dict[str, Any] = {"type": "json_schema", "json_schema": {"name": "pet", "schema": SCHEMA}}
    for seed in range(3):
        answer = chat(client, response_format=formats, max_tokens=max_tokens, seed=seed).choices[0]
        jsonschema.validate(json.loads(answer.message.content), SCHEMA)
    whole = chat(client, response_format={"type": "json_object"}, max_tokens=max_tokens, seed=1).choices[0]
    assert isinstance(json.loads(whole.message.content), dict)


def test_a_budget_below_the_shortest_answer_cuts_it(client: openai.OpenAI) -> None:
    formats: dict[str, Any] = {"type": "json_schema", "json_schema": {"name": "pet", "schema": SCHEMA}}
    answer = chat(client, response_format=formats, max_tokens=5).choices[0]
    assert answer.finish_reason == "length"


def test_a_stop_string_ends_the_text_before_it(client: openai.OpenAI) -> None:
    text = chat(client, temperature=0, max_tokens=40).choices[0].message.content
    stop = text[5:7]
    cut = chat(client, temperature=0, max_tokens=40, stop=stop).choices[0]
    assert cut.message.content == text[: text.index(stop)]
    assert cut.finish_reason == "stop"


def test_errors_reach_the_official_client_as_its_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        chat(client, model="gpt-4")
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, extra_body={"regex": "[a-"})
    assert caught.value.param == "regex"
    schema = {"name": "n", "schema": {"items": {"type": "text"}}}
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, response_format={"type": "json_schema", "json_schema": schema})
    assert caught.value.param == "response_format"
    assert "/items/type" in caught.value.message
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, messages=[{"role": "user", "content": "x" * 5000}])
    assert caught.value.param == "messages"
    assert caught.value.code == "context_length_exceeded"
    assert chat(client).choices[0].message.content is not None  # and the server goes on


def test_concurrent_clients_get_the_answers_they_get_alone(client: openai.OpenAI) -> None:
    def ask(seed: int) -> str:
        return str(
            chat(client, seed=seed, messages=[{"role": "user", "content": f"{seed}"}]).choices[0].message.content
        )

    alone = [ask(seed) for seed in range(8)]
    together = [""] * 8

    def store(seed: int) -> None:
        together[seed] = ask(seed)

    threads = [threading.Thread(target=store, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_a_client_that_leaves_a_stream_frees_its_sequence(served: Any, client: openai.OpenAI) -> None:
    stream = chat(client, stream=True, max_tokens=4000, extra_body={"regex": "[a-z]{3900}"})
    next(iter(stream))
    stream.close()
    link = served.front.link
    assert wait_until(lambda: link.open_requests == 0)
    assert wait_until(lambda: link.stats.running == 0)


def test_an_engine_that_dies_fails_its_streams_and_comes_back(served: Any, client: openai.OpenAI) -> None:
    stream = chat(client, stream=True, max_tokens=4000, extra_body={"regex": "[a-z]{3900}"})
    events = iter(stream)
    next(events)
    os.kill(served.front.link.pid, signal.SIGKILL)
    with pytest.raises(openai.APIError, match="engine"):
        list(events)
    assert wait_until(lambda: httpx.get(f"{served.url}/health").status_code == 200, 60)
    assert chat(client).choices[0].message.content is not None


def test_all_of_sampling_goes_through(client: openai.OpenAI) -> None:
    bias = {str(ord(letter)): 40 for letter in "ab"}
    answer = chat(client, max_tokens=40, logit_bias=bias, extra_body={"stop_regex": "[ab]{6}", "include_stop": True})
    text = answer.choices[0].message.content
    assert len(text) == 6
    assert set(text) <= {"a", "b"}
    with pytest.raises(openai.BadRequestError, match="empty text"):
        chat(client, extra_body={"stop_regex": "a*"})
    with pytest.raises(openai.BadRequestError, match="unterminated group") as caught:
        chat(client, extra_body={"stop_regex": "a("})
    assert caught.value.param == "stop_regex"
    with pytest.raises(openai.BadRequestError, match="one of the model's"):
        chat(client, logit_bias={"99999": 1})
