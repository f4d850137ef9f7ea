"""When a process looks for cycles of garbage among everything it holds.

Python does it whenever its objects have grown by a quarter, in the middle of whatever runs, and with a large heap that
takes as long as several steps of a model. Here it is done while nobody waits, and otherwise only where there is much to
gain. Cycles of young objects are still found as ever.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import time
from collections.abc import Callable

WORTH_BYTES = 64 << 20  # dropped since the last time: reason enough, even while somebody waits
LONGEST_SECONDS = 300.0  # without
_NEVER = 1 << 30


class Garbage:
    """Owner of the collector of its process. Make it once everything that stays is loaded: that is left out for good.

    dropped: counts the bytes of all that was dropped and may be garbage.
    """

    def __init__(self, dropped: Callable[[], int]) -> None:
        self.collections = 0
        self._dropped = dropped
        self._seen = dropped()
        self._last = time.monotonic()
        gc.collect()
        gc.freeze()
        young, middle, _ = gc.get_threshold()
        gc.set_threshold(young, middle, _NEVER)

    def collect(self, is_idle: bool) -> None:
        """To be called between steps. is_idle: nobody waits for the next one; memory then goes back to the
        system, too."""
        dropped = self._dropped() - self._seen
        if dropped > (0 if is_idle else WORTH_BYTES) or time.monotonic() - self._last > LONGEST_SECONDS:
            gc.collect()
            if is_idle:
                _trim()
            self.collections += 1
            self._seen += dropped
            self._last = time.monotonic()


def _trim() -> None:
    """Gives free memory back to the system, where its allocator can be asked to."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
