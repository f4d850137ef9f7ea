"""What a read waits for, apart from how: every read is a generator that yields a `Wait` where it cannot go on.

    State        value = run_through(run, read)          blocks the thread at each Wait
    AsyncState   value = await Awaited(run, read)        lets the event loop go on meanwhile

So reading is written once. This file knows no states and no ops.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any, Generic, NoReturn, Protocol, TypeAlias, TypeVar

import msgspec

from latticework.lang.errors import InvalidArgument

T = TypeVar("T")


class Wait(msgspec.Struct, frozen=True):
    """Go on once `ready()`, which is called under the run's lock. timeout: seconds. what: for the error."""

    ready: Callable[[], bool]
    timeout: float | None
    what: str


Waiting: TypeAlias = Generator[Wait, None, T]
"""A read under way; it returns the value."""

Growing: TypeAlias = Generator[Wait | T, None, None]
"""A read of something that grows: it yields the pieces, and a Wait before one that is not there yet."""


class Waiter(Protocol):
    """A run, as far as waiting goes."""

    def wait(self, ready: Callable[[], bool], timeout: float | None, what: str) -> None: ...
    async def wait_async(self, ready: Callable[[], bool], timeout: float | None, what: str) -> None: ...


def run_through(run: Waiter, read: Waiting[T]) -> T:
    """The value, in this thread."""
    while True:
        try:
            wait = next(read)
        except StopIteration as stop:
            value: T = stop.value
            return value
        _resume(read, wait, run)


def _resume(read: Waiting[Any], wait: Wait, run: Waiter) -> None:
    try:
        run.wait(wait.ready, wait.timeout, wait.what)
    except BaseException:
        read.close()
        raise


async def run_through_async(run: Waiter, read: Waiting[T]) -> T:
    """The value, in this task."""
    try:
        while True:
            try:
                wait = next(read)
            except StopIteration as stop:
                value: T = stop.value
                return value
            await run.wait_async(wait.ready, wait.timeout, wait.what)
    finally:
        read.close()


def iterate(run: Waiter, read: Growing[T]) -> Iterator[T]:
    """The pieces, in this thread."""
    try:
        for step in read:
            if isinstance(step, Wait):
                run.wait(step.ready, step.timeout, step.what)
            else:
                yield step
    finally:
        read.close()


async def iterate_async(run: Waiter, read: Growing[T]) -> AsyncIterator[T]:
    """The pieces, in this task."""
    try:
        for step in read:
            if isinstance(step, Wait):
                await run.wait_async(step.ready, step.timeout, step.what)
            else:
                yield step
    finally:
        read.close()


class Awaited(Generic[T]):
    """`await` it for the value. Put into text instead, it raises: its name would stand there."""

    __slots__ = ("_read", "_run", "_what")

    def __init__(self, run: Waiter, read: Callable[[], Waiting[T]], what: str) -> None:
        self._run = run
        self._read = read
        self._what = what

    def __await__(self) -> Generator[Any, None, T]:
        return run_through_async(self._run, self._read()).__await__()

    def _refuse(self, *_: object) -> NoReturn:
        raise InvalidArgument(
            f"{self._what} was used before it was awaited", hint=f"an async program reads with `await {self._what}`"
        )

    __str__ = __format__ = __add__ = __radd__ = __bool__ = __len__ = __iter__ = _refuse

    def __eq__(self, other: object) -> bool:
        self._refuse()

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<to be awaited: {self._what}>"
