"""Serves programs to clients over one ROUTER socket: the front's side of the client link."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import zmq
import zmq.asyncio

from latticework.lang.errors import Busy, ConnectionLost, InvalidArgument, LatticeworkError, QuotaExceeded
from latticework.lang.events import Event
from latticework.runtime.link.messages import (
    HEARTBEAT_SECONDS,
    PROTOCOL,
    SILENCE_SECONDS,
    Append,
    AskFlush,
    AskStats,
    BadFrame,
    Close,
    Closed,
    Decoder,
    FrontStats,
    Generate,
    Hello,
    Open,
    Ping,
    Rejected,
    RunEvents,
    ToClient,
    ToFront,
    Welcome,
    encode,
)
from latticework.runtime.link.sockets import bind, configure
from latticework.runtime.programs.front import Front
from latticework.runtime.programs.run import Run
from latticework.runtime.programs.single import SingleRun

MAX_CLIENT_BYTES = 256 << 20  # of the messages that made a connection's open runs
log = logging.getLogger(__name__)


class _Client:
    """One connection: its runs, and the events that wait for the end of this turn of the loop."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.last_seen = time.monotonic()
        self.runs: dict[int, Run | SingleRun] = {}
        self.sizes: dict[int, int] = {}  # bytes received for each
        self.held = 0  # their sum
        self.outbox: dict[int, list[Event]] = {}


