"""Deadlines, priorities and draining, over HTTP."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from latticework.runtime.config import EngineConfig, ServerConfig
from latticework.runtime.constrain.pool import CompilePool
from latticework.runtime.programs.front import Front
from latticework.runtime.text.tokenizer import Tokenizer

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
ENDLESS = BODY | {"max_tokens": 3900, "regex": "[a-z]{3800}"}
ENGINE = EngineConfig(model="tiny", dtype="float64", kv_tokens=8192, threads=1)


@pytest.fixture(scope="module")
def served(serve_front: Callable[[Callable[[], Any]], Any]) -> Any:
    return serve_front(lambda: Front.start(ENGINE, ServerConfig(hang_seconds=3.0)))


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_timeout_and_priority_reach_the_front(client: httpx.Client, scripted: Any) -> None:
    assert client.post(CHAT, json=BODY | {"timeout": 2.5, "priority": 3}).status_code == 200
    assert client.post(CHAT, json=BODY).status_code == 200
    assert scripted.terms == [(2.5, 3), (None, 0)]


@pytest.mark.parametrize("fields", [{"timeout": 0}, {"timeout": -1}, {"timeout": 1e9}, {"priority": "high"}])
def test_impossible_timeouts_and_priorities_are_400(client: httpx.Client, fields: dict[str, Any]) -> None:
    response = client.post(CHAT, json=BODY | fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == next(iter(fields))


def test_a_request_past_its_timeout_is_504_and_frees_its_place(served: Any) -> None:
    response = httpx.post(served.url + CHAT, json=ENDLESS | {"timeout": 0.4}, timeout=60)
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"
    assert "0.4 seconds" in response.json()["error"]["message"]
    link = served.front.link
    assert wait_until(lambda: link.open_requests == 0 and link.stats.running == 0)


def test_a_stream_past_its_timeout_ends_with_the_error(served: Any) -> None:
    response = httpx.post(served.url + CHAT, json=ENDLESS | {"timeout": 1.5, "stream": True}, timeout=60)
    *_, last = [line for line in response.text.split("\n\n") if line]
    assert "deadline_exceeded" in last


@pytest.mark.parametrize("fields", [{"regex": "[a-z]{3}"}, {"stop_regex": "[a-z]{3}"}])
def test_a_compilation_that_takes_longer_than_the_timeout_does_not_hold_the_answer(
    served: Any, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    left: list[str] = []

    async def endless(*_: Any) -> bytes:
        try:
            return await asyncio.get_running_loop().create_future()
        finally:
            left.append("left")

    monkeypatch.setattr(CompilePool, "compile", endless)
    response = httpx.post(served.url + CHAT, json=BODY | {"timeout": 0.2} | fields, timeout=30)
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert left == ["left"]
    assert wait_until(lambda: served.places.taken == 0)


@pytest.mark.parametrize("route", ["chat/completions", "completions"])
def test_the_time_to_tokenise_is_part_of_the_timeout(served: Any, monkeypatch: pytest.MonkeyPatch, route: str) -> None:
    ended = threading.Event()
    monkeypatch.setattr(Tokenizer, "encode_pieces", lambda *_: ended.wait(30))
    fields = {"timeout": 0.2} | (BODY if route.startswith("chat") else {"model": "tiny", "prompt": ["a", "b"]})
    response = httpx.post(f"{served.url}/v1/{route}", json=fields, timeout=20)
    ended.set()
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")


def test_a_priority_out_of_range_is_400(served: Any) -> None:
    response = httpx.post(served.url + CHAT, json=BODY | {"priority": 10**6}, timeout=60)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "priority")


def test_a_closed_server_finishes_what_is_open_and_refuses_the_rest(
    serve_front: Callable[[Callable[[], Any]], Any], scripted: Any
) -> None:
    closing = serve_front(lambda: scripted)
    scripted.pause = 0.4
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(httpx.post(closing.url + CHAT, json=BODY, timeout=30)))
    thread.start()
    assert wait_until(lambda: scripted.entered == 1)
    closing.places.close()
    refused = httpx.post(closing.url + CHAT, json=BODY, timeout=30)
    assert refused.status_code == 503
    assert "retry-after" in refused.headers
    assert "shutting down" in refused.json()["error"]["message"]
    assert httpx.get(f"{closing.url}/health").status_code == 503
    thread.join()
    assert answers[0].status_code == 200
    assert wait_until(lambda: closing.places.taken == 0)


def test_an_engine_that_hangs_is_killed_and_another_takes_its_place(served: Any) -> None:
    link = served.front.link
    first = link.pid
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(httpx.post(served.url + CHAT, json=ENDLESS, timeout=60)))
    thread.start()
    assert wait_until(lambda: link.stats.running == 1)
    os.kill(first, signal.SIGSTOP)
    thread.join(30)
    assert answers[0].status_code == 503
    assert answers[0].json()["error"]["code"] == "engine_died"
    assert wait_until(lambda: httpx.get(f"{served.url}/health").status_code == 200, 60)
    assert link.pid != first
    assert httpx.post(served.url + CHAT, json=BODY | {"max_tokens": 4}, timeout=60).status_code == 200
