"""Settings that cap what one request may ask for: each refusal names the field and the numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from latticework.runtime.config import EngineConfig, ServerConfig
from latticework.runtime.programs.front import Front

CHAT = "/v1/chat/completions"
ENGINE = EngineConfig(model="tiny", dtype="float64", kv_tokens=8192, threads=1)


@pytest.fixture(scope="module")
def served(serve_front: Callable[[Callable[[], Any]], Any]) -> Any:
    return serve_front(
        lambda: Front.start(
            ENGINE, ServerConfig(max_prompt_tokens=100, max_output_tokens=5, max_prompts=2, max_logprobs=30)
        )
    )


def ask(served: Any, route: str = CHAT, **fields: Any) -> httpx.Response:
    text = {"messages": [{"role": "user", "content": "Hi"}]} if route == CHAT else {}
    return httpx.post(served.url + route, json={"model": "tiny"} | text | fields, timeout=60)


@pytest.mark.parametrize(
    ("route", "fields", "param", "numbers"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "x" * 200}]}, "messages", ("100",)),
        ("/v1/completions", {"prompt": "x" * 101}, "prompt", ("101", "100")),
        ("/v1/completions", {"prompt": [1] * 102}, "prompt", ("102", "100")),
        ("/v1/completions", {"prompt": ["x", "y", "z"]}, "prompt", ("3", "2")),
        ("/v1/completions", {"prompt": [[1], [2] * 103]}, "prompt", ("103", "100")),
        (CHAT, {"n": 65}, "n", ("65", "64")),
        ("/v1/completions", {"prompt": "x", "best_of": 65}, "best_of", ("65", "64")),
        (CHAT, {"max_tokens": 6}, "max_tokens", ("6", "5")),
        (CHAT, {"max_completion_tokens": 7}, "max_completion_tokens", ("7", "5")),
        ("/v1/completions", {"prompt": "x", "max_tokens": 6}, "max_tokens", ("6", "5")),
        ("/v1/completions", {"prompt": ["x" * 8, "y" * 8], "prompt_logprobs": 1}, "prompt_logprobs", ("32", "30")),
        ("/v1/completions", {"prompt": "x" * 16, "echo": True, "logprobs": 1}, "logprobs", ("32", "30")),
        ("/v1/completions", {"prompt": "x", "max_tokens": 4, "n": 8, "logprobs": 0}, "logprobs", ("32", "30")),
    ],
)
def test_more_than_a_setting_allows_is_400(
    served: Any, route: str, fields: dict[str, Any], param: str, numbers: tuple[str, ...]
) -> None:
    response = ask(served, route, **fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param), response.text
    assert all(number in error["message"] for number in numbers)


def test_what_is_allowed_is_answered(served: Any) -> None:
    assert ask(served, "/v1/completions", prompt="x" * 100, max_tokens=5).status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ["x" * 8, "y" * 7], "prompt_logprobs": 1, "max_tokens": 5},
        {"prompt": "x", "max_tokens": 5, "n": 6, "logprobs": 0},
        {"prompt": "x", "max_tokens": 5, "logprobs": 20},  # one output is never too much
    ],
)
def test_log_probabilities_within_the_setting_are_told(served: Any, fields: dict[str, Any]) -> None:
    assert ask(served, "/v1/completions", **fields).status_code == 200


def test_a_chat_without_max_tokens_gets_what_the_setting_allows(served: Any) -> None:
    answer = ask(served, ignore_eos=True).json()
    assert answer["usage"]["completion_tokens"] == 5
    assert answer["choices"][0]["finish_reason"] == "length"
