"""Requests to an OpenAI-compatible server: tried again where that may help, and bounded in everything.

Tried again, with growing pauses or the `Retry-After` of the answer: no connection, silence, 408, 409, 429 and 5xx. A
stream only as long as nothing of it has been passed on. What is left raises an error of our tree. The key is in a
header and nowhere else: no message, log line or repr has it. This file knows HTTP and JSON, no programs.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from latticework.lang.errors import (
    Busy,
    ConnectionLost,
    ConstraintError,
    DeadlineExceeded,
    InvalidArgument,
    LatticeworkError,
    PromptTooLong,
    QuotaExceeded,
    RegexError,
    RuntimeFailure,
    SchemaError,
    Unsupported,
)

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")
AGAIN = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0  # seconds; each pause is twice the one before, and shortened by chance
LONGEST_RETRY_AFTER = 60.0  # a server that asks for more is not waited for
CONNECT_SECONDS = 10.0
MAX_ANSWER_BYTES = 256 << 20
MAX_ERROR_CHARS = 500
DONE = "[DONE]"


_CODES: dict[str, type[LatticeworkError]] = {
    "context_length_exceeded": PromptTooLong,
    "invalid_json_schema": SchemaError,
    "invalid_regex": RegexError,
    "invalid_constraint": ConstraintError,
    "unsupported": Unsupported,
}
"""What of OpenAI's codes, and of ours, says more than the status."""


