"""n, best_of, lists of prompts and echo over HTTP: the objects without an engine, then the official client with one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest

from latticework.lang.ir import sample_seed
from latticework.runtime.config import EngineConfig, ServerConfig
from latticework.runtime.programs.front import Front

ENGINE = EngineConfig(model="tiny", dtype="float64", kv_tokens=8192, threads=1)
COMPLETIONS = "/v1/completions"
HI: list[Any] = [{"role": "user", "content": "Hi"}]


def complete(client: httpx.Client, **fields: Any) -> Any:
    response = client.post(COMPLETIONS, json={"model": "tiny", "prompt": "Once"} | fields)
    assert response.status_code == 200, response.text
    if not fields.get("stream"):
        return response.json()
    data = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert data.pop() == "[DONE]"
    return [json.loads(one) for one in data]


# ---------------------------------------------------------------- objects


def test_choices_of_several_prompts_are_numbered_prompt_by_prompt(client: httpx.Client, scripted: Any) -> None:
    answer = complete(client, prompt=["ab", "abcde"], n=2)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert {choice["text"] for choice in answer["choices"]} == {"Hello!"}
    assert answer["usage"]["prompt_tokens"] == 7
    assert answer["usage"]["completion_tokens"] == 24
    assert [len(segment.tokens) for segment, _ in scripted.asked] == [2, 5]


def test_streams_of_several_choices_are_interleaved_and_each_ends_by_itself(client: httpx.Client) -> None:
    fields = {"messages": HI, "n": 3, "stream": True, "stream_options": {"include_usage": True}}
    response = client.post("/v1/chat/completions", json={"model": "tiny"} | fields)
    chunks = [json.loads(line[6:]) for line in response.text.split("\n\n")[:-2]]
    usage = chunks.pop()
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 18)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["index"] for choice in choices] == [0, 1, 2] * 5
    for index in range(3):
        own = [choice for choice in choices if choice["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(choice["delta"].get("content", "") for choice in own) == "Hello!"
        assert [choice["finish_reason"] for choice in own] == [None] * 4 + ["stop"]


def test_an_echo_shows_the_prompt_first_streamed_or_not(client: httpx.Client) -> None:
    whole = complete(client, prompt=[[97, 98], [99, 100]], echo=True)
    assert [choice["text"] for choice in whole["choices"]] == ["abHello!", "cdHello!"]
    assert whole["choices"][0]["logprobs"] is None
    texts = {0: "", 1: ""}
    for chunk in complete(client, prompt=[[97, 98], [99, 100]], echo=True, stream=True):
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert list(texts.values()) == ["abHello!", "cdHello!"]


def test_an_echo_with_logprobs_has_those_of_the_prompt_but_for_its_first_token(
    client: httpx.Client, scripted: Any
) -> None:
    (choice,) = complete(client, prompt="abc", echo=True, logprobs=1)["choices"]
    found = choice["logprobs"]
    assert found["tokens"] == list("abcHello!")
    assert found["token_logprobs"] == [None, -1.0, -2.0] + [-0.5] * 6
    assert found["top_logprobs"][:2] == [None, {}]
    assert found["text_offset"] == list(range(9))
    assert scripted.asked[-1][1].sampling.prompt_logprobs == 1
    complete(client, prompt="abc", echo=True)
    assert scripted.asked[-1][1].sampling.prompt_logprobs is None


def test_prompt_logprobs_have_vllms_shape(client: httpx.Client) -> None:
    (choice,) = complete(client, prompt="abc", prompt_logprobs=0)["choices"]
    assert choice["prompt_logprobs"] == [
        None,
        {"98": {"logprob": -1.0, "rank": None, "decoded_token": "b"}},
        {"99": {"logprob": -2.0, "rank": None, "decoded_token": "c"}},
    ]


# ---------------------------------------------------------------- with an engine


@pytest.fixture(scope="module")
def served(serve_front: Callable[[Callable[[], Any]], Any]) -> Any:
    return serve_front(lambda: Front.start(ENGINE, ServerConfig()))


@pytest.fixture
def official(served: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


def texts(official: openai.OpenAI, **fields: Any) -> list[str]:
    asked: dict[str, Any] = {"model": "tiny", "prompt": "Once upon a time", "max_tokens": 10, "seed": 5} | fields
    return [choice.text for choice in official.completions.create(**asked).choices]


def test_every_choice_is_what_a_lone_request_with_its_seed_gives(official: openai.OpenAI) -> None:
    alone = [texts(official, seed=sample_seed(5, sample))[0] for sample in range(3)]
    assert texts(official, n=3) == alone
    assert texts(official, n=3, prompt=["Once upon a time", "Hi"])[:3] == alone
    streamed = ["", "", ""]
    chunks = official.completions.create(
        model="tiny", prompt="Once upon a time", max_tokens=10, seed=5, n=3, stream=True
    )
    for chunk in chunks:
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == alone
    assert texts(official, n=1, best_of=3)[0] in alone


def test_without_a_seed_every_prompt_and_request_has_its_own(official: openai.OpenAI) -> None:
    found = texts(official, prompt=["Hi"] * 3, seed=None) + texts(official, prompt="Hi", seed=None)
    assert len(set(found)) > 1


def test_usage_counts_the_prompt_once_and_every_token_drawn(official: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"max_tokens": 8, "extra_body": {"ignore_eos": True}, "model": "tiny"}
    answer = official.completions.create(prompt="A prompt nobody has sent", n=2, best_of=4, **fields)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (24, 32)
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    chat = official.chat.completions.create(messages=HI, n=3, **fields)
    assert [choice.index for choice in chat.choices] == [0, 1, 2]
    assert chat.usage.completion_tokens == 24


def test_an_echo_is_scored_like_the_output(official: openai.OpenAI) -> None:
    prompt = "Score me"
    fields: dict[str, Any] = {"model": "tiny", "max_tokens": 4, "temperature": 0, "logprobs": 2}
    plain = official.completions.create(prompt=prompt, **fields).choices[0]
    answer = official.completions.create(prompt=prompt + plain.text, echo=True, n=2, **fields)
    for choice in answer.choices:
        assert choice.text.startswith(prompt + plain.text)
        found = choice.logprobs
        assert found is not None
        assert len(found.tokens) == len(found.token_logprobs) == len(found.text_offset)
        assert found.token_logprobs[0] is None
        at = len(prompt)
        again = found.token_logprobs[at : at + 4]
        assert again == pytest.approx(plain.logprobs.token_logprobs, abs=1e-6)


def test_places_are_counted_by_output_and_given_back(served: Any, official: openai.OpenAI) -> None:
    texts(official, n=4, prompt=["a", "b"])
    assert served.places.taken == 0
    with pytest.raises(openai.BadRequestError) as caught:
        texts(official, n=5, prompt=["a", "b"])
    assert caught.value.param == "n"
