"""Ten official clients at once with parameters at random, some of them wrong: no 5xx, every refusal explains itself."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest

from benchmarks.faults import held
from latticework.runtime.config import EngineConfig, ServerConfig
from latticework.runtime.programs.front import Front
from latticework.runtime.server import http

CLIENTS = 10
WRONG = 0.3  # share of requests with one field that no server should take
PROMPTS = ("Hi", "Once upon a time there was a river.", "1, 2, 3, 4,", "é ü 漢字 🙂", "{", " ")
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}

Pick = Callable[[random.Random], Any]


def one_of(*options: Any) -> Pick:
    return lambda random_: random_.choice(options)


RIGHT: dict[str, Pick] = {
    "temperature": one_of(0, 0.5, 1, 2.0, 100.0),
    "top_p": one_of(1, 0.9, 0.01),
    "top_k": one_of(-1, 1, 5, 100_000),
    "min_p": one_of(0, 0.1, 1.0),
    "stop": one_of("a", ["b", "cd"], [], "\n", "漢"),
    "stop_token_ids": one_of([], [5], [99, 100]),
    "stop_regex": one_of("[0-9]{3}", ["ab+", "x|yz"]),
    "include_stop": one_of(True, False),
    "frequency_penalty": one_of(0, 2, -2.0),
    "presence_penalty": one_of(0, 1.5, -2),
    "repetition_penalty": one_of(1, 1.3, 0.5),
    "logit_bias": one_of({}, {"97": 5}, {"98": -100, "99": 100}),
    "min_tokens": one_of(0, 1),
    "ignore_eos": one_of(True, False),
    "seed": one_of(0, 7, -1, (1 << 63) - 1),
    "n": one_of(1, 2, 3),
    "timeout": one_of(60, 300.0),
    "priority": one_of(0, 1, -5),
    "user": one_of("someone", "another"),
    "metadata": one_of({"a": "b"}),
}
CONSTRAINTS: tuple[dict[str, Any], ...] = (
    {"regex": "[a-z]{2,20}"},
    {"regex": "(yes|no)( [0-9]+)?"},
    {"choices": ["red", "green", "blue", "ultramarine"]},
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "pet", "schema": SCHEMA}}},
)
WRONG_VALUES: dict[str, tuple[Any, ...]] = {
    "temperature": (-0.1, "hot", 101, [1]),
    "top_p": (0, 1.1, -1),
    "top_k": (0, -2, 1.5),
    "min_p": (-0.1, 2),
    "max_tokens": (0, -1, 1 << 40, "ten", 1.5),
    "stop": ([""], ["x"] * 65, ["y" * 2000], 7, [7]),
    "stop_token_ids": ([-1], [1 << 40], "a"),
    "stop_regex": ("a(", "a*", "^a", ["x"] * 65, 3),
    "include_stop": ("yes", 2),
    "frequency_penalty": (3, -2.1, "no"),
    "presence_penalty": (3, -2.1),
    "repetition_penalty": (0, -1, 1e6),
    "logit_bias": ({"x": 1}, {"1": 101}, {"999999": 1}, [1], {str(n): 1 for n in range(1100)}),
    "min_tokens": (-1, "one"),
    "ignore_eos": ("yes", 3),
    "seed": (1 << 64, -(1 << 64), "s", 1.5),
    "regex": ("[a-", "(?=a)b", "a{5,2}", 5),
    "choices": ([], "red", [1], ["x"] * 100_000),
    "response_format": (
        {"type": "xml"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "n", "schema": {"not": {}}}},
        {"type": "json_schema", "json_schema": {"name": "n", "schema": False}},
    ),
    "n": (0, 65, "two"),
    "best_of": (0, 65, 1.5),
    "prompt_logprobs": (-1, 21, True),
    "timeout": (0, -1, 1e9, "soon"),
    "priority": ("high", 1.5),
    "tools": ([{"type": "function", "function": {"name": "f"}}],),
    "temprature": (1,),
    "stream_options": ({"include_usage": "yes"}, {"what": 1}),
    "model": ("gpt-4", 3),
}
WRONG_CHAT: dict[str, tuple[Any, ...]] = {
    "messages": ([], [{"role": "robot", "content": "x"}], [{"role": "user"}], "Hi", [{"role": "user", "content": 3}]),
    "logprobs": (3, "yes"),
    "top_logprobs": (21, -1, 2),  # the last without logprobs
    "max_completion_tokens": (0, "ten"),
    "truncate": ("start", True),
}
WRONG_COMPLETION: dict[str, tuple[Any, ...]] = {
    "prompt": ("", [], [-1], [1 << 40], {"a": 1}, [1.5], "x " * 50_000),
    "logprobs": (21, -1, True),
    "suffix": ("after",),
    "echo": ("yes", 2),
}


@dataclass(frozen=True)
class Asked:
    """A body, and its field that is wrong, if one is."""

    chat: bool
    body: dict[str, Any]
    wrong: str | None


@dataclass
class Seen:
    """What the clients saw. problems: what they should not have seen."""

    outcomes: Counter[str] = field(default_factory=Counter)
    fields: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def draw(random_: random.Random, most_tokens: int) -> Asked:
    """Each parameter is there or not, as chance has it."""
    is_chat = random_.random() < 0.5
    body: dict[str, Any] = {name: pick(random_) for name, pick in RIGHT.items() if random_.random() < 0.25}
    body["max_tokens"] = random_.randrange(1, most_tokens)
    if random_.random() < 0.4:
        body |= random_.choice(CONSTRAINTS)
    if random_.random() < 0.5:
        body["stream"] = True
        if random_.random() < 0.5:
            body["stream_options"] = {"include_usage": True}
    if is_chat:
        body["messages"] = [{"role": "user", "content": random_.choice(PROMPTS)}]
        if random_.random() < 0.3:
            body |= {"logprobs": True, "top_logprobs": random_.randrange(21)}
        if random_.random() < 0.2:
            body |= {"truncate": "middle", "messages": [{"role": "user", "content": "long " * 2000}]}
    else:
        body["prompt"] = random_.choice((*PROMPTS, [97, 98, 99], ["Hi", "there"], [[97], [98, 99], [100]]))
        if random_.random() < 0.3:
            body["logprobs"] = random_.randrange(21)
        if random_.random() < 0.3:
            body["echo"] = not ("stream" in body and "logprobs" in body)
    if "stream" not in body and random_.random() < 0.3:
        body |= {"best_of": body.get("n", 1) + random_.randrange(3), "prompt_logprobs": random_.randrange(21)}
    return Asked(is_chat, body, None) if random_.random() >= WRONG else spoil(is_chat, body, random_)


def spoil(is_chat: bool, body: dict[str, Any], random_: random.Random) -> Asked:
    wrong = WRONG_VALUES | (WRONG_CHAT if is_chat else WRONG_COMPLETION)
    name = random_.choice(sorted(wrong))
    for other in ("regex", "choices", "response_format"):
        body.pop(other, None)  # two of them would be refused for that
    if name == "top_logprobs":
        body.pop("logprobs", None)
    if name == "max_completion_tokens":
        del body["max_tokens"]
    if name == "logprobs":
        body.pop("echo", None)  # the two cannot be streamed
    if name == "n":
        body.pop("best_of", None)  # it would be too small for this n
    return Asked(is_chat, body | {name: random_.choice(wrong[name])}, name)


async def ask(client: openai.AsyncOpenAI, model: str, asked: Asked, seen: Seen) -> None:
    """One request and its one outcome."""
    body = {"model": model} | asked.body
    is_stream = body.pop("stream", False)
    create: Any = client.chat.completions.create if asked.chat else client.completions.create
    named = {name: body.pop(name) for name in ("model", "messages" if asked.chat else "prompt")}
    try:
        answer = await create(**named, stream=is_stream, extra_body=body)
        problem = await read_stream(answer, asked.body) if is_stream else read_whole(answer, asked.body)
        outcome = "streamed" if is_stream else "answered"
        if problem is None and asked.wrong is not None:
            problem = "was answered"
    except openai.APIStatusError as error:
        outcome, problem = str(error.status_code), judge(error, asked)
    except openai.APIError as error:
        outcome, problem = "broken", repr(error)
    seen.outcomes[outcome] += 1
    seen.fields.add(asked.wrong or "")
    if problem is not None:
        shown = {name: str(value)[:80] for name, value in asked.body.items()}
        seen.problems.append(f"{problem}; wrong: {asked.wrong}, {'chat' if asked.chat else 'completion'} {shown}")


def judge(error: openai.APIStatusError, asked: Asked) -> str | None:
    """What is wrong with a refusal: it has to be ours to make, and to say which field it is about."""
    said = f"{error.status_code} {error.param}: {error.message}"
    if asked.wrong is None:
        return f"a right request was refused: {said}"
    if error.status_code != (404 if error.code == "model_not_found" else 400):
        return said
    if (error.param or "").split(".")[0] != asked.wrong:
        return f"another field was named: {said}"
    if len(error.message) < 40:
        return f"explains nothing: {said}"
    return None


def indices(body: dict[str, Any]) -> list[int]:
    """Of the choices that a body asks for: n of every prompt."""
    prompt = body.get("prompt")
    is_many = isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)
    return list(range((len(prompt) if is_many and prompt else 1) * body.get("n", 1)))


def read_whole(answer: Any, body: dict[str, Any]) -> str | None:
    ended = all(choice.finish_reason in ("stop", "length") for choice in answer.choices)
    found = [choice.index for choice in answer.choices]
    return None if ended and found == indices(body) and answer.usage.prompt_tokens > 0 else f"incomplete: {answer}"


async def read_stream(stream: Any, body: dict[str, Any]) -> str | None:
    """Every choice ends once, and nothing but the usage follows."""
    ends: dict[int, str] = {}
    usage = None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            if choice.index in ends:
                return f"choice {choice.index} goes on after its end"
            if choice.finish_reason is not None:
                ends[choice.index] = choice.finish_reason
    if sorted(ends) != indices(body) or not set(ends.values()) <= {"stop", "length"}:
        return f"the stream ended with {ends}"
    wants_usage = "stream_options" in body
    return None if (usage is not None) == wants_usage else f"usage is {usage}"


async def crowd(engine: EngineConfig, requests: int, most_tokens: int) -> Seen:
    """`requests` of each client against a server of their own."""
    seen = Seen()
    front = await Front.start(engine, ServerConfig())
    bound = http.bind("127.0.0.1", 0)
    stopped, ready, places = asyncio.Event(), asyncio.Event(), http.OpenPlaces(64)
    serving = asyncio.create_task(http.serve_http(front, bound, places, stopped, ready.set))

    async def client(number: int) -> None:
        random_ = random.Random(number)
        url = f"{http.url_of(bound)}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=120) as official:
            for _ in range(requests):
                await ask(official, engine.model, draw(random_, most_tokens), seen)

    try:
        await ready.wait()
        await asyncio.gather(*(client(number) for number in range(CLIENTS)))
        assert await held(front, places) == dict.fromkeys(await held(front, places), 0)
        assert front.link.restarts == 0
        right = Asked(True, {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}, None)
        url = f"{http.url_of(bound)}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as official:
            await ask(official, engine.model, right, seen)
    finally:
        stopped.set()
        await serving
        await front.close()
        bound.close()
    return seen


def check(seen: Seen, requests: int) -> None:
    assert seen.problems == []
    assert seen.outcomes.total() == CLIENTS * requests + 1
    assert set(seen.outcomes) <= {"answered", "streamed", "400", "404"}
    assert seen.outcomes["streamed"] > requests
    assert seen.outcomes["400"] > requests


def test_ten_clients_with_random_parameters_see_answers_or_reasons() -> None:
    engine = EngineConfig(model="tiny", dtype="float32", kv_tokens=8192, threads=1)
    seen = asyncio.run(crowd(engine, 40, 40))
    check(seen, 40)
    assert len(seen.fields) > 20


@pytest.mark.slow
def test_ten_clients_with_random_parameters_on_the_real_model() -> None:
    seen = asyncio.run(crowd(EngineConfig(model="smollm2", kv_tokens=16384), 8, 16))
    check(seen, 8)
