"""Threads that run plain bodies: few while nobody waits, more while somebody does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from latticework.lang.workers import Workers

pytestmark = pytest.mark.timeout(60)


def run_all(workers: Workers, tasks: list[Callable[[], None]]) -> None:
    """Submits all and waits until all have run."""
    left = threading.Semaphore(0)

    def counted(task: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            task()
            left.release()

        return run

    for task in tasks:
        workers.submit(counted(task))
    for _ in tasks:
        left.acquire()


def test_tasks_begin_in_order() -> None:
    seen: list[int] = []
    run_all(Workers(1, "one"), [lambda number=number: seen.append(number) for number in range(100)])  # type: ignore[misc]
    assert seen == list(range(100))


def test_tasks_that_wait_have_a_thread_each_up_to_the_limit() -> None:
    workers = Workers(4, "four")
    lock, now, most = threading.Lock(), 0, 0
    barrier = threading.Barrier(4)

    def wait() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        workers.on_wait(True)
        barrier.wait(30)  # only four at once get through
        workers.on_wait(False)
        with lock:
            now -= 1

    run_all(workers, [wait] * 20)
    assert most == 4


def test_a_task_that_takes_long_does_not_hold_the_others_up() -> None:
    done = threading.Event()
    workers = Workers(2, "two")
    run_all(workers, [lambda: None, lambda: None])

    def long() -> None:
        assert done.wait(30)  # until the other one has run

    run_all(workers, [long, done.set])


def test_threads_end_when_there_is_nothing_to_do() -> None:
    workers = Workers(8, "ending workers")
    run_all(workers, [lambda: None] * 8)
    end = time.monotonic() + 20
    while any(thread.name == "ending workers" for thread in threading.enumerate()):
        assert time.monotonic() < end, "a thread stays"
        time.sleep(0.01)
    ran: list[int] = []
    run_all(workers, [lambda: ran.append(1)])
    assert ran == [1]  # they begin again


def test_a_wait_of_another_thread_changes_nothing() -> None:
    workers = Workers(1, "one")
    workers.on_wait(True)
    ran: list[int] = []
    run_all(workers, [lambda: ran.append(1)])
    assert ran == [1]


def test_a_call_gives_what_the_task_returns_or_raises_whatever_it_raises() -> None:
    workers = Workers(2, "two")

    def exit() -> None:
        raise SystemExit(3)

    def stop() -> None:
        raise StopIteration

    async def main() -> None:
        assert await workers.call(lambda: 5) == 5
        for task, error in ((exit, SystemExit), (stop, StopIteration), (lambda: 1 / 0, ZeroDivisionError)):
            caught: list[BaseException] = []
            try:
                await workers.call(task)
            except BaseException as raised:
                caught.append(raised)
            # A coroutine cannot let a StopIteration out: it becomes a RuntimeError about one.
            assert isinstance(caught[0], (error, RuntimeError))

    asyncio.run(main())
