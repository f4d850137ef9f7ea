"""The front's side of the engine: starts it, keeps it alive, and routes its events to whoever asked.

    _supervise  waits for the process to end, fails what was open, starts another
    _read       decodes frames and calls back
    _heartbeat  pings; kills an engine that has said nothing for too long while something was open

Nothing that one message or one callback does wrong ends these tasks.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

import zmq
import zmq.asyncio

from latticework.lang.errors import Busy, ConnectionLost, EngineDied, LatticeworkError, RuntimeFailure
from latticework.runtime.config import EngineConfig, ServerConfig
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
from latticework.runtime.meter import Meter, Timing
from latticework.runtime.request import Request, TokenEvent

GREETING_SECONDS = 30.0  # from "loaded" to the first answer on the socket
RESTART_SECONDS = (0.1, 30.0)  # between two attempts to start an engine: at first, at most
KEYS_TOLD = 100_000  # constraint keys remembered as known to the engine
FRAMES_TOGETHER = 256  # at most, in one message
DEFINITIONS = 3  # times that one request's constraints are sent before it is given up

log = logging.getLogger(__name__)

OnEvent = Callable[[TokenEvent], None]
Rules = Mapping[str, bytes]
"""Compiled constraints by key, for the gens of one request."""


@dataclass(slots=True)
class _Call:
    request: Request
    rules: Rules
    on_event: OnEvent
    timing: Timing
    definitions: int = field(default=0)
    cancelled: bool = field(default=False)


class EngineLink:
    """Owns the engine process and the socket to it.

    `submit` calls back with every TokenEvent of the request, in order, from the event loop; exactly one is final,
    whatever happens to the engine. generation: counts the engines; leases do not outlive theirs.
    """

    def __init__(
        self,
        config: EngineConfig,
        address: str,
        log_file: IO[bytes] | None = None,
        hang_seconds: float = ServerConfig().hang_seconds,
    ) -> None:
        """hang_seconds: an engine with open requests that says nothing for longer is killed."""
        self.config = config
        self.address = address
        self.ready = asyncio.Event()
        self.greeting: EngineReady | None = None
        self.stats = EngineStats()
        self.generation = 0
        self.bad_frames = 0
        self.meter = Meter()
        self._log_file = log_file
        self._hang_seconds = hang_seconds
        self._failure: LatticeworkError | None = None
        self._numbers = itertools.count(1)
        self._open: dict[int, _Call] = {}
        self._told: set[str] = set()
        self._leaving: list[tuple[int | None, bytes]] = []  # frames, with the requests they submit
        self._decoder = Decoder(FromEngine)
        self._context = zmq.asyncio.Context()
        self._socket: zmq.asyncio.Socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._exit: asyncio.Future[int] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._last_heard = 0.0
        self._closing = False

    # ------------------------------------------------------------ life

    async def start(self, progress: Callable[[float], None] | None = None) -> None:
        """Starts the engine and waits until its model is loaded. Raises what the engine reports."""
        await self._launch(progress)
        self._tasks = [asyncio.create_task(self._supervise()), asyncio.create_task(self._heartbeat())]

    async def _launch(self, progress: Callable[[float], None] | None = None) -> None:
        settings = EngineSettings(self.config, self.address)
        process = child.spawn("latticework.runtime.link.engine_worker", settings, self._log_file, is_apart=False)
        self._process = process
        await asyncio.to_thread(child.await_ready, process, progress)
        self._exit = asyncio.get_running_loop().run_in_executor(None, process.wait)
        self.generation += 1
        self._told.clear()
        self._socket = self._context.socket(zmq.DEALER)
        configure(self._socket)
        self._socket.connect(self.address)
        self._reader = asyncio.create_task(self._read(self._socket))
        self._send(Ping())
        greeted = asyncio.ensure_future(self.ready.wait())
        either: set[asyncio.Future[Any]] = {greeted, self._exit}
        await asyncio.wait(either, timeout=GREETING_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        greeted.cancel()
        if not self.ready.is_set():
            raise EngineDied("the engine loaded its model but does not answer")

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

    @property
    def restarts(self) -> int:
        return max(0, self.generation - 1)

    async def available(self, timeout: float) -> None:
        """Waits while the engine restarts. Raises EngineDied, or what keeps it from starting."""
        if self.ready.is_set():
            return
        waiter = asyncio.ensure_future(self.ready.wait())
        try:
            await asyncio.wait({waiter}, timeout=timeout)  # wait_for can lose a cancellation
        finally:
            waiter.cancel()
        if not self.ready.is_set():
            raise self._failure or EngineDied("the engine is restarting", hint="retry in a few seconds")

    async def _supervise(self) -> None:
        while True:
            assert self._exit is not None
            code = await self._exit
            await self._bury(EngineDied(f"the engine process ended (exit code {code})", hint="it is restarted; retry"))
            pause, longest = RESTART_SECONDS
            while not await self._relaunched():
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)

    async def _relaunched(self) -> bool:
        try:
            await self._launch()
        except Exception as error:  # it is tried again; meanwhile this is what requests are told
            log.exception("the engine does not start")
            if not isinstance(error, LatticeworkError):
                error = RuntimeFailure(f"the engine does not start: {error}")
            self._failure = error
            await self._bury(error)
            return False
        self._failure = None
        return True

    async def _bury(self, error: LatticeworkError) -> None:
        self._lose(error)
        if self._process is not None:
            await asyncio.to_thread(child.stop, self._process)

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            self._send(Ping())
            silent = time.monotonic() - self._last_heard
            if self._open and self.ready.is_set() and silent > self._hang_seconds and self._process is not None:
                log.error("the engine has said nothing for %.0f seconds: killed", silent)
                self._process.kill()

    def _lose(self, error: LatticeworkError) -> None:
        """Forgets the engine and everything it knew."""
        self.ready.clear()
        self.stats = EngineStats()
        if self._reader is not None:
            self._reader.cancel()
        if self._socket is not None:
            self._socket.close(linger=0)
            self._socket = None
        self._leaving.clear()
        self._fail_open(error)

    def _fail_open(self, error: LatticeworkError) -> None:
        lost, self._open = self._open, {}
        for call in lost.values():
            self._call_back(call, failure_event(call.request, error))

    # ------------------------------------------------------------ requests

    def number(self) -> int:
        """A fresh id for a request, lease or group of this front."""
        return next(self._numbers)

    def submit(self, request: Request, rules: Rules, on_event: OnEvent) -> None:
        """Sends a request. rules: the compiled constraint behind every key its chain names."""
        call = _Call(request, rules, on_event, self.meter.begin())
        if self._socket is None:
            reason = self._failure or EngineDied("the engine is restarting", hint="retry in a few seconds")
            self._call_back(call, failure_event(request, reason))
            return
        self._open[request.id] = call
        try:
            self._define_and_send(call)
        except Exception as error:  # what does not fit a message
            log.exception("request %s could not be sent", request.id)
            self._give_up(call, RuntimeFailure(f"internal error: {type(error).__name__}: {error}"))

    def _define_and_send(self, call: _Call) -> None:
        call.definitions += 1
        for key, rules in call.rules.items():
            if key not in self._told:
                if len(self._told) >= KEYS_TOLD:
                    self._told.clear()
                self._told.add(key)
                self._send(Define(key, rules))
        self._send(Submit(call.request))

    def _give_up(self, call: _Call, error: LatticeworkError) -> None:
        self._open.pop(call.request.id, None)
        self._call_back(call, failure_event(call.request, error))

    def cancel(self, request_id: int) -> None:
        call = self._open.get(request_id)
        if call is not None:
            call.cancelled = True
            self._send(Cancel(request_id))

    def release(self, lease: int, generation: int) -> None:
        """Gives a lease of that generation back."""
        if generation == self.generation:
            self._send(Release((lease,)))

    def flush_cache(self) -> None:
        """The engine forgets whatever nothing holds."""
        self._told.clear()
        self._send(FlushCache())

    @property
    def open_requests(self) -> int:
        return len(self._open)

    def _send(self, message: ToEngine) -> None:
        """What a turn of the event loop and the tasks it begins send leaves as one message, in order: so siblings come
        into the engine's next step together."""
        if self._socket is None:
            return
        self._leaving.append((message.request.id if isinstance(message, Submit) else None, encode(message)))
        if len(self._leaving) == 1:
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._flush)  # behind the tasks
        elif len(self._leaving) == FRAMES_TOGETHER:
            self._flush()

    def _flush(self) -> None:
        leaving, self._leaving = self._leaving, []
        if not leaving or self._socket is None:
            return
        sent: Any = self._socket.send_multipart([frame for _, frame in leaving])
        if sent.done() and sent.exception() is None:
            return
        sent.cancel()  # the queue is full
        for number, _ in leaving:
            if number is not None and number in self._open:
                self._give_up(self._open[number], Busy("the engine's queue is full", hint="retry later"))

    # ------------------------------------------------------------ events

    async def _read(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            frame = await socket.recv()
            self._last_heard = time.monotonic()
            try:
                self._hear(self._decoder.decode(frame))
            except BadFrame:
                self.bad_frames += 1
            except Exception:
                log.exception("a message of the engine could not be acted on")

    def _hear(self, message: object) -> None:
        match message:
            case TokenEvents(events):
                for event in events:
                    self._deliver(event)
            case UnknownKey(key, request_id):
                self._define_again(key, request_id)
            case EngineReady():
                self._greet(message)
            case EngineStats():
                self.stats = message

    def _greet(self, greeting: EngineReady) -> None:
        """The first greeting: the engine is there. Another: it had given us up, and everything of ours with it."""
        if self.ready.is_set():
            self.generation += 1
            self._told.clear()
            self._leaving.clear()
            self._fail_open(ConnectionLost("the engine had given this front up as silent", hint="retry"))
        self.greeting = greeting
        self.ready.set()

    def _define_again(self, key: str, request_id: int) -> None:
        self._told.discard(key)
        call = self._open.get(request_id)
        if call is None:
            return
        if call.cancelled:  # the engine had not started it, and was told of its end in vain
            del self._open[request_id]
            self._call_back(call, TokenEvent(request_id, 0, end="cancelled", complete=False, final=True))
        elif call.definitions < DEFINITIONS:
            self._define_and_send(call)
        else:
            self._give_up(call, RuntimeFailure("the engine cannot keep this request's constraints"))

    def _deliver(self, event: TokenEvent) -> None:
        call = self._open.get(event.request)
        if call is None:
            return
        if event.final:
            del self._open[event.request]
        self._call_back(call, event)

    def _call_back(self, call: _Call, event: TokenEvent) -> None:
        try:
            self.meter.hear(call.request, call.timing, event)
            call.on_event(event)
        except Exception:
            log.exception("an event of request %s could not be handled", event.request)
            self.cancel(event.request)


def failure_event(request: Request, error: LatticeworkError) -> TokenEvent:
    """The final event of a request that the engine will not answer."""
    return TokenEvent(request.id, 0, end="error", error=error.to_data(), final=True)
