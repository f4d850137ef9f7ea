"""Long computations done in pieces between steps, so that none of them keeps the model waiting.

    Pace     what a computation calls in its inner loops: where it may stop for now, and go on later
    Job      one computation: in a thread of its own, which runs only while its owner waits for it
    Pieces   all jobs of an engine: how much of a step they get together, and who goes on first

Job and owner never run at the same time, so what they share needs no lock: it only has to be in order wherever `Pace`
is called. Whoever has had least goes on first, so a job that takes long does not delay short ones. This file knows no
automata.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from latticework.lang.errors import Cancelled, ConstraintError, LatticeworkError

SHARE = 0.06  # of a step that jobs get while somebody waits for a token
LEAST_SECONDS = 0.002  # what they get of a short one, and what a new job gets at once
JOB_SECONDS = 5.0  # of its own that one job may take

T = TypeVar("T")
Fault = Callable[[], LatticeworkError | None]
"""Asked after each piece: an error ends the job with it."""


class Abandoned(BaseException):
    """Ends a job that nobody waits for any more. Not an Exception: no handler keeps it."""


class _Thread:
    """Runs one piece of work after another, each while the caller of `run` waits."""

    def __init__(self) -> None:
        self.work: Callable[[], None] | None = None
        self._go, self._back = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._back.acquire()
        threading.Thread(target=self._serve, name="latticework-job", daemon=True).start()

    def _serve(self) -> None:
        while True:
            self._go.acquire()
            if self.work is None:
                return
            self.work()
            self._back.release()

    def run(self) -> None:
        """Returns when the work is done, or pauses."""
        self._go.release()
        self._back.acquire()

    def pause(self) -> None:
        """To be called by the work; returns with the next `run`."""
        self._back.release()
        self._go.acquire()

    def end(self) -> None:
        self.work = None
        self._go.release()


class Job(Generic[T]):
    """A computation under way. seconds: what it has had so far; is_done: it has a result, or an error."""

    def __init__(self, pace: Pace, compute: Callable[[], T]) -> None:
        self.seconds = 0.0
        self.is_done = False
        self._pace = pace
        self._compute: Callable[[], T] | None = compute
        self._thread: _Thread | None = None
        self._deadline = 0.0
        self._is_abandoned = False
        self._result: T | None = None
        self._error: BaseException | None = None

    def resume(self, deadline: float) -> bool:
        """Goes on until it is done, which is told, or until `deadline`, monotonic seconds."""
        if self.is_done:
            return True
        began = time.monotonic()
        if self._thread is None:
            self._thread = self._pace.thread()
            self._thread.work = self._run
        self._deadline = deadline
        self._pace.job = self
        self._thread.run()
        self._pace.job = None
        self.seconds += time.monotonic() - began
        if self.is_done:
            self._pace.give_back(self._thread)
            self._thread = None
        return self.is_done

    @property
    def succeeded(self) -> bool:
        """It is done and has a result."""
        return self.is_done and self._error is None

    def result(self) -> T:
        """Of a job that is done. Raises what the computation raised."""
        assert self.is_done
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]

    def abandon(self, error: LatticeworkError) -> None:
        """Ends it where it is. error: what `result` raises from now on."""
        if self.is_done:
            return
        if self._thread is not None:
            self._is_abandoned = True
            self.resume(0.0)
        self.is_done = True
        self._compute = None
        self._error = error

    def breathe(self) -> None:
        """Called by the computation itself: pauses it when its time is over."""
        while not self._is_abandoned and time.monotonic() >= self._deadline:
            assert self._thread is not None
            self._thread.pause()
        if self._is_abandoned:
            raise Abandoned

    def _run(self) -> None:
        assert self._compute is not None
        try:
            self._result = self._compute()
        except LatticeworkError as error:
            self._error = error.with_traceback(None)  # which would hold all that was made so far
        except BaseException as error:  # whoever asks for the result gets it
            self._error = error
        self._compute = None
        self.is_done = True


class _Breathing(Protocol):
    def breathe(self) -> None: ...


class Pace:
    """Called without arguments wherever a computation may pause; does nothing outside of a job. Owner of the threads
    that wait for jobs."""

    def __init__(self) -> None:
        self.job: _Breathing | None = None  # the one that runs
        self._idle: list[_Thread] = []

    def __call__(self) -> None:
        if self.job is not None:
            self.job.breathe()

    def thread(self) -> _Thread:
        return self._idle.pop() if self._idle else _Thread()

    def give_back(self, thread: _Thread) -> None:
        """The work of a thread is done."""
        thread.work = None
        if self._idle:
            thread.end()
        else:
            self._idle.append(thread)


class Pieces:
    """Owner of the jobs of one engine.

    most_seconds: what all of them together may have of one step. pace: what their computations call.
    """

    def __init__(self, pace: Pace, most_seconds: float) -> None:
        self._pace = pace
        self._most = most_seconds
        self._usual = 0.0  # seconds of a step without jobs
        self._left = 0.0  # seconds that this step's jobs may still have
        self._jobs: list[tuple[Job[object], str, Fault]] = []

    def __len__(self) -> int:
        """Jobs that are not done."""
        return len(self._jobs)

    def start(self, compute: Callable[[], T], what: str, fault: Fault = lambda: None) -> Job[T]:
        """A new job, begun if there is time left in this step. what: its name in the error of one that takes too long.
        Whoever started it looks whether it is done."""
        job = Job(self._pace, compute)
        self._jobs.append((job, what, fault))  # type: ignore[arg-type]
        if self._left > 0:
            self._piece(self._jobs[-1])
        return job

    def begin(self, is_waited: bool) -> None:
        """A step begins: jobs go on for their share of it, and what they leave is for new ones. is_waited: somebody
        waits for a token of this step."""
        share = max(LEAST_SECONDS, SHARE * self._usual) if is_waited else self._most
        self.go_on(min(share, self._most))
        self._left = max(self._left, LEAST_SECONDS)

    def go_on(self, seconds: float) -> None:
        """Jobs go on for so long, the least served first."""
        self._left = seconds
        while self._jobs and self._left > 0:
            self._piece(min(self._jobs, key=lambda one: one[0].seconds))

    def drop_unwanted(self) -> None:
        """Ends the jobs that have a fault already."""
        for one in list(self._jobs):
            error = one[2]()
            if error is not None:
                one[0].abandon(error)
                self._jobs.remove(one)

    def observe(self, seconds: float) -> None:
        """A step took so long, jobs not counted."""
        self._usual += 0.1 * (seconds - self._usual) if self._usual else seconds

    def _piece(self, one: tuple[Job[object], str, Fault]) -> None:
        job, what, fault = one
        began = time.monotonic()
        is_done = job.resume(began + min(LEAST_SECONDS, self._left))
        self._left -= time.monotonic() - began
        if not is_done:
            error = fault()
            if error is None and job.seconds > JOB_SECONDS:
                error = ConstraintError(f"{what} takes longer than {JOB_SECONDS:g} seconds", field="constraint")
            if error is not None:
                job.abandon(error)
        if job.is_done:
            self._jobs.remove(one)


def gone() -> LatticeworkError:
    """The fault of a job that nobody waits for."""
    return Cancelled("nobody waits for this any more")
