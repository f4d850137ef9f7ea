"""Threads that run plain bodies: another one starts only while every one that runs is held up.

    straight-line bodies    one thread runs them one after the other, since none of them waits
    bodies that read        a thread for each that waits, up to the limit

Held up means that it waits for an answer, or has been at one body for a while. Threads end when there is nothing to
do. This file knows no runs.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

PATIENCE = 0.01  # seconds at one body after which another thread may start
IDLE_SECONDS = 0.2  # that a thread waits for more to do


class Workers:
    """Runs tasks in order, in at most `limit` threads."""

    def __init__(self, limit: int, name: str) -> None:
        self.limit = limit
        self.name = name
        self._condition = threading.Condition()
        self._queue: deque[Callable[[], None]] = deque()
        self._busy: dict[int, float] = {}  # by thread: when it is held up from
        self._threads = 0

    def submit(self, task: Callable[[], None]) -> None:
        """Runs `task`, which must not raise, as soon as a thread is free."""
        with self._condition:
            self._queue.append(task)
            self._condition.notify()
            if self._threads == len(self._busy):
                self._start()

    async def call(self, task: Callable[[], Any]) -> Any:
        """What `task` returns or raises. Cancelling does not end the task."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Any] = loop.create_future()

        def settle(value: Any, error: BaseException | None) -> None:
            if outcome.cancelled():
                return
            if error is None:
                outcome.set_result(value)
            else:
                outcome.set_exception(_Raised(error))

        def run() -> None:
            value, failure = None, None
            try:
                value = task()
            except BaseException as error:
                failure = error
            with suppress(RuntimeError):  # the loop is gone, and whoever waited with it
                loop.call_soon_threadsafe(settle, value, failure)

        self.submit(run)
        try:
            return await outcome
        except _Raised as raised:
            raise raised.error from None

    def on_wait(self, begins: bool) -> None:
        """The thread that calls begins or ends a wait. Other threads than workers may call it too."""
        thread = threading.get_ident()
        with self._condition:
            if thread in self._busy:
                self._busy[thread] = 0.0 if begins else time.monotonic() + PATIENCE
                self._condition.notify()

    # ------------------------------------------------------------ threads

    def _start(self) -> None:
        if self._threads < self.limit:
            self._threads += 1
            threading.Thread(target=self._work, name=self.name, daemon=True).start()

    def _work(self) -> None:
        while True:
            task = self._next()
            if task is None:
                return
            try:
                task()
            finally:
                with self._condition:
                    del self._busy[threading.get_ident()]
                    self._condition.notify()
            del task

    def _next(self) -> Callable[[], None] | None:
        """The next task, once this thread is to run it; None when it is to end."""
        with self._condition:
            while True:
                now = time.monotonic()
                if self._queue and all(since <= now for since in self._busy.values()):
                    break
                if not self._condition.wait(PATIENCE if self._queue else IDLE_SECONDS) and not self._queue:
                    self._threads -= 1
                    return None
            task = self._queue.popleft()
            self._busy[threading.get_ident()] = now + PATIENCE
            if self._queue and self._threads == len(self._busy):
                self._start()  # it stands by
            return task


class _Raised(Exception):
    """Carries what a task has raised past asyncio, which treats some exceptions in ways of its own."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error
