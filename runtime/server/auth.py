"""Who asks: nothing but /health is answered without a key, once there are keys.

ASGI middleware. Knows the keys' tenants; does not know what any route does, so that a new one is closed, too.
"""

from __future__ import annotations

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from latticework.runtime.server.errors import error_body
from latticework.runtime.tenants import ApiKeys

OPEN_PATHS = frozenset({"/health"})


class Authentication:
    """401 without a valid `Authorization: Bearer KEY`; else the key's tenant is `request.state.tenant`. keys None:
    everybody may ask, as the tenant ""."""

    def __init__(self, app: ASGIApp, keys: ApiKeys | None) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tenant = "" if self.keys is None else self._tenant(scope, self.keys)
        if tenant is None and scope.get("path") not in OPEN_PATHS:
            if scope["type"] == "http":
                await _refusal()(scope, receive, send)
            elif scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        scope.setdefault("state", {})["tenant"] = tenant or ""
        await self.app(scope, receive, send)

    def _tenant(self, scope: Scope, keys: ApiKeys) -> str | None:
        given = [value for name, value in scope.get("headers", ()) if name == b"authorization"]
        kind, _, key = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        return keys.tenant_of(key.strip()) if kind.lower() == b"bearer" else None


def _refusal() -> JSONResponse:
    """The same for a wrong key as for none."""
    message = "no valid API key was given\nhint: send the header Authorization: Bearer KEY"
    body = error_body(message, "invalid_request_error", None, "invalid_api_key")
    return JSONResponse(body, 401, {"WWW-Authenticate": "Bearer"})
