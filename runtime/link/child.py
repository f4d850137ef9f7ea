"""A child process of ours: started by a module name, told its settings on stdin, reporting on stdout.

    parent                                   child
      │  stdin: one JSON line of settings  ──▶  │
      │  stdin: stays open, says nothing   ──▶  │  end of file: the parent is gone, exit
      │  ◀── stdout: one JSON line a status     │  loading 0.4 … ready | failed

A plain subprocess in a session or a process group of its own: Ctrl-C reaches the program, not its runtime, and scripts
without a `__main__` guard work. This file knows neither engine nor front.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal, TypeVar

import msgspec

import latticework
from latticework.lang.errors import EngineDied, ErrorData, LatticeworkError, RuntimeFailure, from_data
from latticework.runtime.beside import Place, beside_us

GRACE_SECONDS = 2.0
SPIN_COUNT = "1000"
"""How long an OpenMP thread spins before it sleeps (GOMP_SPINCOUNT). By default it spins for milliseconds, which
costs an engine that shares its cores with its own front and client up to 8 times its speed."""


class Status(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a child's start-up report. fraction: how much is loaded, 0 to 1."""

    state: Literal["loading", "ready", "failed"]
    fraction: float = 0.0
    error: ErrorData | None = None


S = TypeVar("S")


def spawn(
    module: str, settings: msgspec.Struct, log: IO[bytes] | None = None, is_apart: bool = True
) -> subprocess.Popen[bytes]:
    """Starts `python -m module`. log: where its stderr goes; default: ours. is_apart: in a session of its own; else
    see `beside_us`."""
    place: Place = {"start_new_session": True} if is_apart else beside_us()
    source = str(Path(latticework.__path__[0]).parent)  # found in a checkout that was never installed, too
    path = os.environ.get("PYTHONPATH")
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        **place,
        env={
            "GOMP_SPINCOUNT": SPIN_COUNT,
            **os.environ,
            "PYTHONSAFEPATH": "1",  # a user's tokenizers.py in the working directory is not ours to import
            "PYTHONPATH": f"{source}{os.pathsep}{path}" if path else source,
        },
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # the child ended at once: reading its report says so
        process.stdin.write(msgspec.json.encode(settings) + b"\n")
        process.stdin.flush()
    return process


def await_ready(process: subprocess.Popen[bytes], progress: Callable[[float], None] | None = None) -> None:
    """Reads the child's report until it is ready. Raises the error it reports, or EngineDied if it just ends."""
    assert process.stdout is not None
    for line in process.stdout:
        status = msgspec.json.decode(line, type=Status)
        if status.state == "ready":
            return
        if status.state == "failed" and status.error is not None:
            stop(process)
            raise from_data(status.error)
        if progress is not None:
            progress(status.fraction)
    code = process.wait()
    raise EngineDied(f"the process ended while it started (exit code {code})")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Closes the child's lifeline, then insists. Idempotent."""
    if process.stdin is not None and not process.stdin.closed:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


class Lifeline:
    """The child's side: reads the settings, then ends the process when the parent goes.

    Takes over stdout: whatever libraries print goes to stderr, only `report` reaches the parent.
    """

    def __init__(self) -> None:
        self._report = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        self._input = os.fdopen(os.dup(0), "rb", buffering=0)
        self._before_exit: list[Callable[[], None]] = []

    def settings(self, kind: type[S]) -> S:
        """The parent's settings; call once, first. Exits if the parent is gone already."""
        line = bytearray()
        while not line.endswith(b"\n"):
            piece = self._input.read(1)
            if not piece:
                os._exit(1)
            line += piece
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()
        return msgspec.json.decode(bytes(line), type=kind)

    def _watch(self) -> None:
        while self._input.read(4096):
            pass
        for clean_up in self._before_exit:
            clean_up()
        os._exit(0)

    def before_exit(self, clean_up: Callable[[], None]) -> None:
        """What to do when the parent goes; called from the watching thread, must be quick."""
        self._before_exit.append(clean_up)

    def report(self, status: Status) -> None:
        try:
            self._report.write(msgspec.json.encode(status) + b"\n")
        except BrokenPipeError:
            os._exit(1)

    def loading(self, fraction: float) -> None:
        self.report(Status("loading", fraction))

    def ready(self) -> None:
        self.report(Status("ready", 1.0))

    def failed(self, error: BaseException) -> None:
        if not isinstance(error, LatticeworkError):
            error = RuntimeFailure(f"{type(error).__name__}: {error}")
        self.report(Status("failed", error=error.to_data()))
