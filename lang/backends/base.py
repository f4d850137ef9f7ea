"""What a language backend is: something that runs ops and reports events.

A state queues ops and hands them over in batches; the backend answers through a callback from a thread of its
own. Nothing here blocks, so one thread can drive any number of runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from latticework.lang.events import Event
from latticework.lang.ir import Op, Sampling

Listener = Callable[[Event], None]
"""Called in order for each event of a run, from the backend's thread; must not block or raise."""


class Session(Protocol):
    """One run in progress. Every method returns at once and may be called from any thread."""

    def append(self, branch: int, first: int, ops: Sequence[Op]) -> None:
        """Queues ops of a branch; `first` is the position of ops[0]. Branch 0 exists from the start, others once
        a Fork naming them was appended. Every Role gets a Rendered, every Gen and Select a Done or a Failed.

        One Failed stands for everything later in its branch and in the branches forked after it; it does not
        fail a parent that joins it. May be called from inside the listener; ignored once closed."""
        ...

    def close(self) -> None:
        """Cancels what runs, releases what is held. Ops without an answer get Failed(Cancelled). Idempotent."""
        ...


class Backend(Protocol):
    """Where programs run."""

    name: str

    def open(
        self, sampling: Sampling, seed: int, item: int, listener: Listener, timeout: float | None = None
    ) -> Session:
        """Starts a run with these default sampling parameters. timeout: seconds after which a backend that computes
        elsewhere ends it by itself; whoever waits here stops waiting then either way. Raises ConnectionLost or
        Busy."""
        ...

    def shutdown(self) -> None:
        """Ends the connection and whatever the backend started; runs still open fail. Idempotent."""
        ...
