"""One run of a compiled program: arguments in, an ordinary `Run` out, whose ops are there from the start.

Nothing here costs a thread: the backend's answers end the run. This file knows no batch and no trace.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress

import msgspec

from latticework.lang.backends.base import Backend, Listener, Session
from latticework.lang.backends.calls import Calling, Encoded, Terms
from latticework.lang.backends.stepwise import call_stepwise
from latticework.lang.branch import Branch, Slot
from latticework.lang.check import Place
from latticework.lang.errors import DeadlineExceeded, InvalidArgument
from latticework.lang.expr import Piece, checked_text
from latticework.lang.ir import Arg, Fork
from latticework.lang.layout import Filling, Layout, each_blank
from latticework.lang.record import record
from latticework.lang.run import Run
from latticework.lang.settings import Settings
from latticework.lang.state import State


class Prepared(msgspec.Struct, frozen=True):
    """What all calls of a program have in common."""

    program: Encoded
    layout: Layout
    name: str = "program"


class Call:
    """A run under way. `state` reads from it."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.state = State(run, run.root, outside=True)

    def finish(self) -> None:
        """Waits until it is over. Raises what went wrong; the run is over either way."""
        try:
            self.run.finish()
        except BaseException as error:
            self.run.abort(error)
            raise
        finally:
            self.run.end()
        self.run.raise_failure()  # its end may fail, too

    async def finished(self) -> None:
        """The same, for a task: cancelling it cancels the run."""
        loop = asyncio.get_running_loop()
        over = asyncio.Event()

        def tell() -> None:
            with suppress(RuntimeError):  # the loop is gone, and whoever waited with it
                loop.call_soon_threadsafe(over.set)

        self.run.when_over(tell)
        try:
            await _wait(over, self.run.deadline)
        except BaseException as error:
            self.run.abort(error)
            self.run.end()
            raise
        self.run.finish()


async def _wait(over: asyncio.Event, deadline: float | None) -> None:
    if deadline is None:
        await over.wait()
        return
    waiter = asyncio.ensure_future(over.wait())
    try:
        await asyncio.wait({waiter}, timeout=max(0.0, deadline - time.monotonic()))
    finally:
        waiter.cancel()
    if not over.is_set():
        raise DeadlineExceeded("the run took longer than it was given")


def begin(prepared: Prepared, settings: Settings, arguments: Mapping[str, str], backend: Backend, item: int) -> Call:
    """Starts a run. Returns at once. Raises ConnectionLost, Busy, or Unsupported."""
    calling = _Calling(backend, prepared.program, arguments)
    run = Run(calling, settings.terms(item))
    if settings.record is not None:
        record(settings.record, run, backend, prepared.name, prepared.program.program, arguments)
    branches, slots = _branches(prepared, arguments)
    filling = Filling(arguments, slots)
    for branch, known, own in zip(branches, prepared.layout.variables, prepared.layout.own, strict=True):
        branch.variables = {name: filling.variable(template) for name, template in known.items()}
        branch.own = dict.fromkeys(own)
    result = prepared.layout.result
    run.load(branches, lambda: each_blank(result, lambda blank: filling.composed(blank).text()))
    calling.start()
    run.settle()  # a program that draws nothing is over
    return Call(run)


class _Calling:
    """A backend for a single run, and its session: opened first, so that the run has its slots when answers come."""

    def __init__(self, backend: Backend, program: Encoded, arguments: Mapping[str, str]) -> None:
        self.name = backend.name
        self._backend = backend
        self._program = program
        self._arguments = arguments
        self._listener: Listener = lambda event: None
        self._terms: Terms | None = None
        self._session: Session | None = None
        self._closed = False

    def open_run(self, terms: Terms, listener: Listener) -> _Calling:
        self._terms, self._listener = terms, listener
        return self

    def start(self) -> None:
        """Raises what the backend raises: the run has not begun then."""
        assert self._terms is not None, "it is opened before it starts"
        if isinstance(self._backend, Calling):
            self._session = self._backend.call(self._program, self._arguments, self._terms, self._listener)
        else:
            self._session = call_stepwise(self._backend, self._program, self._arguments, self._terms, self._listener)
        if self._closed:  # its answers ended it before there was a session to close
            self._session.close()

    def append(self, branch: int, first: int, ops: object) -> None:
        raise AssertionError("a loaded run has nothing to append")

    def close(self) -> None:
        self._closed = True
        if self._session is not None:
            self._session.close()

    def shutdown(self) -> None:
        """The backend is not this run's."""


def _branches(prepared: Prepared, arguments: Mapping[str, str]) -> tuple[list[Branch], dict[Place, Slot]]:
    """The branches of a run with all their slots, as if everything had been appended."""
    made = {0: Branch(0)}
    slots: dict[Place, Slot] = {}
    blocks = zip(prepared.program.program.branches, prepared.layout.sources, strict=True)
    for index, (block, sources) in enumerate(blocks):
        branch = made[index]
        for position, (op, source) in enumerate(zip(block.ops, sources, strict=True)):
            slot = slots[index, position] = Slot(branch, Piece(op, source.decoder), source.line)
            branch.slots.append(slot)
            if isinstance(op, Arg):
                slot.text = arguments[op.name]
            elif isinstance(op, Fork):
                children = [Branch(child, branch) for child in op.children]
                branch.children += children
                made.update(zip(op.children, children, strict=True))
    return [made[index] for index in range(len(made))], slots


def argument_text(name: str, value: object) -> str:
    """What an argument's value is in text. Raises InvalidArgument for what is no plain value."""
    if not is_plain(value):
        raise InvalidArgument(
            f"argument {name!r} is a {type(value).__name__}; a compiled program takes text and plain values",
            field=name,
            hint="turn it into text with str(...)",
        )
    return checked_text(str(value), field=name)


def is_plain(value: object) -> bool:
    """str, int, float, bool, None, and lists, tuples and dicts of them."""
    match value:
        case None | str() | bool() | int() | float():
            return True
        case list() | tuple():
            return all(map(is_plain, value))
        case dict():
            return all(isinstance(key, str | int) and is_plain(part) for key, part in value.items())
        case _:
            return False
