"""Programs on any server of OpenAI's API: chat or completions.

    lw.OpenAI("gpt-4o-mini")                                              $OPENAI_API_KEY
    lw.OpenAI("qwen", base_url="http://127.0.0.1:8000/v1", is_chat_model=False)

Every gen is a request that carries the whole text so far; the server is asked for what it can do and refused the rest
(`Unsupported`, before anything is sent). One thread with one event loop serves any number of runs. Needs httpx.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar, get_args

from latticework.lang.backends.base import Listener, Session
from latticework.lang.backends.openai_dialects import DIALECTS, Dialect, DialectName, dialect_of
from latticework.lang.backends.openai_http import Transport, checked_url
from latticework.lang.backends.openai_session import OpenAISession
from latticework.lang.errors import ConnectionLost, InvalidArgument, Unsupported
from latticework.lang.events import Usage
from latticework.lang.ir import Sampling

__all__ = ["OpenAI"]

OPENAI_URL = "https://api.openai.com/v1"
COMPLETION_MODELS = frozenset({"gpt-3.5-turbo-instruct", "davinci-002", "babbage-002"})
T = TypeVar("T")


class TokenUsage:
    """What a backend's requests took since it was made, or since `reset()`."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.completion_tokens = 0

    def reset(self) -> None:
        """Counts from 0 again."""
        self.prompt_tokens = self.completion_tokens = 0

    def add(self, usage: Usage) -> None:
        """Counts a request."""
        self.prompt_tokens += usage.prompt
        self.completion_tokens += usage.output


class OpenAI:
    """A backend. Owns a thread and its connections: `shutdown()`, `with`, or the end of this process ends them.

    model: as the server names it. is_chat_model: chat, or plain completions, in which `select` scores its options;
    None: chat, except for OpenAI's own completion models. base_url, api_key: default to $OPENAI_BASE_URL, else OpenAI,
    and to $OPENAI_API_KEY. dialect: what the server takes beyond OpenAI's API; "auto" asks it once, at the first run.
    timeout: seconds of silence after which a request has failed. retries: how often one is tried again. concurrency:
    requests at once. verify: a file of certificates to trust; False checks none. `attempts` counts requests sent,
    `token_usage` what they took.
    Raises InvalidArgument; Unsupported without httpx.
    """

    def __init__(
        self,
        model: str,
        is_chat_model: bool | None = None,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        dialect: DialectName = "auto",
        timeout: float = 120.0,
        retries: int = 4,
        concurrency: int = 64,
        verify: str | bool = True,
    ) -> None:
        _check_httpx()
        if not isinstance(model, str) or not model:
            raise InvalidArgument(f"model is {model!r}; expected the name of a model", field="model")
        if dialect not in get_args(DialectName):
            raise InvalidArgument(f"dialect is {dialect!r}; expected one of {get_args(DialectName)}", field="dialect")
        self.model = model
        self.chat = model not in COMPLETION_MODELS if is_chat_model is None else is_chat_model
        self.base_url = checked_url(base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL)
        self.name = f"{model} at {self.base_url}"
        self.token_usage = TokenUsage()
        key = api_key if api_key is not None else os.environ.get("OPENAI_API_KEY")
        if key is not None and not (isinstance(key, str) and key.isascii() and key.isprintable() and key.strip()):
            raise InvalidArgument("api_key is no text that a header can hold", field="api_key")
        if not isinstance(timeout, int | float) or isinstance(timeout, bool) or not 0 < timeout < 1e9:
            raise InvalidArgument(f"timeout is {timeout!r}; expected seconds", field="timeout")
        for name, value, least in (("retries", retries, 0), ("concurrency", concurrency, 1)):
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= 4096:
                raise InvalidArgument(f"{name} is {value!r}; expected an integer from {least} to 4096", field=name)
        if isinstance(verify, str) and not os.path.isfile(verify):
            raise InvalidArgument(f"verify is {verify!r}; there is no such file", field="verify")
        self._dialect: Dialect | None = None if dialect == "auto" else DIALECTS[dialect]
        if dialect == "auto" and self.base_url == OPENAI_URL:
            self._dialect = DIALECTS["openai"]
        self._transport_of: Callable[[], Transport] = lambda: Transport(
            self.base_url, key, timeout=timeout, retries=retries, concurrency=concurrency, verify=verify
        )
        self._lock = threading.Lock()
        self._running: _Loop | None = None
        self._shut = False

    def __repr__(self) -> str:
        return f"OpenAI({self.model!r}, base_url={self.base_url!r})"

    @property
    def attempts(self) -> int:
        """Requests sent so far, those that were tried again included."""
        return self._running.transport.attempts if self._running is not None else 0

    def open(
        self, sampling: Sampling, seed: int, item: int, listener: Listener, timeout: float | None = None
    ) -> Session:
        """Starts a run; see `Backend.open`. Programs do this by themselves."""
        return OpenAISession(self, sampling, seed, item, listener, timeout)

    def shutdown(self) -> None:
        """Ends the connections; runs still open fail with ConnectionLost. Idempotent."""
        with self._lock:
            self._shut = True
            running, self._running = self._running, None
        if running is not None:
            running.stop()

    def __enter__(self) -> OpenAI:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    # ------------------------------------------------------------ for sessions

    def running(self) -> _Loop:
        """The loop of this process, started by whoever asks first. Raises ConnectionLost once shut down."""
        with self._lock:
            if self._shut:
                raise ConnectionLost("this backend was shut down", hint="make a new lw.OpenAI(…)")
            if self._running is None or self._running.pid != os.getpid():
                self._running = _Loop(self._transport_of)
            return self._running

    async def dialect(self, transport: Transport, until: float | None) -> Dialect:
        """What the server is: known, or asked for once. A server that lists no models is taken for plain OpenAI."""
        if self._dialect is None:
            try:
                self._dialect = dialect_of(await transport.get("models", until), self.model)
            except InvalidArgument as error:
                if error.field == "api_key":
                    raise
                self._dialect = DIALECTS["openai"]
        return self._dialect


class _Loop:
    """An event loop in a thread of its own, with the connections that live on it."""

    def __init__(self, make: Callable[[], Transport]) -> None:
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self.sessions: set[OpenAISession] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="latticework-openai", daemon=True)
        self._thread.start()
        self.transport = self._wait(_made(make))

    def call(self, action: Callable[..., object], *arguments: Any) -> None:
        """Runs `action` on the loop, in the order of calls. Raises ConnectionLost once it has stopped."""
        try:
            self._loop.call_soon_threadsafe(action, *arguments)
        except RuntimeError:
            raise ConnectionLost("this backend was shut down") from None

    def stop(self) -> None:
        if self.pid != os.getpid() or threading.current_thread() is self._thread:
            return
        self._wait(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        error = ConnectionLost("the backend was shut down while the run was open")
        for session in list(self.sessions):
            session.lose(error)
        await asyncio.sleep(0)  # what was cancelled ends
        await self.transport.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


async def _made(make: Callable[[], Transport]) -> Transport:
    return make()


def _check_httpx() -> None:
    try:
        import httpx  # noqa: F401
    except ModuleNotFoundError:
        raise Unsupported(
            "this backend needs the package httpx, which is not installed",
            hint="pip install 'latticework[providers]'",
        ) from None
