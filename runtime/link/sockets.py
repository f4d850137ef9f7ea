"""Where sockets live and how they are opened. ipc only: `tcp://` needs keys, which come with hardening.

A socket path is at most 107 bytes on Linux, so runtime folders are short and fresh: 0700, in the system's
temporary folder.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import zmq

from latticework.lang.errors import AddressInUse, InvalidArgument, Unsupported
from latticework.runtime.link.messages import MAX_FRAME_BYTES

MAX_SOCKET_PATH = 107
HIGH_WATER_MARK = 10_000  # messages; a peer further behind is treated as dead


class RuntimeFolder:
    """A private folder for the sockets and logs of one runtime; `remove()` ends it. path: one that exists already."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path if path is not None else self._make()

    @staticmethod
    def _make() -> Path:
        base = os.environ.get("XDG_RUNTIME_DIR")
        usable = base is not None and os.access(base, os.W_OK) and len(base) < MAX_SOCKET_PATH - 30
        return Path(tempfile.mkdtemp(prefix="lw-", dir=base if usable else None))

    def address(self, name: str) -> str:
        return f"ipc://{self.path / name}"

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def check_address(address: str) -> str:
    """`address` if it is an ipc address that a socket can have. Raises Unsupported or InvalidArgument."""
    if address.startswith("tcp://"):
        raise Unsupported(
            "tcp:// links need CURVE keys, which this version does not have",
            hint="use an ipc:// address on one machine, or the HTTP API on loopback",
        )
    if not address.startswith("ipc://") or len(address) == len("ipc://"):
        raise InvalidArgument(f"{address!r} is no link address", field="address", hint="expected ipc://PATH")
    path = address.removeprefix("ipc://")
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise InvalidArgument(
            f"the socket path has {len(os.fsencode(path))} bytes; at most {MAX_SOCKET_PATH} work", field="address"
        )
    return address


def bind(socket: zmq.Socket[Any], address: str) -> None:
    """Binds an ipc address and makes it the owner's alone. Raises AddressInUse if somebody answers there."""
    path = Path(check_address(address).removeprefix("ipc://"))
    if path.exists() and _answers(address):
        raise AddressInUse(f"another process serves {address}", field="ipc")
    old = os.umask(0o177)
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        raise AddressInUse(f"cannot serve {address}: {error}", field="ipc") from None
    finally:
        os.umask(old)


def _answers(address: str) -> bool:
    """Whether a process accepts connections there. ZMQ itself would take the path over without asking."""
    import socket

    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(address.removeprefix("ipc://")) == 0


def configure(socket: zmq.Socket[Any]) -> None:
    """The options every socket of ours has: bounded queues, bounded frames, no lingering at exit."""
    socket.setsockopt(zmq.LINGER, 200)
    socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK)
    socket.setsockopt(zmq.RCVHWM, HIGH_WATER_MARK)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    if socket.type == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
