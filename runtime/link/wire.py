"""How a client's frames travel: one way over a ZMQ socket, another over HTTP (http_wire.py).

A wire belongs to the client's thread, which opens it, waits at it and closes it. It knows frames, not messages.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol, TypeAlias

import zmq

from latticework.runtime.link.messages import MAX_FRAME_BYTES
from latticework.runtime.link.sockets import configure


class Wire(Protocol):
    """Every method but `close` may raise ConnectionLost."""

    longest: int
    """Bytes of a frame; longer ones cannot be sent."""

    def wait(self, woken: socket.socket, seconds: float) -> None:
        """Until a frame has come, `woken` can be read, or the time is over."""
        ...

    def receive(self) -> bytes | None:
        """The next frame, if one is there."""
        ...

    def send(self, frame: bytes) -> bool:
        """Takes a frame along. False: not now, the queue is full."""
        ...

    def close(self) -> None:
        """Ends the connection. Idempotent."""
        ...


OpenWire: TypeAlias = Callable[[Callable[[], None]], Wire]
"""Opens a wire; it is given what to call, from any thread, when `wait` should end. Raises LatticeworkError."""


class ZmqWire:
    """A DEALER socket."""

    longest = MAX_FRAME_BYTES

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._poller = zmq.Poller()
        try:
            configure(self._socket)
            self._socket.connect(address)
            self._poller.register(self._socket, zmq.POLLIN)
        except BaseException:
            self.close()
            raise

    def wait(self, woken: socket.socket, seconds: float) -> None:
        self._poller.register(woken, zmq.POLLIN)
        self._poller.poll(int(seconds * 1000))

    def receive(self) -> bytes | None:
        try:
            return self._socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return None

    def send(self, frame: bytes) -> bool:
        try:
            self._socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        self._socket.close()
        self._context.term()
