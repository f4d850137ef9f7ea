"""How much time a part has left. No torch."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.gpu.rows import RowFile


class Deadline:
    """The end of a part's time."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()


def attempt(what: str, needs: float, deadline: Deadline, rows: RowFile, run: Callable[[], None]) -> None:
    """Runs one measurement that takes about `needs` seconds: left out, by name, if there is less time; noted as failed
    if it raises, and the next one runs."""
    if deadline.left < needs:
        rows.leave_out(what, f"takes about {needs:.0f} s, and {max(0.0, deadline.left):.0f} s of its part were left")
        return
    try:
        run()
    except Exception as error:
        rows.fail(what, error)
