"""The link over HTTP: whole programs for whoever may use the HTTP server. The other side is link/http_wire.py.

A connection is one long answer; what its client says comes in requests that name it. Its tenant is its API key's.
"""

from __future__ import annotations

import asyncio
import logging

from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from latticework.lang.errors import InvalidArgument
from latticework.runtime.link.framing import pack, unpack
from latticework.runtime.link.front_server import FrontServer, Guest
from latticework.runtime.link.http_wire import FRAMES_PATH, FRAMES_TYPE, LINK_HEADER, LINK_PATH, LONGEST_HEADER
from latticework.runtime.link.messages import MAX_FRAME_BYTES, BadFrame
from latticework.runtime.server.errors import refuse
from latticework.runtime.server.stream import gone

log = logging.getLogger("latticework.server")


def add_link_routes(app: FastAPI, link: FrontServer, longest: int) -> None:
    """longest: bytes that one request may have."""

    @app.post(LINK_PATH)
    async def connect(request: Request) -> Response:
        hello = await request.body()
        guest = link.admit(request.state.tenant)
        try:
            hear(guest, hello)
        except BaseException:
            link.leave(guest)
            raise
        return FrameStream(link, guest, min(longest, MAX_FRAME_BYTES))

    @app.post(FRAMES_PATH)
    async def frames(request: Request) -> Response:
        body = await request.body()
        guest = link.guest(request.headers.get(LINK_HEADER, "").encode(), request.state.tenant)
        if guest is None:
            return refuse(404, "this connection is not open, or not yours", LINK_HEADER, "unknown_link")
        hear(guest, body)
        return Response(status_code=204)

    def hear(guest: Guest, body: bytes) -> None:
        try:
            for frame in unpack(body):
                link.hear(guest, frame)
        except BadFrame as error:
            raise InvalidArgument(f"the body holds no messages of this version: {error}", field="body") from None


class FrameStream(Response):
    """An ASGI response: the frames for one guest, as they come. Owns the guest: with the answer it leaves."""

    def __init__(self, link: FrontServer, guest: Guest, longest: int) -> None:
        headers = {
            LINK_HEADER: guest.identity.decode(),
            LONGEST_HEADER: str(longest),
            "cache-control": "no-cache, no-transform",
            "x-accel-buffering": "no",  # a proxy that gathers an answer would hold back what a program waits for
        }
        super().__init__(headers=headers, media_type=FRAMES_TYPE)
        del self.headers["content-length"]
        self._link = link
        self._guest = guest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(send))
        watch = asyncio.ensure_future(gone(receive))
        try:
            await asyncio.wait({sending, watch}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        except OSError:
            log.debug("a client closed its connection while it was written to")
        finally:
            self._link.leave(self._guest)
            for one in (sending, watch):
                one.cancel()
            await asyncio.gather(sending, watch, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        while frames := await self._guest.fetch():
            await send({"type": "http.response.body", "body": pack(frames), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
