"""One compiling child process, from asyncio: its start, its jobs one after another, its end.

What the child does is in `worker.py`; which jobs it gets is the pool's to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import msgspec

import latticework
from latticework.lang.errors import Busy, ConstraintError, LatticeworkError, RuntimeFailure
from latticework.lang.ir import Choices
from latticework.runtime.beside import beside_us
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.rules import MAX_GRAPH_BYTES
from latticework.runtime.constrain.worker import HEADER, Answer, Failed, Job, Reason

_START_SECONDS = 60.0  # a busy machine may take long to start Python
RETIRE_BYTES = 256 << 20  # a child that has come to hold more is replaced by a fresh one
WALL = 3.0  # a job may take so many times its seconds of the processor, which others use, too
_PROBE = Job(Choices(("ready",)), Limits())  # the first job of every child

_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


class CompileChild:
    """A child process that compiles one job at a time; the others wait in line.

    grace: the child stops itself when a job has used its `limits.seconds` of the processor; it is killed so many
    seconds after WALL times as long. max_waiting: how
    long the line may be. niceness: by how much everything else comes first. Owner: the pool. It starts with `start()`
    or its first job, and again after `close()`.
    """

    def __init__(self, grace: float, max_waiting: int, niceness: int = 0) -> None:
        self.process: asyncio.subprocess.Process | None = None
        self._grace = grace
        self._max_waiting = max_waiting
        self._niceness = niceness
        self._waiting = 0
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Starts the process and waits until it answers."""
        async with self._turn:
            await self._ready()

    async def close(self) -> None:
        """Ends the process, after the job it is at."""
        async with self._turn:
            await self._stop()

    async def run(self, job: Job) -> Answer:
        """What became of `job`. Raises Busy when the line is full."""
        if self._waiting >= self._max_waiting:
            raise Busy(f"{self._waiting} constraints wait to be compiled", hint="retry later")
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            return await self._answer(await self._ready(), job)
        finally:
            self._turn.release()

    async def _answer(self, process: asyncio.subprocess.Process, job: Job) -> Answer:
        seconds = job.limits.seconds
        try:
            answer = await asyncio.wait_for(self.ask(process, job), WALL * seconds + self._grace)
            if answer.resident > RETIRE_BYTES:
                await self._stop()
            return answer
        except asyncio.TimeoutError:
            await self._stop()
            message = f"compiling the constraint took longer than the limit `seconds`, {seconds}"
            return _failed(ConstraintError(message), "time")
        except (OSError, EOFError, msgspec.DecodeError):
            await self._stop()
            limit = job.limits.memory_mb
            message = (
                f"compiling the constraint ended the compiler; it may need more than the limit `memory_mb`, {limit}"
            )
            return _failed(ConstraintError(message), "memory")
        except asyncio.CancelledError:
            await self._stop()  # its answer would be taken for the next job's
            raise

    async def ask(self, process: asyncio.subprocess.Process, job: Job) -> Answer:
        """One frame there and one back. Raises OSError, EOFError or DecodeError when the process fails."""
        assert process.stdin is not None
        assert process.stdout is not None
        data = msgspec.msgpack.encode(job)
        process.stdin.write(HEADER.pack(len(data)) + data)
        await process.stdin.drain()
        (size,) = HEADER.unpack(await process.stdout.readexactly(HEADER.size))
        if size > 2 * MAX_GRAPH_BYTES:
            raise EOFError(f"an answer of {size} bytes")
        return _answers.decode(await process.stdout.readexactly(size))

    async def _ready(self) -> asyncio.subprocess.Process:
        if self.process is None or self.process.returncode is not None:
            await self._stop()
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "latticework.runtime.constrain.worker", str(self._niceness)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                **beside_us(),  # Ctrl-C at a terminal is the front's to handle
                env=_environment(),
            )
            try:
                await asyncio.wait_for(self.ask(self.process, _PROBE), _START_SECONDS)
            except (OSError, EOFError, asyncio.TimeoutError, msgspec.DecodeError) as error:
                await self._stop()
                raise RuntimeFailure(f"the constraint compiler did not start: {error!r}") from error
            except asyncio.CancelledError:
                await self._stop()
                raise
        return self.process

    async def _stop(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await asyncio.shield(process.wait())
        if process.stdin is not None:
            process.stdin.close()
            with contextlib.suppress(OSError):
                await process.stdin.wait_closed()


def _environment() -> dict[str, str]:
    """Ours, but that no file in the user's folder hides a module the child imports (Python 3.11 or later). So a
    checkout that was never installed has to be named."""
    source = str(Path(latticework.__path__[0]).parent)
    path = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": f"{source}{os.pathsep}{path}" if path else source,
    }


def _failed(error: LatticeworkError, reason: Reason) -> Failed:
    return Failed(error.to_data(), reason)
