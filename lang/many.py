"""Many calls of one compiled program: order kept, a bounded number open, no thread for any of them.

The caller's thread starts calls as others end; backends tell it which. This file knows no arguments.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Literal

from latticework.lang.backends.base import Backend
from latticework.lang.backends.calls import Calling, Encoded
from latticework.lang.call import Call
from latticework.lang.errors import DeadlineExceeded, InvalidArgument
from latticework.lang.events import Usage
from latticework.lang.passes import constant_prefix
from latticework.lang.progress import progress, silent

AUTO_OPEN = 256  # each is a few messages; the scheduler bounds what is computed at once
MAX_OPEN = 4096
PROGRESS_SECONDS = 0.1


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
    title: str,
    start: Callable[[int], Call],
    count: int,
    backend: Backend,
    program: Encoded,
    *,
    max_open: int,
    progress_bar: bool,
) -> list[Any]:
    """The State or the exception of each item, in order. start: begins the call of an item. Ctrl-C, and whatever
    else is raised here, cancels what is open."""
    batch = _Batch(start, count, max_open)
    with ExitStack() as stack:
        if count > 1 and isinstance(backend, Calling) and constant_prefix(program.program):
            stack.callback(backend.warm(program).close)
        show = stack.enter_context(progress(title, count) if progress_bar else silent())
        batch.run(lambda: show(batch.done, batch.usage), PROGRESS_SECONDS if progress_bar else None)
    return batch.results


class _Batch:
    """The calls of one batch. `results` is complete once `run` returns."""

    def __init__(self, start: Callable[[int], Call], count: int, max_open: int) -> None:
        self.results: list[Any] = [None] * count
        self.done = 0
        self.usage = Usage()
        self._start = start
        self._max_open = max_open
        self._open: dict[int, Call] = {}
        self._over: deque[int] = deque()  # filled by the backend's thread
        self._news = threading.Semaphore(0)

    def run(self, show: Callable[[], None], show_seconds: float | None) -> None:
        try:
            waiting = iter(range(len(self.results)))
            while self.done < len(self.results):
                while len(self._open) < self._max_open and (index := next(waiting, None)) is not None:
                    self._begin(index)
                if self.done < len(self.results):
                    self._take_news(self._patience(show_seconds))
                    self._end_the_late()
                show()
        except BaseException:
            for call in list(self._open.values()):
                call.run.cancel()
            raise

    def _begin(self, index: int) -> None:
        try:
            call = self._start(index)
        except Exception as error:
            self.results[index] = error
            self.done += 1
            return
        self._open[index] = call
        call.run.when_over(lambda: self._tell(index))

    def _tell(self, index: int) -> None:
        self._over.append(index)
        self._news.release()

    def _patience(self, show_seconds: float | None) -> float | None:
        """Seconds until something is due: the bar, or the first deadline."""
        deadline = min((call.run.deadline for call in self._open.values() if call.run.deadline), default=None)
        if deadline is None:
            return show_seconds
        left = max(0.0, deadline - time.monotonic())
        return left if show_seconds is None else min(left, show_seconds)

    def _end_the_late(self) -> None:
        """A backend may let a deadline pass; here it ends the run, which is news."""
        now = time.monotonic()
        for call in list(self._open.values()):
            if call.run.deadline is not None and call.run.deadline <= now:
                call.run.abort(DeadlineExceeded("the run took longer than it was given"))
                call.run.end()

    def _take_news(self, seconds: float | None) -> None:
        """Waits for a call to end, or for so many seconds."""
        if not self._news.acquire(timeout=seconds):
            return
        index = self._over.popleft()
        call = self._open.pop(index)
        error = self._outcome(call)
        self.results[index] = call.state if error is None else error
        self.done += 1
        self.usage += call.run.usage()

    @staticmethod
    def _outcome(call: Call) -> Exception | None:
        try:
            call.run.finish()
        except Exception as error:
            return error
        return None
