"""Compiling in killable children, from asyncio.

The front owns a `CompilePool`. A constraint is compiled once however many ask for it at the same time; results stay
in a bounded cache; a compilation over the time limit costs its sender an error and its child its life, and one that
nobody waits for any more is ended.

    compile ──▶ first child: half a second for every job ──▶ result
                  │ not done within it
                  └──▶ second child: 2.5 seconds ──▶ result
                         └──▶ third child: the whole limit ──▶ result

So an ordinary constraint never waits for one that takes long, but for its slice, and the many constraints of one
request take turns with those of others: each goes to the end of a line. Their priority is low: the model's threads
come before them. So time is that of the processor. How a child is run is in `child.py`, what it does in `worker.py`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from latticework.lang.errors import ErrorData, LatticeworkError, RuntimeFailure, from_data
from latticework.lang.ir import Constraint, constraint_key
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.child import CompileChild
from latticework.runtime.constrain.worker import Compiled, Failed, Job

CACHE_BYTES = 64 << 20
MAX_WAITING = 256
SLICES = (0.5, 2.5)  # seconds that each child but the last spends on one job at most, grace not counted
NICENESS = 19  # the model's tokens come first: see `worker`
_SLICE_GRACE = 0.5
_ENTRY_BYTES = 500


@dataclass(slots=True)
class _Flight:
    """One constraint being compiled, and how many wait for it."""

    task: asyncio.Task[bytes]
    waiting: int = 0


class CompilePool:
    """Compiles constraints in three child processes.

    limits: for every constraint. cache_bytes: memory for results, errors included. grace: see `CompileChild`.
    max_waiting: jobs in line for each child; more are refused with Busy. Owner: the front. Call `start()` before the
    first use and `close()` at the end; both may be called again.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        cache_bytes: int = CACHE_BYTES,
        grace: float = 1.0,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._limits = limits or Limits()
        slices = [seconds for seconds in SLICES if seconds < self._limits.seconds]
        self._levels = [msgspec.structs.replace(self._limits, seconds=s) for s in slices] + [self._limits]
        self._children = [
            CompileChild(grace if level is self._limits else min(grace, _SLICE_GRACE), max_waiting, NICENESS)
            for level in self._levels
        ]
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[str, bytes | ErrorData] = OrderedDict()
        self._cached = 0
        self._running: dict[str, _Flight] = {}
        self._closed = False

    async def start(self) -> None:
        """Starts the first child and waits until it answers, so that the first constraint does not pay for it. The
        others start when they are needed."""
        self._closed = False
        await self._children[0].start()

    async def close(self) -> None:
        """Ends the children; whoever still waits for a constraint gets an error."""
        self._closed = True
        tasks = [flight.task for flight in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(child.close() for child in self._children))

    async def compile(self, constraint: Constraint) -> bytes:
        """The encoded rule graph of `constraint`. Raises the ConstraintError that compiling it gave, or Busy."""
        if self._closed:
            raise RuntimeFailure("the compile pool is closed")
        key = constraint_key(constraint)
        found = self._cache.get(key)
        if found is not None:
            self._cache.move_to_end(key)
            return _rules_or_raise(found)
        flight = self._running.get(key)
        if flight is None:
            flight = self._running[key] = _Flight(asyncio.create_task(self._compile(key, constraint)))
            flight.task.add_done_callback(lambda done: self._land(key, done))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)  # one caller's cancellation leaves the others their result
        except asyncio.CancelledError:
            if flight.task.cancelled() and self._closed:
                raise RuntimeFailure("the compile pool was closed") from None
            raise
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                flight.task.cancel()
                del self._running[key]  # whoever comes now begins anew

    def forget(self) -> None:
        """Drops every result that is kept."""
        self._cache.clear()
        self._cached = 0

    # ------------------------------------------------------------ one job

    def _land(self, key: str, task: asyncio.Task[bytes]) -> None:
        if key in self._running and self._running[key].task is task:
            del self._running[key]
        if not task.cancelled():
            task.exception()  # seen, even if every caller is gone

    async def _compile(self, key: str, constraint: Constraint) -> bytes:
        for child, limits in zip(self._children, self._levels, strict=True):
            answer = await child.run(Job(constraint, limits))
            if not isinstance(answer, Failed) or answer.reason != "time":
                break
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
