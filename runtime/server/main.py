"""What `latticework serve` does: a front with its engine, on HTTP and a link address, or on a link address alone.

No HTTP library is imported unless HTTP is asked for.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar

from latticework.lang.errors import InvalidArgument, Unsupported
from latticework.runtime.config import EngineConfig, ServerConfig
from latticework.runtime.link.front_server import FrontServer
from latticework.runtime.link.sockets import check_address
from latticework.runtime.meter import show_log
from latticework.runtime.programs.front import Front
from latticework.runtime.tenants import ApiKeys

POLL_SECONDS = 0.05  # how often draining looks whether all is done
T = TypeVar("T")
Ready = Callable[[str, Front], None]
"""Called once, when all addresses answer: the addresses in words, and the front behind them."""
Progress = Callable[[float], None]
"""Called with the share of the weights that is loaded, 0 to 1."""


class Places(Protocol):
    """The open generations of an HTTP server, which this file does not import."""

    taken: int

    def close(self) -> None: ...


def serve(engine: EngineConfig, server: ServerConfig, ready: Ready, progress: Progress) -> None:
    """Serves until SIGINT or SIGTERM, then ends every process it started. SIGTERM refuses what is new at once and gives
    what is open `drain_seconds`; a second signal ends that, too.

    Raises AddressInUse, InvalidArgument or Unsupported before anything is started, ModelError while it starts.
    """
    if server.log_requests:
        show_log()
    asyncio.run(_serve(engine, server, ready, progress))


async def _serve(engine: EngineConfig, server: ServerConfig, ready: Ready, progress: Progress) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)  # until there is something to drain
    address = _link_address(server)
    http = _http() if address is None else None
    keys = _keys(server)
    bound = http.bind(server.host, server.port) if http else None  # a taken port is known before a model loads
    front = await _unless(stopped, Front.start(engine, server, progress))
    if front is None:
        return
    link: FrontServer | None = None
    try:
        link = FrontServer(front, address or front.folder.address("front"), server.max_open)
        link.start()
        drain = _Drain(link, server.drain_seconds, stopped)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, drain.begin)
        if http and bound:
            where = f"{http.url_of(bound)} and {link.address}"
            drain.places = places = http.OpenPlaces(server.max_open, server.max_open_each)
            await http.serve_http(front, bound, places, stopped, lambda: ready(where, front), keys, link)
        else:
            ready(link.address, front)
            await stopped.wait()
    finally:
        if link is not None:
            await link.close()
        await front.close()


class _Drain:
    """What SIGTERM begins. places: of HTTP, if it is served."""

    places: Places | None = None

    def __init__(self, link: FrontServer, seconds: float, stopped: asyncio.Event) -> None:
        self._link = link
        self._seconds = seconds
        self._stopped = stopped
        self._draining: asyncio.Task[None] | None = None

    def begin(self) -> None:
        if self._draining is not None:
            self._stopped.set()
            return
        self._link.closed = True
        if self.places is not None:
            self.places.close()
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        end = asyncio.get_running_loop().time() + self._seconds
        while self._open() and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(POLL_SECONDS)
        self._stopped.set()

    def _open(self) -> int:
        return self._link.open_runs + (self.places.taken if self.places is not None else 0)


def _link_address(server: ServerConfig) -> str | None:
    if server.ipc is None:
        return None
    return check_address(server.ipc if "://" in server.ipc else f"ipc://{server.ipc}")


def _keys(server: ServerConfig) -> ApiKeys | None:
    if server.api_keys is None:
        return None
    if server.ipc is not None:
        raise InvalidArgument(
            "api_keys is given with ipc, which serves no HTTP",
            field="api_keys",
            hint="the socket's folder says who may use it",
        )
    return ApiKeys.from_file(Path(server.api_keys))


def _http() -> ModuleType:
    try:
        from latticework.runtime.server import http
    except ModuleNotFoundError as error:
        raise Unsupported(
            f"HTTP needs the package {error.name}, which is not installed",
            hint="pip install 'latticework[server]', or serve a link alone with --ipc PATH",
        ) from None
    return http


async def _unless(stopped: asyncio.Event, start: Coroutine[Any, Any, T]) -> T | None:
    """The result of `start`; None, and `start` cancelled, if we are told to stop first."""
    starting = asyncio.ensure_future(start)
    stopping = asyncio.ensure_future(stopped.wait())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return starting.result() if starting.done() else None
    finally:
        for one in (starting, stopping):
            one.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)
