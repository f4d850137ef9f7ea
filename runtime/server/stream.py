"""Generations over HTTP: whole or as server-sent events, and cancelled as soon as nobody reads them any more.

Knows ASGI and the front's `Generation`; knows nothing of OpenAI's objects.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from typing import Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from latticework.lang.errors import LatticeworkError
from latticework.runtime.programs.deadline import Deadline
from latticework.runtime.programs.generation import Generation, Output
from latticework.runtime.server.errors import describe, error_body

log = logging.getLogger("latticework.server")
T = TypeVar("T")

DONE = "[DONE]"
READER_GRACE = 5.0  # seconds after its deadline in which a stream's client may still read what there is


class ClientGone(Exception):
    """The client closed the connection; nobody is left to answer."""


async def outputs(generation: Generation) -> AsyncGenerator[Output, None]:
    """The outputs of a generation; closing this generator cancels it."""
    async with generation:
        async for output in generation:
            yield output


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, or ClientGone (and `work` cancelled) if the client leaves first. The body of the
    request must have been read."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(gone(request.receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for one in (task, watch):
            one.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def gone(receive: Receive) -> None:
    """Returns when the client has closed the connection. The body of the request must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Renderer(Protocol):
    """Turns outputs into the JSON objects of one stream."""

    params: Mapping[str, str]

    def first(self) -> list[dict[str, Any]]: ...

    def chunk(self, output: Output) -> list[dict[str, Any]]: ...


class EventStream(Response):
    """An ASGI response: each object of the stream as one server-sent event, then `[DONE]`.

    Owns `source`: whatever happens, it is closed at the end, which cancels the generation. An error after the
    first event is an event of its own and ends the stream without `[DONE]`. A client that has not read what there is
    some seconds after the deadline is given up.
    """

    def __init__(
        self, first: Output, source: AsyncGenerator[Output, None], renderer: Renderer, deadline: Deadline
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache"}, media_type="text/event-stream")
        del self.headers["content-length"]
        self._first = first
        self._source = source
        self._renderer = renderer
        self._deadline = deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(send))
        watch = asyncio.ensure_future(gone(receive))
        try:
            done, _ = await asyncio.wait(
                {sending, watch}, timeout=self._patience(), return_when=asyncio.FIRST_COMPLETED
            )
            if sending in done:
                sending.result()
            elif not done:
                log.warning("a stream was given up: its time is over, and its client does not read")
        except OSError:
            log.debug("the client closed a stream while it was written")
        finally:
            for one in (sending, watch):
                one.cancel()
            await asyncio.gather(sending, watch, return_exceptions=True)
            await self._source.aclose()

    def _patience(self) -> float | None:
        at = self._deadline.at
        return None if at is None else max(0.0, at - time.monotonic()) + READER_GRACE

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for data in self._events():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self) -> AsyncIterator[bytes]:
        try:
            for value in [*self._renderer.first(), *self._renderer.chunk(self._first)]:
                yield event(json.dumps(value, ensure_ascii=False))
            async for output in self._source:
                for value in self._renderer.chunk(output):
                    yield event(json.dumps(value, ensure_ascii=False))
            yield event(DONE)
        except LatticeworkError as error:
            yield event(json.dumps(describe(error, self._renderer.params)[1], ensure_ascii=False))
        except Exception:
            log.exception("a stream failed")
            yield event(json.dumps(error_body("internal error", "server_error", None, None)))


def event(data: str) -> bytes:
    """One server-sent event. JSON text has no raw line breaks, so one `data:` line is enough."""
    return f"data: {data}\n\n".encode()
