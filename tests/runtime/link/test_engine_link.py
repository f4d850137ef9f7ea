"""The front's side of the engine link, and the engine's: what neither side may lose."""

from __future__ import annotations

import asyncio
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from latticework.lang.errors import EngineDied
from latticework.lang.ir import Sampling
from latticework.runtime.config import EngineConfig
from latticework.runtime.link import engine_link, engine_worker
from latticework.runtime.link.engine_link import EngineLink
from latticework.runtime.link.engine_worker import EngineServer
from latticework.runtime.link.messages import (
    Decoder,
    Define,
    EngineReady,
    EngineStats,
    FromEngine,
    Ping,
    Submit,
    ToEngine,
    UnknownKey,
    encode,
)
from latticework.runtime.profile import Profile
from latticework.runtime.request import GenSegment, Request, TextSegment, TokenEvent

READY = EngineReady(512, 1024, "float64")
REQUEST = Request(1, (TextSegment((1,)), GenSegment(Sampling(seed=1), "key")))


class Wire:
    """Stands in for the link's socket: what was sent, decoded."""

    def __init__(self) -> None:
        self.sent: list[object] = []
        self.messages: list[int] = []  # how many frames each had

    def send_multipart(self, frames: list[bytes]) -> asyncio.Future[None]:
        self.sent += map(Decoder(ToEngine).decode, frames)
        self.messages.append(len(frames))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def close(self, linger: int) -> None:
        self.sent.append("closed")


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[EngineLink, Wire, list[TokenEvent]]]:
    """A link to an engine that has greeted it, one open request, and what that request hears."""
    link = EngineLink(EngineConfig(model="tiny"), "ipc:///nowhere")
    wire = Wire()
    link._socket = wire  # type: ignore[assignment]
    heard: list[TokenEvent] = []
    link._hear(READY)
    link.submit(REQUEST, {"key": b"rules"}, heard.append)
    yield link, wire, heard
    await link.close()


async def sent() -> None:
    """Until what is to be sent has left."""
    for _ in range(3):
        await asyncio.sleep(0)


def test_what_a_turn_and_the_tasks_it_begins_submit_leaves_as_one_message() -> None:
    async def scenario() -> None:
        async with connected() as (link, wire, _):

            async def child(number: int) -> None:
                link.submit(Request(number, REQUEST.chain), {}, lambda event: None)

            children = [asyncio.create_task(child(number)) for number in (2, 3, 4)]
            link.release(9, link.generation)
            await asyncio.gather(*children)
            await sent()
            assert wire.messages == [6]  # a constraint and its request, a release, three requests

    asyncio.run(scenario())


def test_a_long_turn_sends_before_its_end() -> None:
    async def scenario() -> None:
        async with connected() as (link, wire, _):
            for number in range(2, engine_link.FRAMES_TOGETHER):
                link.submit(Request(number, REQUEST.chain), {}, lambda event: None)
            assert wire.messages == [engine_link.FRAMES_TOGETHER]
            link.cancel(2)
            await sent()
            assert wire.messages == [engine_link.FRAMES_TOGETHER, 1]

    asyncio.run(scenario())


def test_a_constraint_is_defined_once_and_before_its_request() -> None:
    async def scenario() -> None:
        async with connected() as (link, wire, _):
            link.submit(Request(2, REQUEST.chain), {"key": b"rules"}, lambda event: None)
            await sent()
            assert wire.sent == [Define("key", b"rules"), Submit(REQUEST), Submit(Request(2, REQUEST.chain))]

    asyncio.run(scenario())


def test_a_forgotten_constraint_is_defined_again_but_not_for_ever() -> None:
    async def scenario() -> None:
        async with connected() as (link, wire, heard):
            for _ in range(10):
                link._hear(UnknownKey("key", 1))
            await sent()
            assert wire.sent.count(Submit(REQUEST)) == engine_link.DEFINITIONS
            assert [event.final for event in heard] == [True]
            assert heard[0].error is not None

    asyncio.run(scenario())


