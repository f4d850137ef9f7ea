"""Compiling in killable children, from asyncio.

The front owns a `CompilePool`. A constraint is compiled once however many ask for it at the same time; results stay
in a bounded cache; a compilation over the time limit costs its sender an error and its child its life.

    compile ──▶ quick child: a slice of time for every job ──▶ result
                  │ not done within it
                  └──▶ patient child: the whole limit ──▶ result

So an ordinary constraint never waits for one that takes long, but for its slice. How a child is run is in
`child.py`, what it does in `worker.py`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import msgspec

from latticework.lang.errors import ErrorData, LatticeworkError, RuntimeFailure, from_data
from latticework.lang.ir import Constraint, constraint_key
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.child import CompileChild
from latticework.runtime.constrain.worker import Compiled, Failed, Job

CACHE_BYTES = 64 << 20
MAX_WAITING = 256
SLICE_SECONDS = 0.5  # the most that the quick child spends on one job, grace not counted
_SLICE_GRACE = 0.5
_ENTRY_BYTES = 500


class CompilePool:
    """Compiles constraints in two child processes.

    limits: for every constraint. cache_bytes: memory for results, errors included. grace: a child stops itself at
    `limits.seconds`; it is killed so many seconds later. max_waiting: jobs in line for each child; more are refused
    with Busy. Owner: the front. Call `start()` before the first use and `close()` at the end; both may be called
    again.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        cache_bytes: int = CACHE_BYTES,
        grace: float = 1.0,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._limits = limits or Limits()
        self._slice = msgspec.structs.replace(self._limits, seconds=min(self._limits.seconds, SLICE_SECONDS))
        self._quick = CompileChild(min(grace, _SLICE_GRACE), max_waiting)
        self._patient = CompileChild(grace, max_waiting)
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[str, bytes | ErrorData] = OrderedDict()
        self._cached = 0
        self._running: dict[str, asyncio.Task[bytes]] = {}
        self._closed = False

    async def start(self) -> None:
        """Starts the quick child and waits until it answers, so that the first constraint does not pay for it. The
        patient one starts when it is needed."""
        self._closed = False
        await self._quick.start()

    async def close(self) -> None:
        """Ends the children; whoever still waits for a constraint gets an error."""
        self._closed = True
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(self._quick.close(), self._patient.close())

    async def compile(self, constraint: Constraint) -> bytes:
        """The encoded rule graph of `constraint`. Raises the ConstraintError that compiling it gave, or Busy."""
        if self._closed:
            raise RuntimeFailure("the compile pool is closed")
        key = constraint_key(constraint)
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

    def forget(self) -> None:
        """Drops every result that is kept."""
        self._cache.clear()
        self._cached = 0

    # ------------------------------------------------------------ one job

    def _forget(self, key: str, task: asyncio.Task[bytes]) -> None:
        self._running.pop(key, None)
        if not task.cancelled():
            task.exception()  # seen, even if every caller is gone

    async def _compile(self, key: str, constraint: Constraint) -> bytes:
        answer = await self._quick.run(Job(constraint, self._slice))
        is_unfinished = isinstance(answer, Failed) and answer.reason == "time"
        if is_unfinished and self._slice.seconds < self._limits.seconds:
            answer = await self._patient.run(Job(constraint, self._limits))
        if isinstance(answer, Compiled):
            self._keep(key, answer.rules)
            return answer.rules
        if answer.reason == "constraint":  # time and memory depend on the machine's load
            self._keep(key, answer.error)
        return _rules_or_raise(answer.error)

    # ------------------------------------------------------------ the cache

    def _keep(self, key: str, result: bytes | ErrorData) -> None:
        self._cache[key] = result
        self._cached += _size(result)
        while self._cached > self._cache_bytes and len(self._cache) > 1:
            _, old = self._cache.popitem(last=False)
            self._cached -= _size(old)


def _size(result: bytes | ErrorData) -> int:
    return _ENTRY_BYTES + (len(result) if isinstance(result, bytes) else len(result.message))


def _rules_or_raise(result: bytes | ErrorData) -> bytes:
    if isinstance(result, bytes):
        return result
    error: LatticeworkError = from_data(result)
    raise error
