"""Who waits for a run, in threads and in tasks, and how long.

One lock guards a run; whoever changes it calls `wake`. This file knows no ops.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from latticework.lang.branch import place, user_line
from latticework.lang.errors import DeadlineExceeded


class Waits:
    """deadline: of the run, on the clock of `time.monotonic`. count: how often a thread or task had to wait. on_wait:
    told when a thread begins and ends a wait."""

    def __init__(self, deadline: float | None) -> None:
        self.condition = threading.Condition()
        self.deadline = deadline
        self.count = 0
        self.on_wait: Callable[[bool], None] = lambda begins: None
        self._watches: list[tuple[Callable[[], bool], Callable[[], None]]] = []  # (is it so, tell it)

    def wait(self, ready: Callable[[], bool], timeout: float | None, what: str) -> None:
        """Blocks until `ready()`, which is called under the lock. Raises DeadlineExceeded."""
        with self.condition:
            if ready():
                return
            self.count += 1
            self.on_wait(True)
            try:
                seconds = self._seconds(timeout)
                if not self.condition.wait_for(ready, seconds):
                    raise _late(what)
            finally:
                self.on_wait(False)

    async def wait_async(self, ready: Callable[[], bool], timeout: float | None, what: str) -> None:
        """The same, for a task."""
        with self.condition:
            if ready():
                return
        loop = asyncio.get_running_loop()
        come = asyncio.Event()

        def tell() -> None:
            with suppress(RuntimeError):  # the loop is gone, and whoever waited with it
                loop.call_soon_threadsafe(come.set)

        watch = (ready, tell)
        with self.condition:
            if ready():
                return
            self.count += 1
            self._watches.append(watch)
        try:
            seconds = self._seconds(timeout)
            if seconds is None:
                await come.wait()
            else:
                await asyncio.wait_for(come.wait(), max(0.0, seconds))
        except asyncio.TimeoutError:
            raise _late(what) from None
        finally:
            with self.condition:
                if watch in self._watches:
                    self._watches.remove(watch)

    def _seconds(self, timeout: float | None) -> float | None:
        """How long a wait may take: what it was given, and what is left of the run."""
        if self.deadline is None:
            return timeout
        left = self.deadline - time.monotonic()
        return left if timeout is None else min(timeout, left)

    def wake(self) -> None:
        """Something has changed that somebody may wait for. Called under the lock."""
        self.condition.notify_all()
        for watch in [watch for watch in self._watches if watch[0]()]:
            self._watches.remove(watch)
            watch[1]()


def _late(what: str) -> DeadlineExceeded:
    return DeadlineExceeded(f"{what} took longer than it was given", where=place(user_line()))
