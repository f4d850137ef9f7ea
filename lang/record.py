"""What a run was and what it was answered, as one line of JSON: `f.run(..., record="x.jsonl")`.

    run ends ──▶ `Recorded` ──▶ a line at the end of the file ──▶ `read_records` ──▶ lang/replay.py

A line has the ops, the seeds and the answers; of a backend its name, of an error its type, and of neither a word more,
so no key can be in it. This file knows no backend and runs nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import BinaryIO

import msgspec

from latticework.lang.backends.base import Backend
from latticework.lang.branch import Slot
from latticework.lang.check import check_program
from latticework.lang.errors import InvalidArgument, LatticeworkError, RuntimeFailure
from latticework.lang.events import Done, Finish, Usage
from latticework.lang.ir import Gen, Program, Sampling, Select
from latticework.lang.run import Run

FORMAT = 1
MAX_LINE_BYTES = 64 << 20
MAX_RUNS = 100_000


class Output(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One output of a gen. complete: None in a line of an older build, which told neither that nor what stopped it.
    tokens, logprobs: where they were asked for; None for minus infinity, which JSON lacks."""

    text: str
    finish: Finish
    seed: int
    complete: bool | None = None
    stopped_by: str | int | None = None
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float | None, ...] = ()


class Answer(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What the op at a place was answered; see `Done` and `Output`. samples: of a gen that has several."""

    branch: int
    position: int
    text: str
    finish: Finish
    seed: int = 0
    usage: Usage = Usage()
    scores: tuple[float | None, ...] = ()
    samples: tuple[Output, ...] = ()
    complete: bool | None = None
    stopped_by: str | int | None = None
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float | None, ...] = ()

    @property
    def outputs(self) -> tuple[Output, ...]:
        """All of them, whether one or several."""
        own = Output(self.text, self.finish, self.seed, self.complete, self.stopped_by, self.tokens, self.logprobs)
        return self.samples or (own,)


class OpError(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The op at a place has failed, with an error of this name."""

    branch: int
    position: int
    type: str


class Recorded(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run. version: of Latticework, where it is installed. program: of a compiled run its IR, of another the ops
    that its body appended. arguments: their text, where it was compiled. error: the name of what ended the run, the
    body's own errors too."""

    format: int = FORMAT
    version: str | None
    name: str
    backend: str
    model: str | None
    program: Program
    arguments: dict[str, str]
    sampling: Sampling
    seed: int
    item: int
    max_total_tokens: int | None
    answers: tuple[Answer, ...]
    errors: tuple[OpError, ...]
    error: str | None


class _Formatted(msgspec.Struct):
    format: int


# ---------------------------------------------------------------- writing


def checked_record(path: object) -> Path:
    """A file that lines can be appended to; made, where there is none. Raises InvalidArgument."""
    if not isinstance(path, str | os.PathLike):
        raise InvalidArgument(f"record is a {type(path).__name__}; expected the path of a file", field="record")
    found = Path(path)
    try:
        with found.open("ab"):
            return found
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"record is {str(path)!r}, which cannot be written: {error}", field="record") from None


def record(
    path: Path,
    run: Run,
    backend: Backend,
    name: str,
    program: Program | None = None,
    arguments: Mapping[str, str] | None = None,
) -> None:
    """Has a run written down when it ends, before anybody is told that it has. program: the one that it runs, where
    that is not what its body appends."""
    model = getattr(backend, "model", None)  # asked now, as it may ask a server
    begun = partial(
        Recorded,
        version=_version(),
        name=name,
        backend=backend.name,
        model=model if isinstance(model, str) else None,
        arguments=dict(arguments or {}),
        sampling=run.terms.sampling,
        seed=run.terms.seed,
        item=run.terms.item,
        max_total_tokens=run.terms.max_total_tokens,
    )

    def write() -> None:
        answers, errors = outcome(run)
        failure = run.failure.data.type if run.failure else None
        ended = begun(program=program or run.program(), answers=answers, errors=errors, error=failure)
        _append(path, msgspec.json.encode(ended) + b"\n")

    run.on_end = write


def _version() -> str | None:
    try:
        return metadata.version("latticework")
    except metadata.PackageNotFoundError:  # a checkout that was never installed
        return None


def _append(path: Path, line: bytes) -> None:
    """In one write, so that the lines of several threads and processes stay whole."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        if os.write(file, line) != len(line):
            raise RuntimeFailure(f"{path} took only a part of a line")
    finally:
        os.close(file)


def outcome(run: Run) -> tuple[tuple[Answer, ...], tuple[OpError, ...]]:
    """What the gens and selects of a run have come to, in the order of their places."""
    answers: list[Answer] = []
    errors: list[OpError] = []
    with run.condition:
        for branch in run.branches:
            for position, slot in enumerate(branch.slots):
                if slot.done is not None:
                    answers.append(_answer(branch.number, position, slot.done))
                elif isinstance(slot.op, Gen | Select) and slot.failure is not None:
                    errors.append(OpError(branch.number, position, _name(slot)))
    return tuple(answers), tuple(errors)


def _answer(branch: int, position: int, done: Done) -> Answer:
    own = _output(done)
    return Answer(
        branch,
        position,
        done.text,
        done.finish,
        done.seed,
        done.usage,
        _finite(done.scores),
        tuple(map(_output, done.samples)),
        own.complete,
        own.stopped_by,
        own.tokens,
        own.logprobs,
    )


def _output(done: Done) -> Output:
    tokens = tuple(one.token for one in done.logprobs)
    logprobs = _finite(one.logprob for one in done.logprobs)
    return Output(done.text, done.finish, done.seed, done.complete, done.stopped_by, tokens, logprobs)


def _finite(numbers: Iterable[float]) -> tuple[float | None, ...]:
    return tuple(None if number == -math.inf else number for number in numbers)


def _name(slot: Slot) -> str:
    assert slot.failure is not None
    return slot.failure.data.type


# ---------------------------------------------------------------- reading


def read_records(path: str | os.PathLike[str]) -> Iterator[tuple[int, Recorded]]:
    """Each run of a file, with the number of its line, from 1. Raises InvalidArgument naming the line that is none, or
    is longer than MAX_LINE_BYTES, and for more than MAX_RUNS; ends no run and reads no further than it is asked."""
    with _opened(path) as file:
        for number in range(1, MAX_RUNS + 2):
            line = file.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            if number > MAX_RUNS:
                raise InvalidArgument(f"{path!s} has more than {MAX_RUNS} runs", field="path", position=number)
            if len(line) > MAX_LINE_BYTES:
                raise _broken(path, number, f"it is longer than {MAX_LINE_BYTES} bytes")
            yield number, _decode(path, number, line)


def _opened(path: str | os.PathLike[str]) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except (OSError, TypeError, ValueError) as error:
        raise InvalidArgument(f"{path!s} cannot be read: {error}", field="path") from None


def _decode(path: str | os.PathLike[str], number: int, line: bytes) -> Recorded:
    try:
        written = msgspec.json.decode(line, type=_Formatted).format  # first: of another, the rest may be anything
        if written == FORMAT:
            found = msgspec.json.decode(line, type=Recorded)
            check_program(found.program)
            return found
    except (msgspec.DecodeError, LatticeworkError, RecursionError, ValueError) as error:
        raise _broken(path, number, str(error)) from None
    raise _broken(path, number, f"it has format {written}; this build reads {FORMAT}")


def _broken(path: str | os.PathLike[str], number: int, why: str) -> InvalidArgument:
    return InvalidArgument(f"line {number} of {path!s} is no recorded run: {why}", field="path", position=number)
