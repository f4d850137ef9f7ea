"""Many runs of one program: order kept, a bounded number at once, one progress bar.

Threads only run bodies and wait; the work is done by the backend, which sees all open runs together.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Literal, Protocol

from latticework.lang.backends.base import Backend
from latticework.lang.backends.default import default_backend
from latticework.lang.errors import InvalidArgument
from latticework.lang.progress import progress, silent
from latticework.lang.run import Run
from latticework.lang.settings import Settings
from latticework.lang.state import State

AUTO_THREADS = 32  # they mostly wait; as many runs are open at once
MAX_THREADS = 1024
PROGRESS_SECONDS = 0.1


class Runnable(Protocol):
    """What a batch needs of a program."""

    name: str

    def bind_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments: ...
    def open(self, settings: Settings, backend: Backend, item: int) -> Run: ...
    def execute(self, run: Run, bound: inspect.BoundArguments) -> None: ...


def run_batch(
    function: Runnable,
    items: Sequence[Mapping[str, Any]],
    settings: Settings,
    *,
    progress_bar: bool = False,
    num_threads: int | Literal["auto"] = "auto",
    return_exceptions: bool = False,
) -> list[State]:
    """One run per item, at most `num_threads` at once ("auto": 32), in one backend and under one seed.

    All arguments are checked before anything runs. When all runs are over, the first failed item's error is
    raised, or with return_exceptions stands in its place in the list. Ctrl-C cancels what is open.
    """
    bound = [_bind(function, index, item) for index, item in enumerate(items)]
    threads = _threads(num_threads, len(bound))
    if not bound:
        return []
    batch = _Batch(function, bound, settings, settings.backend or default_backend())
    with progress(function.name, len(bound)) if progress_bar else silent() as show:
        batch.run(threads, lambda: show(batch.done, batch.tokens))
    if not return_exceptions:
        for result in batch.results:
            if isinstance(result, BaseException):
                raise result
    return batch.results


def _bind(function: Runnable, index: int, item: Mapping[str, Any]) -> inspect.BoundArguments:
    if not isinstance(item, Mapping):
        raise InvalidArgument(f"item {index} is a {type(item).__name__}; expected a dict of arguments", field="items")
    try:
        return function.bind_arguments((), item)
    except InvalidArgument as error:
        raise InvalidArgument(f"item {index}: {error.message}", field="items", hint=error.hint) from None


def _threads(asked: int | Literal["auto"], items: int) -> int:
    if asked == "auto":
        return max(1, min(AUTO_THREADS, items))
    if not isinstance(asked, int) or isinstance(asked, bool) or not 1 <= asked <= MAX_THREADS:
        raise InvalidArgument(
            f"num_threads is {asked!r}; expected 'auto' or an integer from 1 to {MAX_THREADS}", field="num_threads"
        )
    return asked


class _Batch:
    """The runs of one batch. `results` holds a State or an exception for each item once `run` returns."""

    def __init__(
        self, function: Runnable, bound: list[inspect.BoundArguments], settings: Settings, backend: Backend
    ) -> None:
        self.function = function
        self.bound = bound
        self.settings = settings
        self.backend = backend
        self.results: list[Any] = [None] * len(bound)
        self.done = 0
        self.tokens = 0
        self._open: set[Run] = set()
        self._cancelled = False
        self._lock = threading.Lock()

    def run(self, threads: int, show: Callable[[], None]) -> None:
        with ThreadPoolExecutor(threads, thread_name_prefix="batch") as pool:
            futures = [pool.submit(self._run_item, index) for index in range(len(self.bound))]
            try:
                _watch(futures, show)
            except BaseException:
                for future in futures:
                    future.cancel()
                self._cancel()
                raise

    def _run_item(self, index: int) -> None:
        run: Run | None = None
        try:
            run = self.function.open(self.settings, self.backend, index)
            with self._lock:
                self._open.add(run)
                cancelled = self._cancelled
            if cancelled:
                run.cancel()
            self.function.execute(run, self.bound[index])
            self.results[index] = State(run, run.root, outside=True)
        except Exception as error:
            self.results[index] = error
        finally:
            with self._lock:
                self.done += 1
                if run is not None:
                    self._open.discard(run)
                    self.tokens += run.usage().output

    def _cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            runs = list(self._open)
        for run in runs:
            run.cancel()


def _watch(futures: Sequence[Future[None]], show: Callable[[], None]) -> None:
    """Waits for all, showing how far they are. Raises what a body raised that is no Exception (SystemExit)."""
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, timeout=PROGRESS_SECONDS)
        show()
        for future in done:
            future.result()
