"""The end of the time that something was given. Knows a clock, and nothing of what the time is for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

from latticework.lang.errors import DeadlineExceeded

T = TypeVar("T")


class Deadline:
    """seconds: from now on; None: there is no end. at: the same moment on the clock of `time.monotonic`."""

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = seconds
        self.at = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float | None:
        """Seconds until then. Raises DeadlineExceeded when there are none."""
        if self.at is None:
            return None
        left = self.at - time.monotonic()
        if left <= 0:
            raise self.error()
        return left

    async def bound(self, work: Awaitable[T]) -> T:
        """The result of `work`. Raises DeadlineExceeded, and cancels it, when it is not there in time."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task}, timeout=self.left())
            if not task.done():
                raise self.error()
            return task.result()
        finally:
            task.cancel()

    def error(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"the request took longer than the {self.seconds or 0:g} seconds it was given",
            hint="give it more time, or ask for fewer tokens",
            field="timeout",
        )
