"""A stream of events and the one who does, or does not, read it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pytest

from latticework.runtime.programs.deadline import Deadline
from latticework.runtime.programs.generation import Output
from latticework.runtime.server import stream
from latticework.runtime.server.errors import PARAMS
from latticework.runtime.server.http import bind
from latticework.runtime.server.stream import EventStream


class Plain:
    """Every output is its text."""

    params: Mapping[str, str] = PARAMS

    def first(self) -> list[dict[str, Any]]:
        return []

    def chunk(self, output: Output) -> list[dict[str, Any]]:
        return [{"text": output.text}]


async def forever() -> Any:
    await asyncio.Event().wait()


def served(deadline: Deadline, reads: bool) -> tuple[list[bytes], list[str]]:
    """Streams two outputs: the bodies that were sent, and whether the source was closed."""
    bodies: list[bytes] = []
    ends: list[str] = []

    async def source() -> AsyncGenerator[Output, None]:
        try:
            yield Output("b")
        finally:
            ends.append("closed")

    async def send(message: Any) -> None:
        bodies.append(message.get("body", b""))
        if not reads:
            await forever()

    async def scenario() -> None:
        outputs = source()
        await outputs.__anext__()
        await EventStream(Output("a"), outputs, Plain(), deadline)({"type": "http"}, forever, send)

    asyncio.run(asyncio.wait_for(scenario(), 30))
    return bodies, ends


@pytest.mark.parametrize("seconds", [None, 60])
def test_a_stream_that_is_read_comes_to_its_end(seconds: float | None) -> None:
    bodies, ends = served(Deadline(seconds), reads=True)
    assert bodies == [b"", b'data: {"text": "a"}\n\n', b"data: [DONE]\n\n", b""]
    assert ends == ["closed"]


def test_a_client_that_does_not_read_is_given_up_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "READER_GRACE", 0.05)
    assert served(Deadline(0.05), reads=False) == ([b""], ["closed"])


def test_small_pieces_of_a_stream_are_sent_at_once() -> None:
    async def accepted() -> int:
        options: list[int] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            options.append(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        bound = bind("127.0.0.1", 0)
        async with await asyncio.start_server(answer, sock=bound):
            reader, writer = await asyncio.open_connection(*bound.getsockname())
            await reader.read()
            writer.close()
        return options[0]

    assert asyncio.run(accepted())