class FrontServer:
    """Owns the socket and every client's runs. A client that falls silent loses its runs."""

    def __init__(self, front: Front, address: str, max_open: int) -> None:
        self.front = front
        self.address = address
        self.max_open = max_open
        self.closed = False  # to new runs
        self.bad_frames = 0
        self._clients: dict[bytes, _Client] = {}
        self._decoder = Decoder(ToFront)
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        configure(self._socket)
        bind(self._socket, address)
        self._closing: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to serve, on the running loop."""
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._keep_alive())]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for identity in list(self._clients):
            self._drop(identity)
        await asyncio.gather(*self._closing, return_exceptions=True)
        self._context.destroy(linger=200)

    @property
    def open_runs(self) -> int:
        return sum(len(client.runs) for client in self._clients.values())

    # ------------------------------------------------------------ in

    async def _read(self) -> None:
        while True:
            frames = await self._socket.recv_multipart()
            try:
                if len(frames) != 2:
                    raise BadFrame(f"{len(frames)} frames")
                self._hear(frames[0], self._decoder.decode(frames[1]), len(frames[1]))
            except BadFrame:
                self.bad_frames += 1
                self.front.link.meter.bad_frames += 1
            except Exception:
                log.exception("a client's message could not be acted on")

    def _hear(self, identity: bytes, message: object, size: int) -> None:
        """A message of `size` bytes. Whoever did not say Hello is a stranger: new, or dropped before. It is told, and
        has to begin anew."""
        if isinstance(message, Hello):
            self._clients.setdefault(identity, _Client(message.tenant))
        client = self._clients.get(identity)
        if client is None:
            error = ConnectionLost("the runtime does not know this connection: it was silent too long, or restarted")
            self._put(identity, Rejected(error.to_data()))
            return
        client.last_seen = time.monotonic()
        self._act(identity, client, message, size)

    def _act(self, identity: bytes, client: _Client, message: object, size: int) -> None:
        match message:
            case Hello(protocol=protocol):
                self._greet(identity, protocol)
            case Open() | Generate():
                self._open(identity, client, message, size)
            case Append(run):
                if run in client.runs:
                    self._append(identity, client, message, size)
            case Close(run):
                if run in client.runs:
                    self._close(identity, client, run)
            case AskStats():
                self._send(identity, self._stats())
            case AskFlush():
                self.front.flush_caches()

    def _stats(self) -> FrontStats:
        link = self.front.link
        return FrontStats(
            len(self._clients), self.open_runs, link.open_requests, self.bad_frames, link.restarts, link.stats
        )

    def _greet(self, identity: bytes, protocol: int) -> None:
        if protocol == PROTOCOL:
            front = self.front
            self._send(identity, Welcome(PROTOCOL, front.card.name, front.context, front.dtype))
            return
        error = InvalidArgument(
            f"the client speaks link protocol {protocol}, this runtime {PROTOCOL}",
            hint="install the same version of latticework on both sides",
        )
        self._send(identity, Rejected(error.to_data()))

    def _refusal(self, client: _Client, message: Open | Generate, size: int) -> LatticeworkError | None:
        """Why a run cannot be opened."""
        if self.closed or self.open_runs >= self.max_open:
            reason = "the server is shutting down" if self.closed else f"{self.max_open} programs are open already"
            return Busy(reason, hint="retry later, or raise --max-open")
        if message.run in client.runs:
            return InvalidArgument(f"run {message.run} is open already", field="run")
        each = self.front.server.max_open_each
        if len(client.runs) >= each:
            return QuotaExceeded(
                f"{each} programs of this connection are open already", hint="retry later, or raise --max-open-each"
            )
        return self._too_much(client, size)

    def _too_much(self, client: _Client, size: int) -> LatticeworkError | None:
        if client.held + size <= MAX_CLIENT_BYTES:
            return None
        return QuotaExceeded(
            f"the programs of this connection hold {client.held} bytes; {size} more would exceed {MAX_CLIENT_BYTES}",
            hint="retry when some have ended",
        )

    def _append(self, identity: bytes, client: _Client, message: Append, size: int) -> None:
        refusal = self._too_much(client, size)
        if refusal is not None:
            self._send(identity, Rejected(refusal.to_data(), message.run))
            self._close(identity, client, message.run)
            return
        client.sizes[message.run] += size
        client.held += size
        client.runs[message.run].append(message.branch, message.first, message.ops)

    def _open(self, identity: bytes, client: _Client, message: Open | Generate, size: int) -> None:
        refusal = self._refusal(client, message, size)
        if refusal is not None:
            self._send(identity, Rejected(refusal.to_data(), message.run))
            return
        client.sizes[message.run] = size
        client.held += size

        def emit(event: Event) -> None:
            if not client.outbox:
                asyncio.get_running_loop().call_soon(self._flush, identity, client)
            client.outbox.setdefault(message.run, []).append(event)

        if isinstance(message, Generate):
            client.runs[message.run] = SingleRun(
                self.front, message.prompt, message.gen, emit, client.tenant, message.timeout
            )
        else:
            client.runs[message.run] = Run(
                self.front, message.sampling, message.seed, message.item, emit, client.tenant, message.timeout
            )

    def _close(self, identity: bytes, client: _Client, number: int) -> None:
        run = client.runs.pop(number)
        client.held -= client.sizes.pop(number)

        async def close() -> None:
            await run.close()
            self._flush(identity, client)
            self._send(identity, Closed(number, run.usage))

        task = asyncio.create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    # ------------------------------------------------------------ out

    def _flush(self, identity: bytes, client: _Client) -> None:
        """One message per run with everything that happened to it in this turn of the loop."""
        outbox, client.outbox = client.outbox, {}
        for run, events in outbox.items():
            self._send(identity, RunEvents(run, tuple(events)))

    def _send(self, identity: bytes, message: ToClient) -> None:
        if identity in self._clients and not self._put(identity, message):
            self._drop(identity)  # unreachable, or further behind than its queue is long

    def _put(self, identity: bytes, message: ToClient) -> bool:
        sent: Any = self._socket.send_multipart([identity, encode(message)])
        if not sent.done():
            sent.cancel()
            return False
        return sent.exception() is None

    def _drop(self, identity: bytes) -> None:
        client = self._clients.pop(identity, None)
        if client is None:
            return
        for number in list(client.runs):
            self._close(identity, client, number)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            now = time.monotonic()
            for identity, client in list(self._clients.items()):
                if now - client.last_seen > SILENCE_SECONDS:
                    self._drop(identity)
                else:
                    self._send(identity, Ping())
