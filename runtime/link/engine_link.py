"""The front's side of the engine: starts it, keeps it alive, and routes its events to whoever asked.

One asyncio task reads the socket, one writes heartbeats, one watches the process. When the engine dies every open
request gets its final event at once, with the reason, and a new engine is started.
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
from collections.abc import Callable
from typing import IO, Any

import zmq
import zmq.asyncio

from latticework.lang.errors import Busy, EngineDied, LatticeworkError
from latticework.runtime.config import EngineConfig
from latticework.runtime.link import child
from latticework.runtime.link.messages import (
    HEARTBEAT_SECONDS,
    BadFrame,
    Cancel,
    Decoder,
    Define,
    EngineReady,
    EngineStats,
    FlushCache,
    FromEngine,
    Ping,
    Release,
    Submit,
    ToEngine,
    TokenEvents,
    UnknownKey,
    encode,
)
from latticework.runtime.link.settings import EngineSettings
from latticework.runtime.link.sockets import configure
from latticework.runtime.request import GenSegment, Request, TokenEvent

RESTART_SECONDS = 0.5  # between two attempts to start an engine
OnEvent = Callable[[TokenEvent], None]


class EngineLink:
    """Owns the engine process and the socket to it.

    `submit` calls back with every TokenEvent of the request, in order, from the event loop; exactly one is final,
    whatever happens to the engine.
    """

    def __init__(self, config: EngineConfig, address: str, log: IO[bytes] | None = None) -> None:
        self.config = config
        self.address = address
        self.log = log
        self.ready = asyncio.Event()
        self.greeting: EngineReady | None = None
        self.stats = EngineStats()
        self.restarts = 0
        self.bad_frames = 0
        self.failure: LatticeworkError | None = None
        self._numbers = itertools.count(1)
        self._open: dict[int, tuple[Request, OnEvent]] = {}
        self._defined: dict[str, bytes] = {}
        self._told: set[str] = set()  # keys this engine process knows
        self._decoder = Decoder(FromEngine)
        self._context = zmq.asyncio.Context()
        self._socket: zmq.asyncio.Socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    # ------------------------------------------------------------ life

    async def start(self, progress: Callable[[float], None] | None = None) -> None:
        """Starts the engine and waits until its model is loaded. Raises what the engine reports."""
        await self._launch(progress)
        self._tasks = [asyncio.create_task(self._supervise()), asyncio.create_task(self._heartbeat())]

    async def _launch(self, progress: Callable[[float], None] | None = None) -> None:
        self._process = child.spawn(
            "latticework.runtime.link.engine_worker", EngineSettings(self.config, self.address), self.log
        )
        await asyncio.to_thread(child.await_ready, self._process, progress)
        self._told.clear()
        self._socket = self._context.socket(zmq.DEALER)
        configure(self._socket)
        self._socket.connect(self.address)
        self._reader = asyncio.create_task(self._read(self._socket))
        self._send(Ping())
        await self.ready.wait()

    async def close(self) -> None:
        """Ends the engine; open requests get an error. Idempotent."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        if self._process is not None:
            await asyncio.to_thread(child.stop, self._process)
        self._lose(EngineDied("the runtime was shut down"))
        self._context.destroy(linger=0)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def _supervise(self) -> None:
        while not self._closing:
            process = self._process
            assert process is not None
            code = await _exit_code(process)
            if self._closing:
                return
            child.stop(process)  # it has ended: this closes its pipes
            self._lose(EngineDied(f"the engine process ended (exit code {code})", hint="it is being restarted; retry"))
            self.restarts += 1
            try:
                await self._launch()
                self.failure = None
            except LatticeworkError as error:
                self.failure = error
                await asyncio.sleep(RESTART_SECONDS)

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            self._send(Ping())

    def _lose(self, error: LatticeworkError) -> None:
        """Forgets the engine and everything it knew."""
        self.ready.clear()
        if self._socket is not None:
            self._reader.cancel()
            self._socket.close(linger=0)
            self._socket = None
        lost, self._open = self._open, {}
        for request, on_event in lost.values():
            on_event(failure_event(request, error))

    # ------------------------------------------------------------ requests

    def number(self) -> int:
        """A fresh id for a request, lease or group of this front."""
        return next(self._numbers)

    def define(self, key: str, rules: bytes) -> None:
        """Remembers a compiled constraint; the engine is told before the first request that needs it."""
        self._defined[key] = rules

    def submit(self, request: Request, on_event: OnEvent) -> None:
        """Sends a request. Every key its chain names must be defined."""
        if self._socket is None:
            reason = self.failure or EngineDied("the engine is restarting", hint="retry in a few seconds")
            on_event(failure_event(request, reason))
            return
        self._open[request.id] = (request, on_event)
        for segment in request.chain:
            if isinstance(segment, GenSegment) and segment.constraint is not None:
                self._tell(segment.constraint)
        if not self._send(Submit(request)):
            del self._open[request.id]
            on_event(failure_event(request, Busy("the engine's queue is full", hint="retry later")))

    def cancel(self, request_id: int) -> None:
        if request_id in self._open:
            self._send(Cancel(request_id))

    def release(self, leases: tuple[int, ...]) -> None:
        self._send(Release(leases))

    def flush_cache(self) -> None:
        self._send(FlushCache())

    @property
    def open_requests(self) -> int:
        return len(self._open)

    def _tell(self, key: str) -> None:
        if key not in self._told:
            self._told.add(key)
            self._send(Define(key, self._defined[key]))

    def _send(self, message: ToEngine) -> bool:
        if self._socket is None:
            return False
        sent: Any = self._socket.send(encode(message))
        if sent.done():
            return sent.exception() is None
        sent.cancel()  # the queue is full
        return False

    async def _read(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            frame = await socket.recv()
            try:
                message = self._decoder.decode(frame)
            except BadFrame:
                self.bad_frames += 1
                continue
            match message:
                case TokenEvents(events):
                    for event in events:
                        self._deliver(event)
                case UnknownKey(key, request_id):
                    self._told.discard(key)
                    if request_id in self._open:
                        request, on_event = self._open.pop(request_id)
                        self.submit(request, on_event)
                case EngineReady():
                    self.greeting = message
                    self.ready.set()
                case EngineStats():
                    self.stats = message

    def _deliver(self, event: TokenEvent) -> None:
        entry = self._open.get(event.request)
        if entry is None:
            return
        if event.final:
            del self._open[event.request]
        entry[1](event)


def failure_event(request: Request, error: LatticeworkError) -> TokenEvent:
    """The final event of a request that the engine will not answer."""
    return TokenEvent(request.id, 0, end="error", error=error.to_data(), final=True)


async def _exit_code(process: subprocess.Popen[bytes]) -> int:
    """Waits for a process in a thread of its own, so that its end is noticed at once."""
    return await asyncio.get_running_loop().run_in_executor(None, process.wait)
