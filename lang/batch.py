"""Many runs of one program: order kept, a bounded number at once, one progress bar.

    caller's thread ◀── results, in order ── window ── one event loop ──▶ a task per open run
                                                            └── few threads, for plain bodies that wait

The loop has a thread of its own, so that runs go on whatever the caller does between two results. Items are taken as
there is room for them, so a batch that yields its results holds no more than a window of runs.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

from latticework.lang.backends.base import Backend
from latticework.lang.backends.default import default_backend
from latticework.lang.errors import InvalidArgument
from latticework.lang.events import Usage
from latticework.lang.execution import Execution
from latticework.lang.progress import progress, silent
from latticework.lang.run import Run
from latticework.lang.settings import Settings
from latticework.lang.state import State
from latticework.lang.workers import Workers

AUTO_OPEN = 256  # each is a few messages; the scheduler bounds what is computed at once
AUTO_THREADS = 32  # they mostly wait
MAX_THREADS = 1024
PROGRESS_SECONDS = 0.1

Item: TypeAlias = Mapping[str, Any] | Sequence[Any]
Threads: TypeAlias = int | Literal["auto"]


class Runnable(Protocol):
    """What a batch needs of a program."""

    name: str
    is_async: bool
    body: Callable[..., Any]

    def bind_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments: ...
    def open(self, settings: Settings, backend: Backend, item: int) -> Run: ...


def run_batch(
    function: Runnable,
    items: Iterable[Item],
    settings: Settings,
    *,
    progress_bar: bool = False,
    num_threads: Threads = "auto",
    return_exceptions: bool = False,
) -> list[State]:
    """One run per item, in one backend and under one seed; their states in order.

    All arguments are checked before anything runs. When all runs are over, the first failed item's error is
    raised, or with return_exceptions stands in its place in the list. Ctrl-C cancels what is open.
    """
    bound = [_bind(function, index, item) for index, item in enumerate(items)]
    _check_threads(num_threads)
    if not bound:
        return []
    results = list(_results(function, bound, len(bound), settings, progress_bar, num_threads, ahead=len(bound)))
    if not return_exceptions:
        for result in results:
            if isinstance(result, BaseException):
                raise result
    return results


def generate_batch(
    function: Runnable,
    items: Iterable[Item],
    settings: Settings,
    *,
    progress_bar: bool = False,
    num_threads: Threads = "auto",
    return_exceptions: bool = False,
) -> Iterator[State]:
    """The same, as an iterator that yields each state once those before it are there. `items` may be endless: they are
    taken, and checked, as results are. An error is raised, or yielded, in its turn; ending the iterator cancels what
    is open. Nothing starts before the first state is asked for."""
    _check_threads(num_threads)
    total = len(items) if isinstance(items, Sequence) else None
    if total is not None:
        items = tuple(items)
        for index, item in enumerate(items):
            _bind(function, index, item)
    return _generated(function, items, total, settings, progress_bar, num_threads, return_exceptions)


def _generated(
    function: Runnable,
    items: Iterable[Item],
    total: int | None,
    settings: Settings,
    progress_bar: bool,
    num_threads: Threads,
    return_exceptions: bool,
) -> Iterator[State]:
    bound = (_bind(function, index, item) for index, item in enumerate(items))
    limit = AUTO_OPEN if num_threads == "auto" else num_threads
    results = _results(function, bound, total, settings, progress_bar, num_threads, ahead=limit)
    try:
        for result in results:
            if isinstance(result, BaseException) and not return_exceptions:
                raise result
            yield result
    finally:
        results.close()


def _results(
    function: Runnable,
    bound: Iterable[inspect.BoundArguments],
    total: int | None,
    settings: Settings,
    progress_bar: bool,
    num_threads: Threads,
    ahead: int,
) -> Generator[Any, None, None]:
    """A State or an exception for each item. ahead: how many items after the last one given may have begun."""
    open_runs, threads = (AUTO_OPEN, AUTO_THREADS) if num_threads == "auto" else (num_threads, num_threads)
    batch = _Batch(function, settings, settings.backend or default_backend(), open_runs, threads, ahead)
    with progress(function.name, total) if progress_bar else silent() as show:
        yield from batch.results(iter(bound), lambda: show(batch.done, batch.usage))


def _bind(function: Runnable, index: int, item: Item) -> inspect.BoundArguments:
    try:
        if isinstance(item, Mapping):
            return function.bind_arguments((), item)
        if isinstance(item, tuple | list):
            return function.bind_arguments(item, {})
    except InvalidArgument as error:
        raise InvalidArgument(f"item {index}: {error.message}", field="batch_kwargs", hint=error.hint) from None
    raise InvalidArgument(
        f"item {index} is a {type(item).__name__}; expected a dict of arguments, or a tuple of them in order",
        field="batch_kwargs",
    )


def _check_threads(asked: Threads) -> None:
    if asked != "auto" and (not isinstance(asked, int) or isinstance(asked, bool) or not 1 <= asked <= MAX_THREADS):
        raise InvalidArgument(
            f"num_threads is {asked!r}; expected 'auto' or an integer from 1 to {MAX_THREADS}", field="num_threads"
        )


class _Batch:
    """The runs of one batch. Owner of its loop's thread and of what is open; both end with `results`.

    done, usage: the runs that are over, and their tokens. What both threads touch is under one lock.
    """

    def __init__(
        self,
        function: Runnable,
        settings: Settings,
        backend: Backend,
        max_open: int,
        threads: int,
        ahead: int,
    ) -> None:
        self.done = 0
        self.usage = Usage()
        self._function = function
        self._settings = settings
        self._backend = backend
        self._max_open = max_open
        self._ahead = ahead
        self._execution = Execution(function)
        self._workers = Workers(threads, f"batch of {function.name}")
        self._news = threading.Condition()
        self._results: dict[int, Any] = {}
        self._given = 0  # results that the caller has had
        self._begun = 0
        self._failure: BaseException | None = None  # of the batch itself, or no Exception: it ends at once
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._over: asyncio.Event

    # ------------------------------------------------------------ the caller's thread

    def results(self, bound: Iterator[inspect.BoundArguments], show: Callable[[], None]) -> Generator[Any, None, None]:
        """In order. Items are taken in this thread, as there is room for them; all that is open is cancelled where it
        is left early."""
        ready = threading.Event()
        thread = threading.Thread(
            target=asyncio.run, args=(self._serve(ready),), name=f"batch of {self._function.name}", daemon=True
        )
        thread.start()
        ready.wait()
        try:
            more = True
            for index in itertools.count():
                more = more and self._begin(bound)
                while index not in self._results and (more or index < self._begun):
                    self._wait(index, show)
                    more = more and self._begin(bound)
                if index not in self._results:
                    return
                self._given = index + 1
                yield self._results.pop(index)
        finally:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._end)
            thread.join()
            show()

    def _begin(self, bound: Iterator[inspect.BoundArguments]) -> bool:
        """Starts runs as far as there is room; whether there may be more items."""
        assert self._loop is not None
        while self._begun - self.done < self._max_open and self._begun - self._given < self._ahead:
            arguments = next(bound, None)
            if arguments is None:
                return False
            index, self._begun = self._begun, self._begun + 1
            self._loop.call_soon_threadsafe(self._start, index, arguments)
        return True

    def _wait(self, index: int, show: Callable[[], None]) -> None:
        """Until something has ended, or there is something to show. Raises what ends the batch."""
        with self._news:
            done = self.done
            self._news.wait_for(
                lambda: index in self._results or self.done > done or self._failure is not None, PROGRESS_SECONDS
            )
            if self._failure is not None:
                raise self._failure
        show()

    # ------------------------------------------------------------ the loop's thread

    async def _serve(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        ready.set()
        await self._over.wait()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self) -> None:
        self._over.set()

    def _start(self, index: int, arguments: inspect.BoundArguments) -> None:
        assert self._loop is not None
        task = self._loop.create_task(self._run_item(index, arguments))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_item(self, index: int, arguments: inspect.BoundArguments) -> None:
        run: Run | None = None
        result: Any = None
        try:
            run = self._function.open(self._settings, self._backend, index)
            await self._execution.execute_async(run, arguments, self._workers)
            result = State(run, run.root, outside=True)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # one that is no Exception would end the loop, and nobody would hear
            result = error
        with self._news:
            self._results[index] = result
            self.done += 1
            if isinstance(result, BaseException) and not isinstance(result, Exception):
                self._failure = self._failure or result
            if run is not None:
                self.usage += run.usage()
            self._news.notify()
