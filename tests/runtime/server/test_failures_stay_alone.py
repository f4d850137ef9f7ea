"""An exception at any stage of the front ends the request it happened in, with a message, and nothing else; a client
that does not read holds nobody. The stages of the engine are in tests/runtime/engine/test_requests_that_fail.py."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from latticework.runtime.config import EngineConfig, ServerConfig
from latticework.runtime.constrain.pool import CompilePool
from latticework.runtime.programs.front import Front
from latticework.runtime.programs.speech import Speech
from latticework.runtime.server.answers import ChatAnswer
from latticework.runtime.text.tokenizer import Tokenizer

CHAT = "/v1/chat/completions"
ENGINE = EngineConfig(model="tiny", dtype="float64", kv_tokens=8192, threads=1)


@pytest.fixture(scope="module")
def served(serve_front: Callable[[Callable[[], Any]], Any]) -> Any:
    return serve_front(lambda: Front.start(ENGINE, ServerConfig()))


def ask(url: str, text: str = "Hi", **fields: Any) -> httpx.Response:
    body = {"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 60, "seed": 1} | fields
    return httpx.post(url + CHAT, json=body, timeout=60)


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


STAGES: dict[str, tuple[type, str]] = {
    "tokenise": (Tokenizer, "encode_pieces"),
    "compile": (CompilePool, "compile"),
    "detokenise": (Speech, "hear"),
    "answer": (ChatAnswer, "whole"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_an_exception_at_a_stage_ends_its_own_request(served: Any, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    owner, name = STAGES[stage]
    whole = getattr(owner, name)
    failures = iter([ZeroDivisionError("secret")])
    together: list[httpx.Response] = []
    first_open: list[int] = []
    beside = threading.Thread(
        target=lambda: together.append(ask(served.url, "beside", max_tokens=800, ignore_eos=True))
    )
    beside.start()
    assert wait_until(lambda: served.front.link.open_requests == 1)  # encoded, sent: its own stages lie behind it

    def explode(*args: Any, **kwargs: Any) -> Any:
        is_beside = (stage == "detokenise" and args[1].request in first_open) or (
            stage == "answer" and len(args[1][0].text) != 20
        )
        error = None if is_beside else next(failures, None)
        if error is not None:
            raise error
        return whole(*args, **kwargs)

    first_open += served.front.link._open
    monkeypatch.setattr(owner, name, explode)
    response = ask(served.url, regex="[a-z]{20}")
    assert response.status_code == 500
    assert response.json()["error"]["message"] == "internal error"
    beside.join()
    assert together[0].status_code == 200
    assert ask(served.url, regex="[a-z]{20}").status_code == 200
    assert wait_until(lambda: served.front.link.open_requests == 0)


def test_an_exception_in_a_stream_is_its_last_event(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chunk = ChatAnswer.chunk
    calls = iter([False, False, True])

    def explode(*args: Any) -> Any:
        if next(calls, False):
            raise ZeroDivisionError("secret")
        return chunk(*args)

    monkeypatch.setattr(ChatAnswer, "chunk", explode)
    *_, last = [line for line in ask(served.url, stream=True).text.split("\n\n") if line]
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "internal error"
    assert ask(served.url).status_code == 200
    assert wait_until(lambda: served.front.link.open_requests == 0)


def test_a_client_that_does_not_read_holds_nobody(served: Any) -> None:
    address = urlsplit(served.url)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": True, "logprobs": True}
    data = json.dumps(body | {"top_logprobs": 20, "max_tokens": 3000, "ignore_eos": True}).encode()
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.connect((address.hostname, address.port))
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        lazy.sendall(head.encode() + data)
        assert wait_until(lambda: served.front.link.open_requests == 1)
        for _ in range(10):
            assert ask(served.url).status_code == 200
    assert wait_until(lambda: served.front.link.open_requests == 0)
    assert wait_until(lambda: served.front.link.stats.running == 0)


LIMITS: list[tuple[dict[str, Any], str]] = [
    ({"messages": [{"role": "user", "content": "x" * 5000}]}, "messages"),
    ({"messages": [{"role": "user", "content": "x" * 2_000_000}]}, "messages"),
    ({"max_tokens": 1 << 30}, "max_tokens"),
    ({"stop": ["x"] * 65}, "stop"),
    ({"stop": "x" * 1025}, "stop"),
    ({"stop_token_ids": [1] * 65}, "stop_token_ids"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"logit_bias": {str(n): 1 for n in range(1025)}}, "logit_bias"),
    ({"n": 1000}, "n"),
]


@pytest.mark.parametrize(("fields", "param"), LIMITS)
def test_what_is_over_a_limit_is_400_and_names_the_field(served: Any, fields: dict[str, Any], param: str) -> None:
    response = ask(served.url, **fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert any(letter.isdigit() for letter in response.json()["error"]["message"]), "no number is named"


HALF = "\ud800"  # half a surrogate pair: JSON can write it, no text holds it


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "user", "content": HALF}]}, "messages"),
        ({"messages": [{"role": "user", "content": HALF}], "truncate": "middle"}, "messages"),
        ({"stop": [HALF]}, "stop"),
        ({"stop_regex": HALF}, "stop_regex"),
        ({"regex": HALF}, "regex"),
        ({"choices": ["a", HALF]}, "choices"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"const": HALF}}}}, "response_format"),
        ({"priority": 2**70}, "priority"),
    ],
)
def test_what_no_message_of_the_link_can_hold_is_400(served: Any, fields: dict[str, Any], param: str) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2} | fields
    response = httpx.post(served.url + CHAT, content=json.dumps(body), headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text
    assert served.front.link.open_requests == 0
