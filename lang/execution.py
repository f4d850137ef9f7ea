"""How a run of a body goes: in this thread, in a thread of few, or in an event loop.

    body ── returns ──▶ whatever is unanswered is waited for ──▶ over
         └─ raises ───▶ the rest is cancelled ────────────────▶ over, and readers get the same error

A body that has returned holds no thread: the last answer ends the run. This file knows no arguments.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Coroutine
from functools import partial
from typing import Any

from latticework.lang.asynchronous import Body, call_body
from latticework.lang.backends.base import Backend
from latticework.lang.backends.default import chosen_backend, default_backend
from latticework.lang.run import Run
from latticework.lang.state import State
from latticework.lang.waiting import run_through_async
from latticework.lang.workers import Workers

MAX_BODIES = 1024  # plain bodies of one program that run at once


class Execution:
    """The runs of one program. Owner of the threads that plain bodies have, when nobody waits in theirs."""

    def __init__(self, function: Body) -> None:
        self._function = function
        self._workers = Workers(MAX_BODIES, f"runs of {function.name}")
        self._tasks: set[asyncio.Task[None]] = set()  # an event loop keeps no task alive by itself

    # ------------------------------------------------------------ in threads

    def execute(self, run: Run, bound: inspect.BoundArguments) -> None:
        """Runs the body and waits for all it asked for. Raises the first error; the run is over either way."""
        if self._function.is_async:
            return _in_a_loop(self.execute_async(run, bound))
        try:
            run.result = call_body(self._function, State(run, run.root), bound)
            run.finish()
        except BaseException as error:
            run.abort(error)
            raise
        finally:
            run.end()
        run.raise_failure()  # its end may fail, too

    def start(self, run: Run, bound: inspect.BoundArguments) -> None:
        """Runs the body beside the caller. What goes wrong is kept in the run, for whoever reads it."""
        if not self._function.is_async:
            self._workers.submit(partial(self._run_quietly, run, bound))
        elif _in_loop():
            self.start_async(run, bound)
        else:
            name = f"run of {self._function.name}"
            work = partial(_in_a_loop, self._execute_quietly(run, bound))
            threading.Thread(target=work, name=name, daemon=True).start()

    def _run_quietly(self, run: Run, bound: inspect.BoundArguments) -> None:
        run.waiting.on_wait = self._workers.on_wait
        try:
            self.run_body(run, bound)
            if run.deadline is not None:
                run.finish()  # somebody has to see that it passes
        except BaseException as error:
            run.abort(error)
            run.end()

    def run_body(self, run: Run, bound: inspect.BoundArguments) -> None:
        """Runs a plain body; the last answer ends the run. Raises what the body raises."""
        run.leave(call_body(self._function, State(run, run.root), bound))

    # ------------------------------------------------------------ in an event loop

    async def execute_async(self, run: Run, bound: inspect.BoundArguments, workers: Workers | None = None) -> None:
        """The same as `execute`, awaited. workers: whose threads a plain body has."""
        try:
            if self._function.is_async:
                run.result = await call_body(self._function, State(run, run.root), bound)
                await run_through_async(run, run.finishing())
            else:
                workers = workers or self._workers
                run.waiting.on_wait = workers.on_wait
                await workers.call(partial(self.run_body, run, bound))
                await run_through_async(run, run.being_over(None))
                run.raise_failure()
        except asyncio.CancelledError:
            run.cancel()
            raise
        except BaseException as error:
            run.abort(error)
            raise
        finally:
            run.end()
        run.raise_failure()

    def start_async(self, run: Run, bound: inspect.BoundArguments) -> None:
        """Runs the body in a task of its own. What goes wrong is kept in the run."""
        task = asyncio.get_running_loop().create_task(self._execute_quietly(run, bound))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _execute_quietly(self, run: Run, bound: inspect.BoundArguments) -> None:
        try:
            await self.execute_async(run, bound)
        except asyncio.CancelledError:
            raise
        except BaseException:
            assert run.failure is not None

    async def backend(self, given: Backend | None) -> Backend:
        """The one given, or the default one, which may have to be started first."""
        chosen = given or chosen_backend()
        return chosen if chosen is not None else await asyncio.to_thread(default_backend)


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _in_a_loop(work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` to its end in a loop of its own; in another thread where this one has a loop that runs."""
    if not _in_loop():
        asyncio.run(work)
        return
    raised: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="run of an async program", daemon=True)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
