"""The client's side of the link to a front: one thread, one socket, any number of runs.

Other threads hand it messages; it calls their listeners. It knows no torch, no tokenizer and no program.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import zmq

from latticework.lang.errors import ConnectionLost, ErrorData, InvalidArgument, LatticeworkError, from_data
from latticework.lang.events import Event, Failed
from latticework.lang.ir import Gen, Op, Sampling
from latticework.runtime.link.messages import (
    HEARTBEAT_SECONDS,
    MAX_FRAME_BYTES,
    SILENCE_SECONDS,
    TENANT,
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
    Prompt,
    Rejected,
    RunEvents,
    ToClient,
    ToFront,
    Welcome,
    encode,
)
from latticework.runtime.link.sockets import check_address, configure

Listener = Callable[[Event], None]
CONNECT_SECONDS = 10.0
log = logging.getLogger(__name__)


class Client:
    """A connection to a front. Owns the socket and its thread; `close` ends both.

    alive: asked now and then whether the front's process still runs, where the caller can know. tenant: for whom it
    asks. Raises ConnectionLost when nobody answers within `timeout` seconds (10), InvalidArgument for a wrong address
    or tenant.
    """

    def __init__(
        self,
        address: str,
        alive: Callable[[], bool] = lambda: True,
        timeout: float | None = None,
        tenant: str = "",
    ) -> None:
        self.address = check_address(address)
        if not isinstance(tenant, str) or not re.fullmatch(TENANT, tenant):
            raise InvalidArgument(
                f"tenant is {tenant!r}; expected up to 64 letters, digits, dots, dashes or underscores", field="tenant"
            )
        self.welcome: Welcome | None = None
        self.pid = os.getpid()
        self._alive = alive
        self._numbers = itertools.count(1)
        self._listeners: dict[int, Listener] = {}
        self._outbox: deque[bytes] = deque()
        self._lost: ErrorData | None = None
        self._connected = threading.Event()
        self._stats: FrontStats | None = None
        self._stats_heard = threading.Event()
        self._stop = False
        self._lock = threading.Lock()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_write.setblocking(False)
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

    def open(self, sampling: Sampling, seed: int, item: int, listener: Listener, timeout: float | None = None) -> int:
        """Starts a run, which ends after `timeout` seconds; returns its number. Raises ConnectionLost."""
        number = next(self._numbers)
        return self._begin(number, Open(number, sampling, seed, item, _bounded(timeout)), listener)

    def generate(self, prompt: Prompt, gen: Gen, listener: Listener, timeout: float | None = None) -> int:
        """Starts a run of one gen, whose sampling is seeded; returns its number. Raises ConnectionLost, and
        InvalidArgument for a prompt that no message can hold."""
        number = next(self._numbers)
        return self._begin(number, Generate(number, prompt, gen, _bounded(timeout)), listener)

    def _begin(self, number: int, message: Open | Generate, listener: Listener) -> int:
        frame = _frame(message)
        with self._lock:
            if self._lost is not None:
                raise from_data(self._lost)
            self._listeners[number] = listener
        self._post(frame)
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
        self._outbox.append(frame)
        self._wake()

    def _wake(self) -> None:
        try:
            self._wake_write.send(b".")
        except (BlockingIOError, OSError):  # full: it is awake anyway; closed: there is nobody to wake
            return

    # ------------------------------------------------------------ the thread

    def _serve(self) -> None:
        context = zmq.Context()
        link = context.socket(zmq.DEALER)
        try:
            configure(link)
            link.connect(self.address)
            self._talk(link)
        except LatticeworkError as error:
            self._fail(error.to_data())
        except Exception as error:
            log.exception("the link to %s failed", self.address)
            self._fail(ConnectionLost(f"the link failed: {type(error).__name__}: {error}").to_data())
        finally:
            link.close()
            context.term()
            self._wake_read.close()
            self._wake_write.close()

    def _talk(self, link: zmq.Socket[bytes]) -> None:
        decoder = Decoder(ToClient)
        poller = zmq.Poller()
        poller.register(link, zmq.POLLIN)
        poller.register(self._wake_read, zmq.POLLIN)
        last_heard = last_said = time.monotonic()
        while not self._stop:
            ready = dict(poller.poll(int(HEARTBEAT_SECONDS * 1000)))
            now = time.monotonic()
            if self._wake_read.fileno() in ready:
                self._wake_read.recv(65536)
            if link in ready:
                last_heard = now
                self._receive(link, decoder)
            if now - last_said >= HEARTBEAT_SECONDS:
                self._outbox.append(encode(Ping()))
            if self._speak(link):
                last_said = now
            if self.welcome is not None and now - last_heard > SILENCE_SECONDS:
                raise ConnectionLost(f"the runtime has said nothing for {SILENCE_SECONDS:.0f} seconds")
            if not self._alive():
                raise ConnectionLost("the runtime's process has ended", hint="the next run starts another")
        self._fail(ConnectionLost("the connection was closed").to_data())

    def _speak(self, link: zmq.Socket[bytes]) -> bool:
        """Sends what waits, as far as the socket's queue has room; the rest goes with the next turn."""
        said = False
        while self._outbox:
            try:
                link.send(self._outbox[0], zmq.NOBLOCK)
            except zmq.Again:
                break
            self._outbox.popleft()
            said = True
        return said

    def _receive(self, link: zmq.Socket[bytes], decoder: Decoder) -> None:
        while True:
            try:
                message = decoder.decode(link.recv(zmq.NOBLOCK))
            except zmq.Again:
                return
            except BadFrame as error:
                raise ConnectionLost(f"the runtime sent something unreadable: {error}") from None
            self._hear(message)

    def _hear(self, message: object) -> None:
        match message:
            case RunEvents(run, events):
                listener = self._listeners.get(run)
                if listener is not None:
                    for event in events:
                        listener(event)
            case Closed(run):
                self._listeners.pop(run, None)
            case Rejected(error, None):
                raise from_data(error)
            case Rejected(error, run) if run is not None:
                listener = self._listeners.pop(run, None)
                if listener is not None:
                    listener(Failed(0, -1, error))
            case FrontStats():
                self._stats = message
                self._stats_heard.set()
            case Welcome():
                self.welcome = message
                self._connected.set()

    def _fail(self, error: ErrorData) -> None:
        with self._lock:
            self._lost = error
            listeners, self._listeners = self._listeners, {}
        for listener in listeners.values():
            listener(Failed(0, -1, error))
        self._connected.set()


def _frame(message: ToFront) -> bytes:
    """Raises InvalidArgument for a message that would cost this client its connection."""
    frame = encode(message)
    if len(frame) > MAX_FRAME_BYTES:
        raise InvalidArgument(
            f"{len(frame)} bytes are to be sent at once; at most {MAX_FRAME_BYTES} can be",
            field="prompt",
            hint="shorten the text",
        )
    return frame


def _bounded(timeout: float | None) -> float | None:
    """Seconds as they travel: none that are longer than anything lasts."""
    return timeout if timeout is not None and timeout < 1e9 else None
