"""Where the engine's time goes: seconds per part of a step, summed since it started.

    link | schedule | build | layers, attention, head | mask | sample | settle

Parts nest, and an inner part's time is not the outer one's, so the parts add up to the time at work. `mask` counts
wherever masks are computed, `layers` is the forward pass without attention and head. Only `perf_counter` is read: on
an asynchronous device the forward's time appears where its result is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

PARTS = ("link", "schedule", "build", "layers", "attention", "head", "mask", "sample", "settle")


class Profile:
    """Owner of the sums. One thread. Disabled, it costs a call per part and stays empty."""

    def __init__(self, enabled: bool) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0) if enabled else {}
        self._open: list[str] = []
        self._since = 0.0
        self._nothing = nullcontext()

    def part(self, name: str) -> AbstractContextManager[None]:
        """Counts what happens inside as `name`."""
        return self._part(name) if self.seconds else self._nothing

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        self._count()
        self._open.append(name)
        try:
            yield
        finally:
            self._count()
            self._open.pop()

    def of_which(self, name: str, seconds: float) -> None:
        """So much of the innermost open part's time was that of another part."""
        if self.seconds:
            self.seconds[self._open[-1]] -= seconds
            self.seconds[name] += seconds

    def _count(self) -> None:
        """Gives the time since the last change to the innermost open part."""
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now
