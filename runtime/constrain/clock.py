"""How long something may be worked on.

What is computed for a row is kept as soon as it is done, piece by piece, and only then is the clock looked at. So
work that was given up at one deadline goes on at the next, from where it was, however early each of them comes.
"""

from __future__ import annotations

import math
import time


class Late(Exception):
    """The deadline passed before everything was done."""


class Clock:
    """deadline: in time.monotonic() seconds; math.inf: there is none."""

    __slots__ = ("_deadline", "_is_bound")

    def __init__(self, deadline: float = math.inf) -> None:
        self._deadline = deadline
        self._is_bound = deadline < math.inf

    def is_late(self) -> bool:
        return self._is_bound and time.monotonic() >= self._deadline

    def check(self) -> None:
        """Raises Late after the deadline. To be called when something new has just been kept."""
        if self._is_bound and time.monotonic() >= self._deadline:
            raise Late


ENDLESS = Clock()

__all__ = ["ENDLESS", "Clock", "Late"]
