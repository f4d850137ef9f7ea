"""What can be read of a branch, as generators that yield a `Wait` wherever they cannot go on (see waiting.py).

State drives them in a thread, AsyncState in a task. This file knows variables and slots; it knows no threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from latticework.lang.branch import (
    Branch,
    Composed,
    Gathered,
    Heard,
    Local,
    Part,
    Slot,
    Span,
    Variable,
    place,
    user_line,
)
from latticework.lang.errors import InvalidArgument, ProgramError, UnknownVariable
from latticework.lang.events import Done
from latticework.lang.expr import checked_text
from latticework.lang.ir import Role
from latticework.lang.run import Run
from latticework.lang.waiting import Growing, Wait, Waiting

R = TypeVar("R")


class View:
    """A branch, as a reader sees it. outside: the reader is beside the body, so that what is not there may still
    come."""

    __slots__ = ("branch", "outside", "run")

    def __init__(self, run: Run, branch: Branch, outside: bool) -> None:
        self.run = run
        self.branch = branch
        self.outside = outside

    # ------------------------------------------------------------ variables

    def text_of(self, name: str, timeout: float | None) -> Waiting[Any]:
        return self._reading(name, timeout, lambda slot, done: done.text)

    def value_of(self, name: str, timeout: float | None) -> Waiting[Any]:
        def decoded(slot: Slot, done: Done) -> Any:
            return slot.decoder.decode(name, done.text) if slot.decoder else done.text

        return self._reading(name, timeout, decoded)

    def done_of(self, name: str, timeout: float | None) -> Waiting[Any]:
        variable = yield from self._finding(name, timeout)
        if isinstance(variable, Local | Composed | Span):
            raise ProgramError(f"{name!r} was set by the program; only generated variables have a meta")
        return (yield from self._reading(name, timeout, lambda slot, done: done))

    def _reading(self, name: str, timeout: float | None, read: Callable[[Slot, Done], R]) -> Waiting[Any]:
        variable = yield from self._finding(name, timeout)
        yield from self.run.answering(slots_of(variable), timeout, f"variable {name!r}")
        return values_of(variable, read)

    def _finding(self, name: str, timeout: float | None) -> Waiting[Variable]:
        """The variable, at once; a reader beside the body waits until the body sets it or ends."""
        run, variables = self.run, self.branch.variables
        checked_name(name)
        if self.outside:
            yield Wait(lambda: name in variables or run.over, timeout, f"variable {name!r}")
        with run.condition:
            found = variables.get(name)
            known = ", ".join(map(repr, variables)) or "none"
        if found is not None:
            return found
        if run.failure:
            raise run.failure.exception()
        raise UnknownVariable(
            f"no op of this branch sets {name!r}; it has: {known}", field=name, where=place(user_line())
        )

    # ------------------------------------------------------------ text

    def text(self, timeout: float | None) -> Waiting[str]:
        slots = yield from self.settling(timeout)
        return "".join(slot.text for slot in slots)

    def messages(self, timeout: float | None) -> Waiting[list[dict[str, str]]]:
        messages: list[dict[str, str]] = []
        is_open = False
        for slot in (yield from self.settling(timeout)):
            if isinstance(slot.op, Role):
                is_open = slot.op.role is not None
                if slot.op.role:
                    messages.append({"role": slot.op.role, "content": ""})
            elif is_open:
                messages[-1]["content"] += slot.text
        return messages

    def settling(self, timeout: float | None) -> Waiting[list[Slot]]:
        """All of the branch, answered; for a reader beside the body, when the run is over."""
        run = self.run
        if self.outside:
            yield from run.being_over(timeout)
            if run.failure:
                raise run.failure.exception()
        with run.condition:
            slots = self.branch.history()
        yield from run.answering(slots, timeout, "the text")
        return slots

    def result(self) -> Waiting[Any]:
        """What the body has returned, once the run is over."""
        if self.outside:
            yield from self.run.being_over(None)
        return self.run.result

    # ------------------------------------------------------------ text as it grows

    def hearing(self, name: str | None, timeout: float | None) -> Growing[Heard]:
        """What is said in this branch, or in one variable, piece by piece."""
        if name is not None:
            variable = yield from self._finding(name, timeout)
            yield from self._hearing(variable, timeout)
            return
        seen = 0

        def more() -> bool:
            return len(self.branch.slots) > seen or self.run.over

        while True:
            if self.outside:
                yield Wait(more, timeout, "the text")
            with self.run.condition:
                slots = self.branch.history()[seen:]
            if not slots:
                break
            seen += len(slots)
            for slot in slots:
                yield from self.run.hearing(slot, timeout)
        if self.outside and self.run.failure:
            raise self.run.failure.exception()

    def _hearing(self, variable: Variable, timeout: float | None) -> Growing[Heard]:
        match variable:
            case Part(slot, of):
                yield from self._hearing_part(slot, of, timeout)
            case Local(value):
                yield Heard(None, str(value), (), 0, None)
            case Composed():
                yield from self.run.answering(slots_of(variable), timeout, "the text")
                yield Heard(None, variable.text(), (), 0, None)
            case _:
                for slot in slots_of(variable):
                    yield from self.run.hearing(slot, timeout)

    def _hearing_part(self, slot: Slot, of: Callable[[str, bool], str], timeout: float | None) -> Growing[Heard]:
        whole, said = "", 0
        for step in self.run.hearing(slot, timeout):
            if isinstance(step, Wait):
                yield step
                continue
            whole += step.text
            part = of(whole, step.done is not None)
            yield msgspec.structs.replace(step, text=part[said:])
            said = max(said, len(part))


def checked_name(name: object, field: str = "name") -> str:
    """A variable's name. Raises InvalidArgument."""
    if not isinstance(name, str) or not name:
        raise InvalidArgument(f"{field} is {name!r}; expected a non-empty string", field=field)
    return checked_text(name, field)


def slots_of(variable: Variable) -> list[Slot]:
    """The ops that a variable waits for."""
    match variable:
        case Slot():
            return [variable]
        case Part(slot):
            return [slot]
        case Span(slots):
            return list(slots)
        case Gathered(parts):
            return [slot for part in parts for slot in slots_of(part)]
        case Composed(pieces):
            return [piece[0] for piece in pieces if not isinstance(piece, str)]
        case Local():
            return []


def values_of(variable: Variable, read: Callable[[Slot, Done], R]) -> Any:
    """What `read` makes of each output of a variable that is answered."""
    match variable:
        case Slot():
            return _of_samples(variable, lambda done: done, read)
        case Part(slot):
            return _of_samples(slot, variable.done, read)
        case Gathered(parts):
            return [values_of(part, read) for part in parts]
        case Composed() | Span():
            return variable.text()
        case Local(value):
            return value


def _of_samples(slot: Slot, part: Callable[[Done], Done], read: Callable[[Slot, Done], R]) -> R | list[R]:
    done = slot.done
    assert done is not None, "a variable's op ends with a Done"
    return [read(slot, part(sample)) for sample in done.samples] if done.samples else read(slot, part(done))
