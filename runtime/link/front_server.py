"""Serves programs to clients over one ROUTER socket: the front's side of the client link.

Guests are clients that come another way: whoever brings their frames (server/link_routes.py) knows whose they are.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import zmq
import zmq.asyncio

from latticework.lang.errors import (
    Busy,
    ConnectionLost,
    InvalidArgument,
    LatticeworkError,
    QuotaExceeded,
    RuntimeFailure,
)
from latticework.lang.events import Event, Failed, Spent
from latticework.runtime.link.messages import (
    HEARTBEAT_SECONDS,
    PROTOCOL,
    SILENCE_SECONDS,
    Append,
    AskBounds,
    AskFlush,
    AskStats,
    BadFrame,
    Bounds,
    Call,
    Close,
    Closed,
    Decoder,
    FrontStats,
    Generate,
    Hello,
    Open,
    Ping,
    Refused,
    Register,
    Rejected,
    RunEvents,
    ToClient,
    ToFront,
    Unknown,
    Warm,
    Welcome,
    encode,
)
from latticework.runtime.link.sockets import HIGH_WATER_MARK, bind, configure
from latticework.runtime.programs.front import Front
from latticework.runtime.programs.run import Run
from latticework.runtime.programs.single import SingleRun
from latticework.runtime.programs.stored import Stored
from latticework.runtime.programs.warm import WarmRun

MAX_GUESTS = 1024
MAX_ASKING = 64  # programs of a connection whose bounds are being found
MAX_CLIENT_BYTES = 256 << 20  # of the messages that made a connection's open runs
log = logging.getLogger(__name__)


class _Client:
    """One connection: its runs, and the events that wait for the end of this turn of the loop."""

    def __init__(self, tenant: str, guest: bool = False) -> None:
        self.tenant = tenant
        self.guest = guest
        self.last_seen = time.monotonic()
        self.runs: dict[int, Run | SingleRun | WarmRun] = {}
        self.sizes: dict[int, int] = {}  # bytes received for each
        self.held = 0  # their sum
        self.outbox: dict[int, list[Event]] = {}
        self.asking: set[str] = set()  # programs whose bounds are being found


class Guest:
    """A client without a socket of ours, on behalf of `tenant`: frames for it wait until they are fetched."""

    def __init__(self, tenant: str) -> None:
        self.identity = secrets.token_urlsafe(24).encode()  # nobody else can name it
        self.tenant = tenant
        self.gone = False
        self._frames: list[bytes] = []
        self._size = 0
        self._more = asyncio.Event()

    def put(self, frame: bytes) -> bool:
        """False: it is too far behind."""
        if self.gone or len(self._frames) >= HIGH_WATER_MARK or self._size > MAX_CLIENT_BYTES:
            return False
        self._frames.append(frame)
        self._size += len(frame)
        self._more.set()
        return True

    async def fetch(self) -> list[bytes]:
        """All frames that wait, once there are any; none when the guest is to go."""
        await self._more.wait()
        frames, self._frames, self._size = self._frames, [], 0
        if not self.gone:
            self._more.clear()
        return frames

    def dismiss(self) -> None:
        """Nothing more will come."""
        self.gone = True
        self._more.set()


class FrontServer:
    """Owns the socket and every client's runs. A client that falls silent loses its runs."""

    def __init__(self, front: Front, address: str, max_open: int) -> None:
        self.front = front
        self.address = address
        self.max_open = max_open
        self.closed = False  # to new runs
        self.bad_frames = 0
        self._clients: dict[bytes, _Client] = {}
        self._guests: dict[bytes, Guest] = {}
        self._decoder = Decoder(ToFront)
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        configure(self._socket)
        bind(self._socket, address)
        self._closing: set[asyncio.Task[None]] = set()
        self._working: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to serve, on the running loop."""
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._keep_alive())]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self.dismiss_guests()
        for identity in list(self._clients):
            self._drop(identity)
        await asyncio.gather(*self._closing, return_exceptions=True)
        for task in list(self._working):
            task.cancel()
        self._context.destroy(linger=200)

    @property
    def open_runs(self) -> int:
        return sum(len(client.runs) for client in self._clients.values())

    # ------------------------------------------------------------ guests

    def admit(self, tenant: str) -> Guest:
        """A new guest, whose frames go to `hear`. Raises Busy or QuotaExceeded."""
        if self.closed:
            raise Busy("the server is shutting down", hint="retry later, or elsewhere")
        if len(self._guests) >= MAX_GUESTS:
            raise Busy(f"{MAX_GUESTS} connections are open already", hint="retry later")
        each = self.front.server.max_open_each
        if tenant and sum(guest.tenant == tenant for guest in self._guests.values()) >= each:
            raise QuotaExceeded(f"{each} connections of this key's tenant are open already", hint="close some")
        guest = Guest(tenant)
        self._guests[guest.identity] = guest
        return guest

    def guest(self, identity: bytes, tenant: str) -> Guest | None:
        """The tenant's guest of that name, while it is here."""
        guest = self._guests.get(identity)
        return guest if guest is not None and guest.tenant == tenant and not guest.gone else None

    def hear(self, guest: Guest, frame: bytes | memoryview) -> None:
        """A frame of a guest. Raises BadFrame."""
        try:
            message = self._decoder.decode(frame)
        except BadFrame:
            self._count_bad_frame()
            raise
        self._hear(guest.identity, message, len(frame))

    def leave(self, guest: Guest) -> None:
        """The guest has gone: its runs end. Idempotent."""
        self._drop(guest.identity)

    def dismiss_guests(self) -> None:
        for identity in list(self._guests):
            self._drop(identity)

    def _count_bad_frame(self) -> None:
        self.bad_frames += 1
        self.front.link.meter.bad_frames += 1

    def _runs_of_guests(self, tenant: str) -> int:
        return sum(len(one.runs) for one in self._clients.values() if one.guest and one.tenant == tenant)

    # ------------------------------------------------------------ in

    async def _read(self) -> None:
        while True:
            frames = await self._socket.recv_multipart()
            try:
                if len(frames) != 2:
                    raise BadFrame(f"{len(frames)} frames")
                self._hear(frames[0], self._decoder.decode(frames[1]), len(frames[1]))
            except BadFrame:
                self._count_bad_frame()
            except Exception:
                log.exception("a client's message could not be acted on")

    def _hear(self, identity: bytes, message: object, size: int) -> None:
        """A message of `size` bytes. Whoever did not say Hello is a stranger: new, or dropped before. It is told, and
        has to begin anew."""
        guest = self._guests.get(identity)
        if isinstance(message, Hello):
            made = _Client(message.tenant) if guest is None else _Client(guest.tenant, guest=True)
            self._clients.setdefault(identity, made)
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
            case Call() | Warm():
                self._call(identity, client, message, size)
            case Register(name, data):
                self._register(identity, client, name, data)
            case AskBounds(name):
                if name not in client.asking and len(client.asking) < MAX_ASKING:
                    client.asking.add(name)
                    self._spawn(self._tell_bounds(identity, client, name))
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

    def _refusal(self, client: _Client, message: Open | Generate | Call | Warm, size: int) -> LatticeworkError | None:
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
        if client.guest and client.tenant and self._runs_of_guests(client.tenant) >= each:
            return QuotaExceeded(f"{each} programs of this key's tenant are open already", hint="retry later")
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

    def _admit(
        self, identity: bytes, client: _Client, message: Open | Generate | Call | Warm, size: int
    ) -> Callable[[Event], None] | None:
        """Makes room for a run, and says where its events go; None where there is no room, as the client is told."""
        refusal = self._refusal(client, message, size)
        if refusal is not None:
            self._send(identity, Rejected(refusal.to_data(), message.run))
            return None
        client.sizes[message.run] = size
        client.held += size

        def emit(event: Event) -> None:
            if not client.outbox:
                asyncio.get_running_loop().call_soon(self._flush, identity, client)
            told = client.outbox.setdefault(message.run, [])
            told.insert(0 if isinstance(event, Spent) else len(told), event)  # the last Done may end the run

        return emit

    def _open(self, identity: bytes, client: _Client, message: Open | Generate, size: int) -> None:
        emit = self._admit(identity, client, message, size)
        if emit is None:
            return
        if isinstance(message, Generate):
            client.runs[message.run] = SingleRun(
                self.front, message.prompt, message.gen, emit, client.tenant, message.timeout
            )
        else:
            client.runs[message.run] = self._run(client, message, emit)

    def _run(self, client: _Client, message: Open | Call, emit: Callable[[Event], None]) -> Run:
        return Run(
            self.front,
            message.sampling,
            message.seed,
            message.item,
            emit,
            client.tenant,
            message.timeout,
            priority=message.priority,
            max_total_tokens=message.max_total_tokens,
            chunks=isinstance(message, Open) or message.chunks,
        )

    # ------------------------------------------------------------ stored programs

    def _register(self, identity: bytes, client: _Client, name: str, data: bytes) -> None:
        task = self.front.programs.register(client.tenant, name, data)

        def refuse(done: asyncio.Task[Stored]) -> None:
            error = None if done.cancelled() else done.exception()
            if error is None:
                return
            if not isinstance(error, LatticeworkError):
                log.error("a program could not be read", exc_info=error)
                error = RuntimeFailure(f"internal error: {type(error).__name__}: {error}")
            self._send(identity, Refused(name, error.to_data()))

        task.add_done_callback(refuse)

    def _call(self, identity: bytes, client: _Client, message: Call | Warm, size: int) -> None:
        task = self.front.programs.find(client.tenant, message.hash)
        if task is None:
            self._send(identity, Unknown(message.run, message.hash))
            return
        emit = self._admit(identity, client, message, size)
        if emit is None:
            return
        if isinstance(message, Warm):
            client.runs[message.run] = WarmRun(self.front, task, client.tenant)
            return
        run = client.runs[message.run] = self._run(client, message, emit)
        self._spawn(self._execute(identity, client, message, run, task))

    async def _execute(
        self, identity: bytes, client: _Client, message: Call, run: Run, task: asyncio.Task[Stored]
    ) -> None:
        """Runs a stored program, and closes its run when it is over."""
        try:
            await run.execute(await asyncio.shield(task), message.arguments)
        except LatticeworkError as error:  # what was registered is no program
            run.emit(Failed(0, -1, error.to_data()))
        except Exception as error:  # ours: it fails this run, with its name, and nothing else
            log.exception("a stored program failed")
            failure = RuntimeFailure(f"internal error: {type(error).__name__}: {error}")
            run.emit(Failed(0, -1, failure.to_data()))
        if client.runs.get(message.run) is run:
            self._close(identity, client, message.run)

    async def _tell_bounds(self, identity: bytes, client: _Client, name: str) -> None:
        task = self.front.programs.find(client.tenant, name)
        gens: tuple[tuple[int, int, int], ...] = ()
        with suppress(LatticeworkError):  # no program: its client is told
            if task is not None:
                gens = await self.front.bounds_of((await asyncio.shield(task)).program)
        client.asking.discard(name)
        self._send(identity, Bounds(name, gens))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._worked)

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a stored program failed", exc_info=task.exception())

    # ------------------------------------------------------------ the end of a run

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
        guest = self._guests.get(identity)
        if guest is not None:
            return guest.put(encode(message))
        sent: Any = self._socket.send_multipart([identity, encode(message)])
        if not sent.done():
            sent.cancel()
            return False
        return sent.exception() is None

    def _drop(self, identity: bytes) -> None:
        guest = self._guests.pop(identity, None)
        if guest is not None:
            guest.dismiss()
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
