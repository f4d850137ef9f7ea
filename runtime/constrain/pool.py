"""Compiling in one killable child, from asyncio.

The front owns a `CompilePool`. A constraint is compiled once however many ask for it at the same time; results stay
in a bounded cache; a compilation over the time limit costs its sender an error and the child its life. What the
child does is in `worker.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import OrderedDict

import msgspec

from latticework.lang.errors import ConstraintError, ErrorData, LatticeworkError, RuntimeFailure, from_data
from latticework.lang.ir import Choices, Constraint, constraint_key
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.rules import MAX_GRAPH_BYTES
from latticework.runtime.constrain.worker import HEADER, Answer, Compiled, Job

CACHE_BYTES = 64 << 20
_START_SECONDS = 60.0  # a busy machine may take long to start Python
_ENTRY_BYTES = 500

_PROBE = Choices(("ready",))  # the first job of every child

_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


class CompilePool:
    """Compiles constraints in a child process.

    limits: for every constraint. cache_bytes: memory for results, errors included. grace: the child stops itself at
    `limits.seconds`; it is killed so many seconds later. Owner: the front. Call `start()` before the first use and
    `close()` at the end; both may be called again.
    """

    def __init__(self, limits: Limits | None = None, cache_bytes: int = CACHE_BYTES, grace: float = 1.0) -> None:
        self._limits = limits or Limits()
        self._grace = grace
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[str, bytes | ErrorData] = OrderedDict()
        self._cached = 0
        self._running: dict[str, asyncio.Task[bytes]] = {}
        self._turn = asyncio.Lock()  # one job at a time in the child
        self._child: asyncio.subprocess.Process | None = None
        self._closed = False

    async def start(self) -> None:
        """Starts the child and waits until it answers, so that the first constraint does not pay for it."""
        self._closed = False
        async with self._turn:
            await self._ready_child()

    async def close(self) -> None:
        """Ends the child; whoever still waits for a constraint gets an error."""
        self._closed = True
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with self._turn:
            await self._stop_child()

    async def compile(self, constraint: Constraint) -> bytes:
        """The encoded rule graph of `constraint`. Raises the ConstraintError that compiling it gave."""
        if self._closed:
            raise RuntimeFailure("the compile pool is closed")
        try:
            key = constraint_key(constraint)
        except UnicodeEncodeError:
            raise ConstraintError("the constraint holds a lone surrogate, which is no text") from None
        found = self._cache.get(key)
        if found is not None:
            self._cache.move_to_end(key)
            return _rules_or_raise(found)
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(self._compile(key, constraint))
            self._running[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        try:
            return await asyncio.shield(task)  # one caller's cancellation leaves the others their result
        except asyncio.CancelledError:
            if task.cancelled() and self._closed:
                raise RuntimeFailure("the compile pool was closed") from None
            raise

    # ------------------------------------------------------------ one job

    def _forget(self, key: str, task: asyncio.Task[bytes]) -> None:
        self._running.pop(key, None)
        if not task.cancelled():
            task.exception()  # seen, even if every caller is gone

    async def _compile(self, key: str, constraint: Constraint) -> bytes:
        async with self._turn:
            child = await self._ready_child()
            try:
                answer = await asyncio.wait_for(
                    self._ask(child, Job(constraint, self._limits)), self._limits.seconds + self._grace
                )
            except asyncio.TimeoutError:
                await self._stop_child()
                raise ConstraintError(
                    f"compiling the constraint took longer than the limit `seconds`, {self._limits.seconds}"
                ) from None
            except (OSError, EOFError, msgspec.DecodeError) as error:
                await self._stop_child()
                raise ConstraintError(
                    "compiling the constraint ended the compiler; it may need too much memory"
                ) from error
            except asyncio.CancelledError:
                await self._stop_child()  # its answer would be taken for the next job's
                raise
        result = answer.rules if isinstance(answer, Compiled) else answer.error
        if not (isinstance(result, ErrorData) and _is_passing(result)):
            self._keep(key, result)
        return _rules_or_raise(result)

    async def _ask(self, child: asyncio.subprocess.Process, job: Job) -> Answer:
        assert child.stdin is not None
        assert child.stdout is not None
        data = msgspec.msgpack.encode(job)
        child.stdin.write(HEADER.pack(len(data)) + data)
        await child.stdin.drain()
        (size,) = HEADER.unpack(await child.stdout.readexactly(HEADER.size))
        if size > 2 * MAX_GRAPH_BYTES:
            raise EOFError(f"an answer of {size} bytes")
        return _answers.decode(await child.stdout.readexactly(size))

    # ------------------------------------------------------------ the child and the cache

    async def _ready_child(self) -> asyncio.subprocess.Process:
        if self._child is None or self._child.returncode is not None:
            await self._stop_child()
            self._child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "latticework.runtime.constrain.worker"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C at a terminal is the front's to handle
            )
            probe = Job(_PROBE, Limits())
            try:
                await asyncio.wait_for(self._ask(self._child, probe), _START_SECONDS)
            except (OSError, EOFError, asyncio.TimeoutError, msgspec.DecodeError) as error:
                await self._stop_child()
                raise RuntimeFailure(f"the constraint compiler did not start: {error!r}") from error
            except asyncio.CancelledError:
                await self._stop_child()
                raise
        return self._child

    async def _stop_child(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await asyncio.shield(child.wait())
        if child.stdin is not None:
            child.stdin.close()
            with contextlib.suppress(OSError):
                await child.stdin.wait_closed()

    def _keep(self, key: str, result: bytes | ErrorData) -> None:
        self._cache[key] = result
        self._cached += _size(result)
        while self._cached > self._cache_bytes and len(self._cache) > 1:
            _, old = self._cache.popitem(last=False)
            self._cached -= _size(old)


def _size(result: bytes | ErrorData) -> int:
    return _ENTRY_BYTES + (len(result) if isinstance(result, bytes) else len(result.message))


def _is_passing(error: ErrorData) -> bool:
    """Whether the same constraint may compile another time: time and memory depend on the machine's load."""
    return "`seconds`" in error.message or "memory" in error.message or error.type == "RuntimeFailure"


def _rules_or_raise(result: bytes | ErrorData) -> bytes:
    if isinstance(result, bytes):
        return result
    error: LatticeworkError = from_data(result)
    raise error
