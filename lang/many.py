"""Many calls of one compiled program: order kept, a bounded number open, no thread for any of them.

The caller's thread starts calls as others end; backends tell it which. This file knows no arguments.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import Any, Literal

from latticework.lang.backends.base import Backend
from latticework.lang.backends.calls import Calling, Encoded
from latticework.lang.call import Call
from latticework.lang.errors import DeadlineExceeded, InvalidArgument
from latticework.lang.events import Usage
from latticework.lang.passes import constant_prefix
from latticework.lang.progress import Show

AUTO_OPEN = 256  # each is a few messages; the scheduler bounds what is computed at once
MAX_OPEN = 4096
BEHIND = 4  # times as many may be over, and wait for one before them, as may be open


def checked_open(asked: int | Literal["auto"]) -> int:
    """How many may be open. Raises InvalidArgument."""
    if asked == "auto":
        return AUTO_OPEN
    if not isinstance(asked, int) or isinstance(asked, bool) or not 1 <= asked <= MAX_OPEN:
        raise InvalidArgument(
            f"max_open is {asked!r}; expected 'auto' or an integer from 1 to {MAX_OPEN}", field="max_open"
        )
    return asked


def run_many(
    starts: Iterator[Callable[[], Call]],
    backend: Backend,
    program: Encoded,
    max_open: int,
    tick: Show | None = None,
    tick_seconds: float | None = None,
) -> Generator[Any, None, None]:
    """The State or the exception of each call, in order and as soon as those before it are there.

    starts: begin one call each; taken as there is room, so that memory does not grow with their number. tick: told
    every so often how many are over, and their tokens. Leaving the iterator cancels what is open."""
    batch = _Batch(starts, max_open)
    with ExitStack() as stack:
        if isinstance(backend, Calling) and constant_prefix(program.program):
            stack.callback(backend.warm(program).close)
        stack.callback(batch.cancel)
        while True:
            batch.begin()
            if batch.next_is_over:
                yield batch.take()
            elif batch.is_empty:
                return
            else:
                batch.wait(tick_seconds)
            if tick is not None:
                tick(batch.done, batch.usage)


class _Batch:
    """Calls that are open or over, and not yet taken."""

    def __init__(self, starts: Iterator[Callable[[], Call]], max_open: int) -> None:
        self.done = 0
        self.usage = Usage()
        self._starts = starts
        self._max_open = max_open
        self._begun = 0
        self._taken = 0
        self._results: dict[int, Any] = {}
        self._open: dict[int, Call] = {}
        self._over: deque[int] = deque()  # filled by the backend's thread
        self._news = threading.Semaphore(0)

    @property
    def next_is_over(self) -> bool:
        return self._taken in self._results

    @property
    def is_empty(self) -> bool:
        return not self._open and not self._results

    def take(self) -> Any:
        """The next result in order."""
        self._taken += 1
        return self._results.pop(self._taken - 1)

    def begin(self) -> None:
        """Starts as many as may be open, unless too many wait for one before them."""
        while len(self._open) < self._max_open and len(self._results) < BEHIND * self._max_open:
            start = next(self._starts, None)
            if start is None:
                return
            index, self._begun = self._begun, self._begun + 1
            try:
                call = start()
            except Exception as error:
                self._results[index] = error
                self.done += 1
                continue
            self._open[index] = call
            call.run.when_over(lambda index=index: self._tell(index))  # type: ignore[misc]

    def _tell(self, index: int) -> None:
        self._over.append(index)
        self._news.release()

    def wait(self, seconds: float | None) -> None:
        """Until a call is over, for so many seconds, or until a deadline: a backend may let one pass."""
        deadline = min((call.run.deadline for call in self._open.values() if call.run.deadline), default=None)
        if deadline is not None:
            left = max(0.0, deadline - time.monotonic())
            seconds = left if seconds is None else min(left, seconds)
        if not self._news.acquire(timeout=seconds):
            self._end_the_late()
            return
        index = self._over.popleft()
        call = self._open.pop(index)
        try:
            call.run.finish()
            self._results[index] = call.state
        except Exception as error:
            self._results[index] = error
        self.done += 1
        self.usage += call.run.usage()

    def _end_the_late(self) -> None:
        """Which is news."""
        now = time.monotonic()
        for call in list(self._open.values()):
            if call.run.deadline is not None and call.run.deadline <= now:
                call.run.abort(DeadlineExceeded("the run took longer than it was given"))
                call.run.end()

    def cancel(self) -> None:
        """Ends what is open."""
        for call in list(self._open.values()):
            call.run.cancel()
