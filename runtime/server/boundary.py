"""The outermost layer of the application: bounds what comes in, and logs what nobody foresaw."""

from __future__ import annotations

import logging

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latticework.runtime.server.errors import refuse

log = logging.getLogger("latticework.server")


class Boundary:
    """ASGI middleware: 413 for a body of more than `limit` bytes, declared or sent. An exception that the
    application has answered with 500 ends here, in the log, so that the connection lives on."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.limit:
            await refuse(413, self._message())(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise HTTPException(413, self._message())
            return message

        try:
            await self.app(scope, counted, send)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])

    def _message(self) -> str:
        return f"the body is larger than {self.limit} bytes (max_body_mb)"