def test_an_engine_that_greets_again_has_lost_what_was_open() -> None:
    async def scenario() -> None:
        async with connected() as (link, _, heard):
            before = link.generation
            link._hear(READY)
            assert link.generation == before + 1
            assert heard[0].final
            assert heard[0].error is not None
            assert heard[0].error.type == "ConnectionLost"

    asyncio.run(scenario())


def test_a_callback_that_raises_does_not_end_the_link() -> None:
    async def scenario() -> None:
        def broken(event: TokenEvent) -> None:
            raise ZeroDivisionError

        async with connected() as (link, _, _):
            link.submit(Request(2, REQUEST.chain), {"key": b""}, broken)
            link._deliver(TokenEvent(2, 1, (5,)))
            link._deliver(TokenEvent(2, 1, final=True, end="cancelled"))
            assert link.open_requests == 1

    asyncio.run(scenario())


def test_an_engine_that_loads_and_dies_is_reported_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lw_dying_engine.py").write_text(
        textwrap.dedent("""
            from latticework.runtime.link.child import Lifeline
            from latticework.runtime.link.settings import EngineSettings
            lifeline = Lifeline()
            lifeline.settings(EngineSettings)
            lifeline.ready()
        """)
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    spawn = engine_link.child.spawn
    monkeypatch.setattr(engine_link.child, "spawn", lambda module, *rest, **how: spawn("lw_dying_engine", *rest, **how))

    async def scenario() -> None:
        link = EngineLink(EngineConfig(model="tiny"), f"ipc://{tmp_path}/e")
        started = time.monotonic()
        with pytest.raises(EngineDied, match="does not answer"):
            await link.start()
        assert time.monotonic() - started < engine_link.GREETING_SECONDS / 2
        await link.close()

    asyncio.run(scenario())


class IdleEngine:
    """Counts what a server asks of an engine."""

    config = EngineConfig(model="tiny")
    context, kv_tokens, dtype = 512, 1024, "float64"

    profile = Profile(False)

    def __init__(self) -> None:
        self.dropped: list[Any] = []

    def has_work(self) -> bool:
        return False

    def stats(self) -> EngineStats:
        return EngineStats()

    def drop(self, owner: bytes) -> None:
        self.dropped.append(owner)


def test_a_front_that_was_given_up_is_greeted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_worker, "HEARTBEAT_SECONDS", 0.05)
    engine = IdleEngine()
    server = EngineServer(engine, f"ipc://{tmp_path}/engine")  # type: ignore[arg-type]
    context = zmq.Context()
    front = context.socket(zmq.DEALER)
    front.linger = 0
    front.connect(f"ipc://{tmp_path}/engine")

    def greetings() -> int:
        """How often the front is greeted when it pings twice."""
        for _ in range(2):
            front.send(encode(Ping()))
        for _ in range(6):
            server.turn()
        answers = []
        while front.poll(50):
            answers.append(Decoder(FromEngine).decode(front.recv()))
        return sum(isinstance(answer, EngineReady) for answer in answers)

    assert greetings() == 1
    assert greetings() == 0
    monkeypatch.setattr(engine_worker, "SILENCE_SECONDS", -1.0)
    server._next_heartbeat = 0.0
    server.turn()
    assert len(engine.dropped) == 1
    monkeypatch.undo()
    assert greetings() == 1
    front.close()
    context.term()
    server.close()


def test_a_request_cancelled_before_its_constraint_was_known_is_not_sent_again() -> None:
    async def scenario() -> None:
        async with connected() as (link, wire, heard):
            link.cancel(1)
            await sent()
            wire.sent.clear()
            link._hear(UnknownKey("key", 1))
            await sent()
            assert wire.sent == []
            assert link.open_requests == 0
            assert [(event.end, event.final) for event in heard] == [("cancelled", True)]

    asyncio.run(scenario())


def test_a_request_that_fits_no_message_ends_with_an_error() -> None:
    async def scenario() -> None:
        async with connected() as (link, _, __):
            heard: list[TokenEvent] = []
            link.submit(Request(2, REQUEST.chain, priority=2**70), {}, heard.append)
            assert link.open_requests == 1  # the first
            assert [(event.end, event.final) for event in heard] == [("error", True)]

    asyncio.run(scenario())
