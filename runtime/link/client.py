"""The client's side of the link to a front: one thread, one wire, any number of runs.

Other threads hand it messages; it calls their listeners. It knows no torch, no tokenizer and no program.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from latticework.lang.errors import (
    ConnectionLost,
    ErrorData,
    InvalidArgument,
    LatticeworkError,
    RuntimeFailure,
    from_data,
)
from latticework.lang.events import Event, Failed
from latticework.lang.ir import Gen, Op, Sampling
from latticework.runtime.link.messages import (
    HEARTBEAT_SECONDS,
    MAX_FRAME_BYTES,
    SILENCE_SECONDS,
    TENANT,
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
    Prompt,
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
from latticework.runtime.link.sockets import check_address
from latticework.runtime.link.wire import OpenWire, Wire, ZmqWire

Listener = Callable[[Event], None]
CONNECT_SECONDS = 10.0
REGISTRATIONS = 5  # of a program for one run, until it is given up
REMEMBERED_PROGRAMS = 10_000
log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Called:
    """A run of a stored program: how to call it again where the front has forgotten the program."""

    hash: str
    program: bytes
    frame: bytes
    registrations: int = 1


class Client:
    """A connection to a front. Owns the wire and its thread; `close` ends both.

    alive: asked now and then whether the front's process still runs, where the caller can know. tenant: for whom it
    asks. wire: how to get there, where `address` is no ZMQ address. Raises ConnectionLost when nobody answers within
    `timeout` seconds (10), InvalidArgument for a wrong address or tenant.
    """

    def __init__(
        self,
        address: str,
        alive: Callable[[], bool] = lambda: True,
        timeout: float | None = None,
        tenant: str = "",
        wire: OpenWire | None = None,
    ) -> None:
        self.address = address if wire is not None else check_address(address)
        if not isinstance(tenant, str) or not re.fullmatch(TENANT, tenant):
            raise InvalidArgument(
                f"tenant is {tenant!r}; expected up to 64 letters, digits, dots, dashes or underscores", field="tenant"
            )
        self.welcome: Welcome | None = None
        self.pid = os.getpid()
        self._alive = alive
        self._open_wire: OpenWire = wire or (lambda _: ZmqWire(address))
        self._longest = MAX_FRAME_BYTES
        self._numbers = itertools.count(1)
        self._listeners: dict[int, Listener] = {}
        self._called: dict[int, _Called] = {}
        self._registered: set[str] = set()
        self._bounds: dict[str, tuple[threading.Event, list[tuple[int, int, int]]]] = {}
        self._outbox: deque[bytes] = deque()
        self._lost: ErrorData | None = None
        self._connected = threading.Event()
        self._stats: FrontStats | None = None
        self._stats_heard = threading.Event()
        self._stop = False
        self._lock = threading.Lock()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_write.setblocking(False)
        if wire is None:
            self._say(Hello(tenant=tenant))
        self._thread = threading.Thread(target=self._serve, name="latticework-link", daemon=True)
        self._thread.start()
        if not self._connected.wait(CONNECT_SECONDS if timeout is None else timeout):
            self.close()
            raise ConnectionLost(f"nobody answers at {address}", hint="is `latticework serve` running there?")
        if self._lost is not None:
            self.close()
            raise from_data(self._lost)

    # ------------------------------------------------------------ any thread

    def open(
        self,
        sampling: Sampling,
        seed: int,
        item: int,
        listener: Listener,
        timeout: float | None = None,
        *,
        priority: int = 0,
        max_total_tokens: int | None = None,
    ) -> int:
        """Starts a run, which ends after `timeout` seconds; returns its number. Raises ConnectionLost."""
        number = next(self._numbers)
        message = Open(number, sampling, seed, item, _bounded(timeout), priority, max_total_tokens)
        return self._begin(number, message, listener)

    def generate(self, prompt: Prompt, gen: Gen, listener: Listener, timeout: float | None = None) -> int:
        """Starts a run of one gen, whose sampling is seeded; returns its number. Raises ConnectionLost, and
        InvalidArgument for a prompt that no message can hold."""
        number = next(self._numbers)
        return self._begin(number, Generate(number, prompt, gen, _bounded(timeout)), listener)

    def call(
        self,
        hash: str,
        program: bytes,
        arguments: dict[str, str],
        sampling: Sampling,
        seed: int,
        listener: Listener,
        *,
        item: int = 0,
        timeout: float | None = None,
        priority: int = 0,
        max_total_tokens: int | None = None,
        chunks: bool = True,
    ) -> int:
        """Starts a run of a whole program, which is sent along the first time; returns its number. Raises
        ConnectionLost, and InvalidArgument for what no message can hold."""
        number = next(self._numbers)
        seconds = _bounded(timeout)
        message = Call(number, hash, arguments, sampling, seed, item, seconds, priority, max_total_tokens, chunks)
        return self._begin_stored(number, message, program, listener)

    def warm(self, hash: str, program: bytes, listener: Listener) -> int:
        """Starts a run that holds what all calls of the program begin with; returns its number."""
        number = next(self._numbers)
        return self._begin_stored(number, Warm(number, hash), program, listener)

    def bounds(self, hash: str, program: bytes, timeout: float) -> list[tuple[int, int, int]]:
        """Branch, position and longest output of each gen whose constraint has one. Raises ConnectionLost."""
        heard = self._bounds.setdefault(hash, (threading.Event(), []))
        self._register(hash, program)
        self._say(AskBounds(hash))
        if not heard[0].wait(timeout):
            raise ConnectionLost("the runtime did not answer")
        self._bounds.pop(hash, None)
        return heard[1]

    def _begin_stored(self, number: int, message: Call | Warm, program: bytes, listener: Listener) -> int:
        self._called[number] = _Called(message.hash, program, _frame(message))
        try:
            self._register(message.hash, program)
            return self._begin(number, message, listener)
        except BaseException:
            self._called.pop(number, None)
            raise

    def _register(self, hash: str, program: bytes) -> None:
        """Sends the program, where this connection has not yet."""
        if hash in self._registered:
            return
        frame = _frame(Register(hash, program))
        if len(self._registered) >= REMEMBERED_PROGRAMS:
            self._registered.clear()
        self._registered.add(hash)
        self._post(frame)

    def _begin(self, number: int, message: Open | Generate | Call | Warm, listener: Listener) -> int:
        frame = _frame(message)
        with self._lock:
            if self._lost is not None:
                raise from_data(self._lost)
            self._listeners[number] = listener
        try:
            self._post(frame)
        except InvalidArgument:
            self._listeners.pop(number, None)
            raise
        return number

    def append(self, run: int, branch: int, first: int, ops: Sequence[Op]) -> None:
        self._say(Append(run, branch, first, tuple(ops)))

    def end(self, run: int) -> None:
        """Asks the front to close a run; the listener hears what was left."""
        self._say(Close(run))

    def stats(self, timeout: float = 5.0) -> FrontStats:
        """Counters of the front and its engine. Raises ConnectionLost when no answer comes in time."""
        self._stats_heard.clear()
        self._say(AskStats())
        if not self._stats_heard.wait(timeout) or self._stats is None:
            raise ConnectionLost("the runtime did not answer")
        return self._stats

    def flush_cache(self) -> None:
        """Asks the runtime to forget every prefix and every compiled constraint that nothing holds."""
        self._say(AskFlush())

    def close(self) -> None:
        """Ends the connection. Runs that are open get Failed(ConnectionLost). Idempotent."""
        self._stop = True
        self._wake()
        if threading.current_thread() is not self._thread and self.pid == os.getpid():
            self._thread.join(5.0)

    @property
    def lost(self) -> bool:
        """Whether the connection has ended, or belongs to the process that this one was forked from."""
        return self._lost is not None or self._stop or self.pid != os.getpid()

    def _say(self, message: ToFront) -> None:
        self._post(_frame(message))

    def _post(self, frame: bytes) -> None:
        if len(frame) > self._longest:
            raise _too_long(frame, self._longest)
        self._outbox.append(frame)
        self._wake()

    def _wake(self) -> None:
        try:
            self._wake_write.send(b".")
        except (BlockingIOError, OSError):  # full: it is awake anyway; closed: there is nobody to wake
            return

    # ------------------------------------------------------------ the thread

    def _serve(self) -> None:
        wire: Wire | None = None
        try:
            wire = self._open_wire(self._wake)
            self._longest = min(self._longest, wire.longest)
            self._talk(wire)
        except LatticeworkError as error:
            self._fail(error.to_data())
        except Exception as error:
            log.exception("the link to %s failed", self.address)
            self._fail(ConnectionLost(f"the link failed: {type(error).__name__}: {error}").to_data())
        finally:
            if wire is not None:
                wire.close()
            self._wake_read.close()
            self._wake_write.close()

    def _talk(self, wire: Wire) -> None:
        decoder = Decoder(ToClient)
        last_heard = last_said = time.monotonic()
        self._wake_read.setblocking(False)
        while not self._stop:
            wire.wait(self._wake_read, HEARTBEAT_SECONDS)
            now = time.monotonic()
            with contextlib.suppress(BlockingIOError):
                self._wake_read.recv(65536)
            if self._receive(wire, decoder):
                last_heard = now
            if now - last_said >= HEARTBEAT_SECONDS:
                self._outbox.append(encode(Ping()))
            if self._speak(wire):
                last_said = now
            if self.welcome is not None and now - last_heard > SILENCE_SECONDS:
                raise ConnectionLost(f"the runtime has said nothing for {SILENCE_SECONDS:.0f} seconds")
            if not self._alive():
                raise ConnectionLost("the runtime's process has ended", hint="the next run starts another")
        self._fail(ConnectionLost("the connection was closed").to_data())

    def _speak(self, wire: Wire) -> bool:
        """Sends what waits, as far as there is room; the rest goes with the next turn."""
        said = False
        while self._outbox and wire.send(self._outbox[0]):
            self._outbox.popleft()
            said = True
        return said

    def _receive(self, wire: Wire, decoder: Decoder) -> bool:
        """Whether anything was heard."""
        heard = False
        while (frame := wire.receive()) is not None:
            try:
                message = decoder.decode(frame)
            except BadFrame as error:
                raise ConnectionLost(f"the runtime sent something unreadable: {error}") from None
            heard = True
            self._hear(message)
        return heard

    def _hear(self, message: object) -> None:
        match message:
            case RunEvents(run, events):
                listener = self._listeners.get(run)
                if listener is not None:
                    for event in events:
                        listener(event)
            case Closed(run):
                self._listeners.pop(run, None)
                self._called.pop(run, None)
            case Unknown(run, _):
                self._call_again(run)
            case Refused(hash, error):
                self._refuse(hash, error)
            case Bounds(hash, gens):
                if hash in self._bounds:
                    heard, found = self._bounds[hash]
                    found[:] = gens
                    heard.set()
            case Rejected(error, None):
                raise from_data(error)
            case Rejected(error, run) if run is not None:
                self._reject(run, error)
            case FrontStats():
                self._stats = message
                self._stats_heard.set()
            case Welcome():
                self.welcome = message
                self._connected.set()

    def _reject(self, run: int, error: ErrorData) -> None:
        self._called.pop(run, None)
        listener = self._listeners.pop(run, None)
        if listener is not None:
            listener(Failed(0, -1, error))

    def _call_again(self, run: int) -> None:
        """The front has forgotten the program."""
        called = self._called.get(run)
        if called is None:
            return
        called.registrations += 1
        if called.registrations > REGISTRATIONS:
            error = RuntimeFailure("the runtime cannot keep this run's program", hint="retry when it has less to do")
            self._reject(run, error.to_data())
            return
        self._post(_frame(Register(called.hash, called.program)))
        self._post(called.frame)

    def _refuse(self, hash: str, error: ErrorData) -> None:
        self._registered.discard(hash)
        for run, called in list(self._called.items()):
            if called.hash == hash:
                self._reject(run, error)

    def _fail(self, error: ErrorData) -> None:
        with self._lock:
            self._lost = error
            listeners, self._listeners = self._listeners, {}
            self._called.clear()
        for listener in listeners.values():
            listener(Failed(0, -1, error))
        self._connected.set()


def _frame(message: ToFront) -> bytes:
    """Raises InvalidArgument for a message that would cost this client its connection."""
    frame = encode(message)
    if len(frame) > MAX_FRAME_BYTES:
        raise _too_long(frame, MAX_FRAME_BYTES)
    return frame


def _too_long(frame: bytes, longest: int) -> InvalidArgument:
    return InvalidArgument(
        f"{len(frame)} bytes are to be sent at once; at most {longest} can be", field="prompt", hint="shorten the text"
    )


def _bounded(timeout: float | None) -> float | None:
    """Seconds as they travel: none that are longer than anything lasts."""
    return timeout if timeout is not None and timeout < 1e9 else None
