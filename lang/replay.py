"""Recorded programs, run again: the ops and seeds of the recording, no Python body, and what is different now.

A program that was interpreted is replayed as its body appended it then: text that the body made of an answer stays what
it was, while the model goes on from its answers of now. Texts, finish reasons and names of errors are compared; scores
and usage, which other hardware may round otherwise, are kept side by side.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal

import msgspec

from latticework.lang import errors
from latticework.lang.backends.base import Backend
from latticework.lang.backends.calls import Encoded
from latticework.lang.backends.default import default_backend
from latticework.lang.call import CallSettings, Prepared, begin
from latticework.lang.check import Place
from latticework.lang.errors import LatticeworkError
from latticework.lang.ir import Op, Program, describe
from latticework.lang.layout import Layout, Source
from latticework.lang.record import Answer, OpError, Output, Recorded, outcome, read_records
from latticework.lang.settings import Settings

CIRCUMSTANCES = frozenset({"Cancelled", "DeadlineExceeded"})
"""Errors that say nothing of an op: whoever ran it was in a hurry."""


class Difference(msgspec.Struct, frozen=True):
    """An op that says something else now. what: "text", "finish", or "outcome", where one of the two is an error.
    sample: which of several outputs. first: of texts, the first character that differs."""

    branch: int
    position: int
    op: str
    what: Literal["text", "finish", "outcome"]
    recorded: str
    now: str
    sample: int = 0
    first: int | None = None


class Replayed(msgspec.Struct, frozen=True):
    """A recorded run and the same run now. line: of the file. left_out: ops that the recorded run was cut off from,
    and that are not compared."""

    line: int
    recorded: Recorded
    answers: tuple[Answer, ...]
    errors: tuple[OpError, ...]
    differences: tuple[Difference, ...]
    left_out: int

    @property
    def same(self) -> bool:
        """Nothing that was compared is different."""
        return not self.differences


def replay(
    path: str | os.PathLike[str], backend: Backend | None = None, timeout: float | None = None
) -> list[Replayed]:
    """Runs every recorded run of a file again, one after the other, in `backend`.

    timeout: seconds for each. What goes wrong in an op is a difference, or the same as before. Raises InvalidArgument
    for a file or line that cannot be read, before the first run; ConnectionLost or Busy where the backend does not take
    a run."""
    records = list(read_records(path))
    return list(replay_each(records, backend or default_backend(), timeout)) if records else []


def replay_each(
    records: list[tuple[int, Recorded]], backend: Backend, timeout: float | None = None
) -> Iterator[Replayed]:
    """The same, as an iterator over what `read_records` has given."""
    for line, recorded in records:
        yield _replay(line, recorded, backend, timeout)


def _replay(line: int, recorded: Recorded, backend: Backend, timeout: float | None) -> Replayed:
    program = recorded.program
    settings = Settings(sampling=recorded.sampling, seed=recorded.seed, timeout=timeout)
    chosen = CallSettings(settings=settings, max_total_tokens=recorded.max_total_tokens)
    prepared = Prepared(Encoded.of(program), _layout(program, line), recorded.name)
    call = begin(prepared, chosen, recorded.arguments, backend, recorded.item)
    with suppress(LatticeworkError):  # each op has its error, and is compared
        call.finish()
    answers, failed = outcome(call.run)
    differences, left_out = _compare(recorded, answers, failed)
    return Replayed(line, recorded, answers, failed, differences, left_out)


def _layout(program: Program, line: int) -> Layout:
    """Of a program whose variables nobody reads. An error of an op names the line of the recording."""
    source = Source(("recording", line))
    count = len(program.branches)
    return Layout(tuple((source,) * len(branch.ops) for branch in program.branches), ({},) * count, ((),) * count)


# ---------------------------------------------------------------- comparing


def _compare(
    recorded: Recorded, answers: tuple[Answer, ...], failed: tuple[OpError, ...]
) -> tuple[tuple[Difference, ...], int]:
    before, now = _by_place(recorded.answers, recorded.errors), _by_place(answers, failed)
    differences: list[Difference] = []
    left_out = 0
    for place in sorted(before.keys() | now.keys()):
        then = before.get(place)
        if then is None or (isinstance(then, OpError) and _is_circumstance(then.type)):
            left_out += 1
        else:
            differences += _differences(place, _op(recorded.program, place), then, now.get(place))
    return tuple(differences), left_out


def _by_place(answers: tuple[Answer, ...], failed: tuple[OpError, ...]) -> dict[Place, Answer | OpError]:
    found: dict[Place, Answer | OpError] = {(one.branch, one.position): one for one in failed}
    return found | {(one.branch, one.position): one for one in answers}


def _is_circumstance(name: str) -> bool:
    """Whether an error came from the caller, or from the body itself, and not from running the op."""
    return name in CIRCUMSTANCES or not hasattr(errors, name)


def _op(program: Program, place: Place) -> Op | None:
    branch, position = place
    if 0 <= branch < len(program.branches) and 0 <= position < len(program.branches[branch].ops):
        return program.branches[branch].ops[position]
    return None


def _differences(place: Place, op: Op | None, then: Answer | OpError, now: Answer | OpError | None) -> list[Difference]:
    shown = describe(op) if op is not None else "no op"
    if not (isinstance(then, Answer) and isinstance(now, Answer)):
        said, says = _told(then), _told(now)
        return [] if said == says else [Difference(*place, shown, "outcome", said, says)]
    found: list[Difference] = []
    outputs, outputs_now = _outputs(then), _outputs(now)
    if len(outputs) != len(outputs_now):
        return [Difference(*place, shown, "outcome", f"{len(outputs)} outputs", f"{len(outputs_now)} outputs")]
    for sample, (one, other) in enumerate(zip(outputs, outputs_now, strict=True)):
        where: dict[str, Any] = {"sample": sample}
        if one.text != other.text:
            first = first_difference(one.text, other.text)
            found.append(Difference(*place, shown, "text", one.text, other.text, **where, first=first))
        if one.finish != other.finish:
            found.append(Difference(*place, shown, "finish", one.finish, other.finish, **where))
    return found


def _outputs(answer: Answer) -> tuple[Output, ...]:
    return answer.samples or (Output(answer.text, answer.finish, answer.seed),)


def _told(outcome: Answer | OpError | None) -> str:
    match outcome:
        case None:
            return "no answer"
        case OpError():
            return outcome.type
        case Answer():
            return f"text {outcome.text!r}"


def first_difference(one: str, other: str) -> int:
    """The index of the first character that is not the same in both."""
    shorter = min(len(one), len(other))
    return next((index for index in range(shorter) if one[index] != other[index]), shorter)
