"""API keys over HTTP: every route but /health asks for one; tenants, and limits of their own."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from latticework.lang.errors import InvalidArgument
from latticework.runtime.config import EngineConfig, ServerConfig
from latticework.runtime.programs.front import Front
from latticework.runtime.server.app import create_app
from latticework.runtime.server.main import serve
from latticework.runtime.tenants import ApiKeys

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
KEYS = {name: f"sentinel-key-of-{name}" for name in ("ada", "bob", "cyd", "dan")}
TENANTS = ApiKeys({hashlib.sha256(key.encode()).digest(): name for name, key in KEYS.items()})
ENGINE = EngineConfig(model="tiny", dtype="float64", kv_tokens=8192, threads=1)
WRONG = [
    [],
    [("Authorization", "Bearer")],
    [("Authorization", "Bearer sentinel-key-of-eve")],
    [("Authorization", KEYS["ada"])],
    [("Authorization", f"Basic {KEYS['ada']}")],
    [("Authorization", f"Bearer {KEYS['ada']}"), ("Authorization", f"Bearer {KEYS['bob']}")],
    [("X-Api-Key", KEYS["ada"])],
]


def of(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[name]}"}


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@pytest.fixture(scope="module")
def locked(serve_front: Callable[..., Any]) -> Any:
    """The tiny model behind keys, two open requests for each tenant."""
    return serve_front(lambda: Front.start(ENGINE, ServerConfig()), keys=TENANTS, each=2)


def routes(front: Any) -> list[tuple[str, str]]:
    app: Any = create_app(cast(Front, front), keys=TENANTS)
    while not hasattr(app, "routes"):
        app = app.app
    return [(method, route.path.replace("{model:path}", "x")) for route in app.routes for method in route.methods]


@pytest.mark.parametrize("headers", WRONG)
def test_every_route_but_health_needs_a_key(locked: Any, headers: list[tuple[str, str]]) -> None:
    known = routes(locked.front)
    assert {path for _, path in known} >= {"/health", "/metrics", CHAT, "/v1/completions", "/v1/models"}
    bodies = set()
    for method, path in [*known, ("GET", "/nothing"), ("POST", "//health"), ("GET", "/health/"), ("GET", "/HEALTH")]:
        response = httpx.request(method, locked.url + path, headers=headers)
        if path == "/health":
            assert response.status_code == (200 if method == "GET" else 405)
            continue
        assert response.status_code == 401, (method, path)
        assert response.headers["www-authenticate"] == "Bearer"
        bodies.add(response.content)
    assert len(bodies - {b""}) == 1, "no route and no kind of wrong key is told apart"
    error = httpx.get(f"{locked.url}/v1/models", headers=headers).json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")


def test_a_key_opens_every_route(locked: Any) -> None:
    for path in ("/metrics", "/v1/models", "/v1/models/tiny", "/openapi.json"):
        assert httpx.get(locked.url + path, headers=of("ada")).status_code == 200
    answer = httpx.post(locked.url + CHAT, json=BODY | {"max_tokens": 2}, headers=of("bob"), timeout=60)
    assert answer.status_code == 200


def test_a_key_stands_in_no_answer_and_no_log(locked: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        answer = httpx.post(locked.url + CHAT, json=BODY | {"max_tokens": 2}, headers=of("ada"), timeout=60)
        refused = httpx.post(locked.url + CHAT, json=BODY, headers={"Authorization": "Bearer sentinel-key-of-eve"})
        numbers = httpx.get(f"{locked.url}/metrics", headers=of("ada"))
    written = answer.text + refused.text + numbers.text + caplog.text
    assert "sentinel-key" not in written


def test_tenants_never_find_each_others_prompts_in_the_cache(locked: Any) -> None:
    messages = [{"role": "user", "content": "a prompt of more than one page of the cache, said by two tenants"}]

    def cached(name: str) -> int:
        body = {"model": "tiny", "messages": messages, "max_tokens": 1}
        answer = httpx.post(locked.url + CHAT, json=body, headers=of(name), timeout=60).json()
        return cast(int, answer["usage"]["prompt_tokens_details"]["cached_tokens"])

    assert cached("cyd") == 0
    assert cached("cyd") > 16
    assert cached("dan") == 0
    assert cached("dan") > 16


def test_a_tenant_over_its_own_limit_gets_429_and_others_are_answered(locked: Any) -> None:
    endless = BODY | {"max_tokens": 3900, "regex": "[a-z]{3800}", "timeout": 20}

    def open_one() -> None:
        with httpx.stream("POST", locked.url + CHAT, json=endless | {"stream": True}, headers=of("ada"), timeout=60):
            assert leave.wait(30)

    leave = threading.Event()
    threads = [threading.Thread(target=open_one) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        assert wait_until(lambda: locked.places.taken == 2)
        refused = httpx.post(locked.url + CHAT, json=BODY, headers=of("ada"), timeout=60)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        error = refused.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert "2 requests" in error["message"]
        other = httpx.post(locked.url + CHAT, json=BODY | {"max_tokens": 2}, headers=of("bob"), timeout=60)
        assert other.status_code == 200
    finally:
        leave.set()
        for thread in threads:
            thread.join()
    assert wait_until(lambda: locked.places.taken == 0)
    again = httpx.post(locked.url + CHAT, json=BODY | {"max_tokens": 2}, headers=of("ada"), timeout=60)
    assert again.status_code == 200


def test_a_server_without_keys_is_full_for_everybody_with_503(serve_front: Callable[..., Any], scripted: Any) -> None:
    scripted.pause = 1.0
    few = serve_front(lambda: scripted, each=1)
    few.places.limit = 2
    threads = [threading.Thread(target=lambda: httpx.post(few.url + CHAT, json=BODY, timeout=60)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert wait_until(lambda: few.places.taken == 2), "without keys there are no tenants with limits of their own"
    refused = httpx.post(few.url + CHAT, json=BODY, headers={"Authorization": "Bearer none"}, timeout=60)
    assert refused.status_code == 503
    assert "retry-after" in refused.headers
    for thread in threads:
        thread.join()


def test_the_file_of_keys_is_read_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="cannot be read"):
        serve(ENGINE, ServerConfig(port=0, api_keys=str(tmp_path / "none")), lambda *_: None, lambda _: None)
    ipc = ServerConfig(ipc=str(tmp_path / "s"), api_keys=str(tmp_path / "none"))
    with pytest.raises(InvalidArgument, match="serves no HTTP"):
        serve(ENGINE, ipc, lambda *_: None, lambda _: None)