class Transport:
    """Owns the connections to one server; belongs to one event loop.

    timeout: seconds without a byte after which a request has failed. retries: so many times more. concurrency:
    requests at once; the others wait.
    """

    def __init__(
        self, base_url: str, key: str | None, *, timeout: float, retries: int, concurrency: int, verify: str | bool
    ) -> None:
        import httpx

        self._url = base_url
        self._key = key
        self._retries = retries
        self._places = asyncio.Semaphore(concurrency)
        self._client = httpx.AsyncClient(
            base_url=base_url + "/",
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS), pool=None),
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            verify=base_url.startswith("https") and _trusted(verify),  # reading certificates takes its time
        )
        self.attempts = 0  # requests sent

    async def close(self) -> None:
        await self._client.aclose()

    # ------------------------------------------------------------ requests

    async def get(self, path: str, until: float | None = None) -> Any:
        """A JSON answer. until: on the clock of `time.monotonic`."""
        return await self._again(lambda: self._whole("GET", path, None), until)

    async def post(self, path: str, body: Any, until: float | None = None) -> Any:
        """A JSON answer."""
        return await self._again(lambda: self._whole("POST", path, body), until)

    async def stream(self, path: str, body: Any, hear: Callable[[Any], bool], until: float | None = None) -> None:
        """Hands the JSON objects of a stream of events to `hear`, up to its `[DONE]`. hear: whether it has passed
        something on, after which nothing can be tried again. Raises ConnectionLost where the stream ends before."""
        begun = False

        async def attempt() -> None:
            nonlocal begun
            async with aclosing(self._events(path, body)) as events:
                async for value in events:
                    begun = hear(value) or begun

        await self._again(attempt, until, lambda: not begun)

    async def _whole(self, method: str, path: str, body: Any) -> Any:
        async with self._answer(method, path, body) as answer:
            data = await _read(answer)
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise RuntimeFailure(f"{self._url} answers with something that is not JSON") from None

    async def _events(self, path: str, body: Any) -> AsyncGenerator[Any, None]:
        received, done = 0, False
        async with self._answer("POST", path, body) as answer:
            async for line in answer.aiter_lines():
                received += len(line)
                if received > MAX_ANSWER_BYTES:
                    raise RuntimeFailure(f"{self._url} streams more than {MAX_ANSWER_BYTES} bytes")
                kind, _, data = line.partition(":")
                if kind != "data" or not data.strip():
                    continue
                if data.strip() == DONE:
                    done = True  # read on to the end, so that the connection can be used again
                elif not done:
                    yield self._event(data)
        if not done:
            raise ConnectionLost(f"{self._url} ended its stream too early")

    def _event(self, data: str) -> Any:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            raise RuntimeFailure(f"{self._url} streams something that is not JSON") from None
        if isinstance(value, dict) and value.get("error"):
            raise self._said_no(500, value)
        return value

    @asynccontextmanager
    async def _answer(self, method: str, path: str, body: Any) -> AsyncIterator[httpx.Response]:
        """An answer of status 200. Whatever httpx raises becomes ConnectionLost."""
        import httpx

        self.attempts += 1
        try:
            async with self._places, self._client.stream(method, path, json=body) as answer:
                if answer.status_code != 200:
                    raise await self._refusal(answer)
                yield answer
        except httpx.TimeoutException as error:
            raise ConnectionLost(f"{self._url} did not answer in time ({type(error).__name__})") from None
        except httpx.HTTPError as error:
            raise ConnectionLost(f"{self._url} cannot be reached: {self._redacted(str(error))}") from None

    # ------------------------------------------------------------ again

    async def _again(
        self, attempt: Callable[[], Awaitable[T]], until: float | None, may: Callable[[], bool] = lambda: True
    ) -> T:
        pause = FIRST_PAUSE
        for left in range(self._retries, -1, -1):
            try:
                return await attempt()
            except LatticeworkError as error:
                wait = error.after if isinstance(error, _Later) else None
                known = error.error if isinstance(error, _Later) else error
                if not left or not may() or not isinstance(error, _Later | ConnectionLost):
                    raise known from None
                seconds = pause * random.uniform(0.5, 1.0) if wait is None else wait
                if seconds > LONGEST_RETRY_AFTER or (until is not None and time.monotonic() + seconds >= until):
                    raise known from None
                await asyncio.sleep(seconds)
                pause = min(2 * pause, LONGEST_PAUSE)
        raise AssertionError("the last attempt returns or raises")

    # ------------------------------------------------------------ what went wrong

    async def _refusal(self, answer: httpx.Response) -> LatticeworkError:
        data = await _read(answer)
        try:
            told = json.loads(data)
        except (ValueError, RecursionError):
            told = {"error": {"message": data.decode("utf-8", "replace")}}
        error = self._said_no(answer.status_code, told)
        if answer.status_code not in AGAIN:
            return error
        return _Later(error, _retry_after(answer.headers.get("retry-after")))

    def _said_no(self, status: int, told: Any) -> LatticeworkError:
        """The error behind a status and a body: OpenAI's {"error": {"message", "param", "code"}}, or its like."""
        inner = told.get("error", told) if isinstance(told, dict) else told
        inner = inner if isinstance(inner, dict) else {"message": inner}
        message = self._redacted(str(inner.get("message") or inner.get("detail") or "no reason given"))[
            :MAX_ERROR_CHARS
        ]
        text = f"{self._url} answers {status}: {message}"
        param = inner.get("param") if isinstance(inner.get("param"), str) else None
        code = str(inner.get("code"))
        match status:
            case 401 | 403:
                return InvalidArgument(text, field="api_key")
            case 400 | 404 | 405 | 413 | 415 | 422:
                return _CODES.get(code, InvalidArgument)(text, field=param)
            case 408 | 504:
                return DeadlineExceeded(text)
            case 429:
                return QuotaExceeded(text)
            case 503 | 529:
                return Busy(text)
        return RuntimeFailure(text)

    def _redacted(self, text: str) -> str:
        return text if not self._key else text.replace(self._key, "***")


class _Later(LatticeworkError):
    """`error`, which may not come again. after: seconds that the server asks for."""

    def __init__(self, error: LatticeworkError, after: float | None) -> None:
        super().__init__(error.message)
        self.error = error
        self.after = after


def _retry_after(value: str | None) -> float | None:
    """Seconds; a date, which would need both clocks to agree, and nonsense are no answer."""
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


async def _read(answer: httpx.Response) -> bytes:
    parts, size = [], 0
    async for part in answer.aiter_bytes():
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise RuntimeFailure(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)


def _trusted(verify: str | bool) -> Any:
    """What httpx is to trust: a file of certificates, the system's, or anything."""
    if isinstance(verify, bool):
        return verify
    import ssl

    return ssl.create_default_context(cafile=verify)


def checked_url(base_url: object) -> str:
    """Raises InvalidArgument for what is no HTTP address, or carries a password."""
    try:
        parts = urlsplit(base_url) if isinstance(base_url, str) else None
        port = parts.port if parts else None
    except ValueError:
        parts, port = None, None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidArgument(f"base_url is {base_url!r}", field="base_url", hint="http://127.0.0.1:8000/v1")
    if parts.username or parts.password:
        raise InvalidArgument("base_url carries a password", field="base_url", hint="give the key as api_key=")
    assert port is None or port >= 0
    return str(base_url).rstrip("/")
