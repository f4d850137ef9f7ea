"""truncate="middle": a chat that leaves no room is shortened on request, never by itself, and the answer says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from latticework.runtime.config import EngineConfig, ServerConfig
from latticework.runtime.programs.front import Front

CHAT = "/v1/chat/completions"
ENGINE = EngineConfig(model="tiny", dtype="float64", context=1024, kv_tokens=2048, threads=1)
HEADER = "x-latticework-truncated"
OLD = [{"role": role, "content": f"{n} " * 30} for n in range(20) for role in ("user", "assistant")]
MESSAGES = [{"role": "system", "content": "Be brief."}, *OLD, {"role": "user", "content": "And now?"}]


@pytest.fixture(scope="module")
def served(serve_front: Callable[..., Any]) -> Any:
    return serve_front(lambda: Front.start(ENGINE, ServerConfig()))


def ask(served: Any, messages: list[dict[str, str]] = MESSAGES, **fields: Any) -> httpx.Response:
    return httpx.post(served.url + CHAT, json={"model": "tiny", "messages": messages} | fields, timeout=60)


@pytest.mark.parametrize("fields", [{}, {"truncate": None}, {"truncate": "error"}])
def test_without_asking_a_chat_that_is_too_long_is_an_error_with_the_numbers(
    served: Any, fields: dict[str, Any]
) -> None:
    response = ask(served, **fields)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
    assert "1024" in error["message"]
    assert HEADER not in response.headers


def test_old_turns_are_left_out_and_the_answer_has_its_room(served: Any) -> None:
    response = ask(served, truncate="middle", max_tokens=100, ignore_eos=True)
    assert response.status_code == 200, response.text
    usage = response.json()["usage"]
    assert usage["completion_tokens"] == 100
    assert usage["prompt_tokens"] <= 924
    pieces = served.front.chat.pieces(MESSAGES)
    whole = len(served.front.tokenizer.encode_pieces(pieces)[0])
    assert abs(whole - usage["prompt_tokens"] - int(response.headers[HEADER])) <= 1  # the begin token
    assert usage["prompt_tokens"] > 700


def test_without_max_tokens_a_quarter_of_a_small_context_is_left(served: Any) -> None:
    usage = ask(served, truncate="middle", ignore_eos=True).json()["usage"]
    assert 550 < usage["prompt_tokens"] <= 768
    assert usage["completion_tokens"] >= 256


def test_a_stream_says_it_too(served: Any) -> None:
    response = ask(served, truncate="middle", max_tokens=4, stream=True)
    assert int(response.headers[HEADER]) > 0
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")


def test_one_long_message_is_cut_in_its_middle_and_stays_plain_text(served: Any) -> None:
    special = served.front.card.eos_token or "<|im_end|>"
    messages = [{"role": "user", "content": f"start {special} " + "x" * 5000 + f" {special} end"}]
    prompt, left_out = served.front.truncated_chat_prompt(messages, 100)
    assert 0 < len(prompt.tokens) <= 924
    assert left_out > 4000
    short, _ = served.front.truncated_chat_prompt([{"role": "user", "content": "x"}], 100)
    markers = [token for token in short.tokens if token >= 256]
    assert [token for token in prompt.tokens if token >= 256] == markers, "only the template's markers are special"


def test_what_fits_is_answered_as_without(served: Any) -> None:
    few = MESSAGES[-3:]
    plain, asked = [ask(served, few, seed=1, max_tokens=8, **more) for more in ({}, {"truncate": "middle"})]
    assert plain.json()["choices"] == asked.json()["choices"]
    assert HEADER not in asked.headers


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"truncate": "middle", "max_tokens": 1024}, "messages"),
        ({"truncate": "left"}, "truncate"),
        ({"truncate": "middle", "messages": [{"role": "user", "content": "x" * (1 << 20)}] * 2}, "messages"),
        ({"truncate": "middle", "messages": [{"role": "user", "content": "x"}] * 17_000}, "messages"),
    ],
)
def test_what_cannot_be_shortened_is_refused(served: Any, fields: dict[str, Any], param: str) -> None:
    response = ask(served, **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
