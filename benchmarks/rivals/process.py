"""Starts one server on a port of its own, is sure that it is that one which answers, and ends all of it.

Linux only: cores are set with `taskset`, and /proc tells whose socket answers. Knows no server by name.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

LOOPBACK = "0100007F"  # 127.0.0.1 as /proc/net/tcp writes it
LISTENING = "0A"
TAIL_LINES = 25
PATIENCE_AT_END = 20.0  # seconds between asking a server to end and ending it


class PeerError(Exception):
    """A rival did not start, or failed on the way. tail: the last lines of its log."""

    def __init__(self, message: str, log: Path | None = None) -> None:
        super().__init__(message)
        self.tail = tail(log) if log is not None else ""


@dataclass(frozen=True)
class Launch:
    """How a process is started. cores: the only ones that it may use. ready_seconds: after which it has failed."""

    command: Sequence[str]
    environment: Mapping[str, str]
    cores: Sequence[int]
    log: Path
    ready_seconds: float


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def pinned(command: Sequence[str], cores: Sequence[int]) -> list[str]:
    """The command on these cores only. Raises PeerError without `taskset`."""
    program = shutil.which("taskset")
    if program is None:
        raise PeerError("there is no `taskset` (util-linux), which gives every rival the same cores")
    return [program, "--cpu-list", ",".join(map(str, cores)), *command]


def end_with_us() -> None:
    """From now on SIGTERM raises SystemExit here, so that what we started ends before we do."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


@contextmanager
def started(launch: Launch) -> Iterator[subprocess.Popen[bytes]]:
    """The process, in a session of its own; its output is in the log. All of the session ends with the block.

    Raises PeerError if it cannot be started at all.
    """
    launch.log.parent.mkdir(parents=True, exist_ok=True)
    with launch.log.open("wb") as out:
        try:
            process = subprocess.Popen(
                pinned(launch.command, launch.cores),
                env={**os.environ, **launch.environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise PeerError(f"{launch.command[0]}: {error}") from None
    try:
        yield process
    finally:
        end(process)


@contextmanager
def served(launch: Launch, port: int) -> Iterator[str]:
    """The base URL, with its /v1, of a server that answers on the port. Raises PeerError with its log if none does."""
    with started(launch) as process:
        base_url = f"http://127.0.0.1:{port}/v1"
        wait_until_ready(process, base_url, port, launch)
        yield base_url


def wait_until_ready(process: subprocess.Popen[bytes], base_url: str, port: int, launch: Launch) -> None:
    end_of_patience = time.monotonic() + launch.ready_seconds
    with httpx.Client(timeout=5) as http:
        while time.monotonic() < end_of_patience:
            status = process.poll()
            if status is not None:
                raise PeerError(f"it ended with status {status} before it answered", launch.log)
            if _answers(http, base_url):
                check_owner(process.pid, port, launch.log)
                return
            time.sleep(0.2)
    raise PeerError(f"it did not answer within {launch.ready_seconds:g} s", launch.log)


def _answers(http: httpx.Client, base_url: str) -> bool:
    try:
        return http.get(f"{base_url}/models").status_code == 200
    except httpx.HTTPError:
        return False


def check_owner(leader: int, port: int, log: Path) -> None:
    """Raises PeerError unless all that listens on the port is of the leader's session, and on loopback only."""
    listeners = listening(port)
    own = {inode for member in session(leader) for inode in sockets(member)}
    if not listeners or not set(listeners) <= own:
        raise PeerError(f"port {port} is answered by a process that we did not start", log)
    if set(listeners.values()) != {LOOPBACK}:
        raise PeerError(f"it listens on port {port} of other addresses than 127.0.0.1", log)


def listening(port: int) -> dict[str, str]:
    """Who listens on a port: the socket's inode and address, as /proc writes them."""
    found = {}
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            fields = line.split()
            address, _, number = fields[1].rpartition(":")
            if fields[3] == LISTENING and int(number, 16) == port:
                found[fields[9]] = address
    return found


def sockets(process: int) -> set[str]:
    """Inodes of a process's sockets; none of one that has ended."""
    found: set[str] = set()
    try:
        entries = list(Path(f"/proc/{process}/fd").iterdir())
    except OSError:
        return found
    for entry in entries:
        with suppress(OSError):  # closed meanwhile
            kind, _, inode = os.readlink(entry).partition(":[")
            if kind == "socket":
                found.add(inode.rstrip("]"))
    return found


def session(leader: int) -> list[int]:
    """Processes of the leader's session that run."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(state[3]) == leader and state[0] != "Z":
            found.append(int(entry.name))
    return found


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends the whole session: the leader alone, as a user would, then what it left; by force what does not end."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_AT_END)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for member in session(process.pid):
            with suppress(ProcessLookupError):
                os.kill(member, number)
        end_of_patience = time.monotonic() + PATIENCE_AT_END
        while session(process.pid) and time.monotonic() < end_of_patience:
            process.poll()
            time.sleep(0.05)
    process.wait()


def tail(log: Path) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
    except OSError:
        return ""
