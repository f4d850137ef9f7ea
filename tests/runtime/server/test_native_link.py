"""Whole programs over HTTP: what they give, whose they are, and what becomes of them when a side goes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import msgspec
import pytest

import latticework as lw
from latticework.lang.backends.runtime import Connection
from latticework.runtime.link import front_server
from latticework.runtime.link.framing import pack, read_frame
from latticework.runtime.link.http_wire import FRAMES_PATH, LINK_HEADER, LINK_PATH
from latticework.runtime.link.messages import AskStats, Decoder, Hello, ToClient, Welcome, encode
from tests.conftest import SERVER_KEYS


@lw.function
def story(s: lw.State, hero: str) -> None:
    s += lw.system("You tell stories.")
    s += lw.user(f"Tell of {hero}.")
    with s.assistant():
        s += lw.gen("opening", max_tokens=12)
        forks = s.fork(2)
        forks += lw.gen("ending", max_tokens=8)
        forks.join()
        s += lw.select("verdict", ["good", "bad"])
        s += lw.gen("code", regex="[0-9]{3}")


@lw.function
def endless(s: lw.State) -> None:
    s += "x" + lw.gen("x", regex="[a-z]{3900}", max_tokens=4000)


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@pytest.fixture(scope="module")
def served(tiny_server: Any) -> Any:
    return tiny_server


@pytest.fixture(scope="module")
def ada(served: Any) -> Iterator[Connection]:
    with lw.RuntimeEndpoint(served.url, api_key=SERVER_KEYS["ada"]) as endpoint:
        yield endpoint


def test_a_program_gives_over_http_what_it_gives_over_the_socket(served: Any, ada: Connection) -> None:
    with lw.connect(served.link.address) as near:
        expected = story.run("Ann", backend=near, seed=4)
    found = story.run("Ann", backend=ada, seed=4)
    assert found.text() == expected.text()
    assert found["ending"] == expected["ending"]
    assert found["verdict"] in ("good", "bad")
    assert found["code"].isdigit()


def test_text_streams_over_http(ada: Connection) -> None:
    state = story.run("Bea", backend=ada, seed=4, stream=True)
    assert "".join(state.text_iter("opening")) == state["opening"]
    state.text()


def test_an_error_of_the_runtime_comes_back_as_itself(ada: Connection) -> None:
    @lw.function
    def wrong(s: lw.State) -> None:
        s += "x" + lw.gen("x", json_schema={"type": "object", "minProperties": 3, "maxProperties": 1})

    with pytest.raises(lw.ConstraintError):
        wrong.run(backend=ada)


def test_the_endpoint_tells_of_its_server(ada: Connection) -> None:
    assert ada.get_model_name() == "tiny"
    info = lw.get_server_info(ada)
    assert info["model_path"] == "tiny"
    assert info["internal_states"][0]["clients"] >= 1
    lw.flush_cache(ada)


def test_the_key_decides_whose_a_program_is(served: Any, ada: Connection) -> None:
    @lw.function
    def ask(s: lw.State) -> None:
        s += "A prefix that only its tenant may find in the cache. " + lw.gen("x", max_tokens=2)

    with lw.connect(served.url, api_key=SERVER_KEYS["bob"]) as bob:
        ask.run(backend=ada, seed=1)
        again = ask.run(backend=ada, seed=1)
        other = ask.run(backend=bob, seed=1)
    assert again.usage().cached > 0
    assert other.usage().cached == 0


def test_a_tenants_programs_are_counted_over_all_its_connections(
    served: Any, ada: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served.front, "server", msgspec.structs.replace(served.front.server, max_open_each=2))
    with lw.RuntimeEndpoint(served.url, api_key=SERVER_KEYS["ada"]) as second:
        running = [endless.run(backend=one, wait=False) for one in (ada, second)]
        assert wait_until(lambda: served.link.open_runs == 2)
        with pytest.raises(lw.QuotaExceeded):
            endless.run(backend=ada)
        for state in running:
            state.cancel()
    assert wait_until(lambda: served.link.open_runs == 0)


def test_there_are_only_so_many_connections(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_server, "MAX_GUESTS", 0)
    with pytest.raises(lw.Busy, match="connections are open"):
        lw.RuntimeEndpoint(served.url, api_key=SERVER_KEYS["ada"])


def test_the_connections_of_a_tenant_are_counted(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served.front, "server", msgspec.structs.replace(served.front.server, max_open_each=1))
    key = SERVER_KEYS["bob"]
    with (
        lw.RuntimeEndpoint(served.url, api_key=key),
        pytest.raises(lw.QuotaExceeded, match="connections of this key"),
    ):
        lw.RuntimeEndpoint(served.url, api_key=key)


@pytest.mark.parametrize("key", [None, "sentinel-key-of-eve"])
def test_without_a_valid_key_there_is_no_connection(served: Any, key: str | None, caplog: Any) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(lw.InvalidArgument, match="API key") as caught:
        lw.RuntimeEndpoint(served.url, api_key=key)
    assert caught.value.field == "api_key"
    assert "sentinel" not in str(caught.value) + caplog.text + repr(caught.value)


def test_a_client_that_goes_takes_its_programs_with_it(served: Any) -> None:
    client = lw.RuntimeEndpoint(served.url, api_key=SERVER_KEYS["ada"])
    endless.run(backend=client, wait=False)
    assert wait_until(lambda: served.front.link.open_requests == 1)
    client.shutdown()
    assert wait_until(lambda: served.link.open_runs == 0 and served.front.link.open_requests == 0)
    assert wait_until(lambda: served.front.link.stats.leases == 0)


# ---------------------------------------------------------------- by hand


class ByHand:
    """A connection whose requests are written out."""

    def __init__(self, url: str, name: str) -> None:
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {SERVER_KEYS[name]}"}, timeout=20)
        self.stream = self.http.stream("POST", LINK_PATH, content=pack([encode(Hello(tenant="bob"))]))
        self.answer = self.stream.__enter__()
        assert self.answer.status_code == 200
        self._data = b""
        self._parts = self.answer.iter_raw()
        self.decoder = Decoder(ToClient)

    def read(self, size: int) -> bytes:
        while len(self._data) < size and (part := next(self._parts, b"")):
            self._data += part
        found, self._data = self._data[:size], self._data[size:]
        return found

    def next(self) -> object:
        frame = read_frame(self.read)
        return None if frame is None else self.decoder.decode(frame)

    def post(self, data: bytes, link: str | None = None) -> httpx.Response:
        headers = {LINK_HEADER: self.answer.headers[LINK_HEADER] if link is None else link}
        return self.http.post(FRAMES_PATH, content=data, headers=headers)

    def close(self) -> None:
        self.stream.__exit__(None, None, None)
        self.http.close()


@pytest.fixture
def by_hand(served: Any) -> Iterator[ByHand]:
    client = ByHand(served.url, "ada")
    yield client
    client.close()


def test_a_connection_begins_with_a_welcome_and_its_client_names_no_tenant(served: Any, by_hand: ByHand) -> None:
    assert isinstance(by_hand.next(), Welcome)
    identity = by_hand.answer.headers[LINK_HEADER].encode()
    assert served.link._clients[identity].tenant == "ada"


def test_garbage_is_refused_and_counted_and_the_connection_lives(served: Any, by_hand: ByHand) -> None:
    before = served.link.bad_frames
    for garbage in (b"\x00", pack([b"\xc1"]), pack([encode(AskStats())])[:-1], b"\xff" * 9):
        refused = by_hand.post(garbage)
        assert refused.status_code == 400
        assert "error" in refused.json()
    assert served.link.bad_frames > before
    assert by_hand.post(pack([encode(AskStats())])).status_code == 204


def test_nobody_else_can_speak_on_a_connection(served: Any, by_hand: ByHand) -> None:
    assert by_hand.post(b"", link="guess").status_code == 404
    other = ByHand(served.url, "bob")
    assert other.post(b"", link=by_hand.answer.headers[LINK_HEADER]).status_code == 404
    other.close()
    no_key = httpx.post(served.url + FRAMES_PATH, headers={LINK_HEADER: by_hand.answer.headers[LINK_HEADER]})
    assert no_key.status_code == 401


def test_a_connection_that_does_not_begin_with_hello_is_refused(served: Any) -> None:
    headers = {"Authorization": f"Bearer {SERVER_KEYS['ada']}"}
    assert httpx.post(served.url + LINK_PATH, content=b"\x00", headers=headers).status_code == 400
    assert httpx.post(served.url + LINK_PATH, content=b"x" * (17 << 20), headers=headers).status_code == 413


def test_a_client_that_falls_silent_is_let_go(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client = ByHand(served.url, "bob")
    monkeypatch.setattr(front_server, "SILENCE_SECONDS", 0.3)
    while client.next() is not None:
        pass
    assert client.post(b"").status_code == 404
    client.close()


# ---------------------------------------------------------------- bounds and ends


def test_what_one_request_cannot_hold_is_refused_where_it_was_written(ada: Connection) -> None:
    @lw.function
    def long(s: lw.State) -> None:
        s += "x" * (16 << 20) + lw.gen("x", max_tokens=1)

    with pytest.raises(lw.InvalidArgument, match="at most"):
        long.run(backend=ada)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://127.0.0.1:9/nowhere"])
def test_where_nobody_answers_it_is_said(url: str) -> None:
    with pytest.raises(lw.ConnectionLost, match="nobody answers"):
        lw.RuntimeEndpoint(url)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"base_url": "127.0.0.1:8000"}, "base_url"),
        ({"base_url": "http://"}, "base_url"),
        ({"base_url": "http://me:secret@localhost"}, "base_url"),
        ({"base_url": "http://localhost:x"}, "base_url"),
        ({"base_url": "http://localhost", "api_key": "a\nb"}, "api_key"),
        ({"base_url": "https://localhost", "verify": "/nowhere.pem"}, "verify"),
        ({"base_url": "http://localhost", "chat_template_name": "chatml"}, "chat_template_name"),
    ],
)
def test_a_wrong_address_or_key_is_named(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises((lw.InvalidArgument, lw.Unsupported)) as caught:
        lw.RuntimeEndpoint(**arguments)
    assert caught.value.field == field
    assert "secret" not in str(caught.value)


def test_a_server_without_programs_is_told_apart(scripted_server: Any) -> None:
    with pytest.raises(lw.ConnectionLost, match="404"):
        lw.RuntimeEndpoint(scripted_server.url)


def test_a_server_that_stops_fails_the_programs_that_are_open(served: Any) -> None:
    client = lw.RuntimeEndpoint(served.url, api_key=SERVER_KEYS["ada"])
    state = endless.run(backend=client, wait=False)
    assert wait_until(lambda: bool(served.front.link.open_requests))
    served._loop.call_soon_threadsafe(served.link.dismiss_guests)  # what serve_http does first when it is to stop
    with pytest.raises(lw.ConnectionLost):
        state["x"]
    assert story.run("Cy", backend=client)["code"].isdigit()  # the next run connects anew
    client.shutdown()
    assert wait_until(lambda: not any(thread.name.startswith("latticework-http") for thread in threading.enumerate()))
