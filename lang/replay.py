"""Recorded programs, run again: the ops and seeds of the recording, no Python body, and what is different now.

A program that was interpreted is replayed as its body appended it then: text that the body made of an answer stays what
it was, while the model goes on from its answers of now. What counts as different is in comparing.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import msgspec

from latticework.lang.backends.base import Backend
from latticework.lang.backends.calls import Encoded
from latticework.lang.backends.default import default_backend
from latticework.lang.call import Prepared, begin
from latticework.lang.comparing import TOLERANCE, USUAL, Comparison, Difference, checked_comparison, compare
from latticework.lang.errors import LatticeworkError
from latticework.lang.ir import Program
from latticework.lang.layout import Layout, Source
from latticework.lang.record import Answer, OpError, Recorded, outcome, read_records
from latticework.lang.settings import Settings


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
    path: str | os.PathLike[str],
    backend: Backend | None = None,
    timeout: float | None = None,
    *,
    tolerance: float | None = TOLERANCE,
    usage: bool = False,
) -> list[Replayed]:
    """Runs every recorded run of a file again, one after the other, in `backend`.

    timeout: seconds for each. tolerance: log-probabilities and scores that are no further apart are the same; None
    compares none. usage: compare the tokens of prompts and outputs, too. What goes wrong in an op is a difference, or
    the same as before. Raises InvalidArgument for a file or line that cannot be read, before the first run;
    ConnectionLost or Busy where the backend does not take a run."""
    records = list(read_records(path))
    comparison = checked_comparison(tolerance, usage)
    return list(replay_each(records, backend or default_backend(), timeout, comparison)) if records else []


def replay_each(
    records: list[tuple[int, Recorded]],
    backend: Backend,
    timeout: float | None = None,
    comparison: Comparison = USUAL,
) -> Iterator[Replayed]:
    """The same, as an iterator over what `read_records` has given."""
    for line, recorded in records:
        yield _replay(line, recorded, backend, timeout, comparison)


def _replay(line: int, recorded: Recorded, backend: Backend, timeout: float | None, comparison: Comparison) -> Replayed:
    program = recorded.program
    settings = Settings(
        sampling=recorded.sampling, seed=recorded.seed, timeout=timeout, max_total_tokens=recorded.max_total_tokens
    )
    prepared = Prepared(Encoded.of(program), _layout(program, line), recorded.name)
    call = begin(prepared, settings, recorded.arguments, backend, recorded.item)
    with suppress(LatticeworkError):  # each op has its error, and is compared
        call.finish()
    answers, failed = outcome(call.run)
    differences, left_out = compare(recorded, answers, failed, comparison.between(recorded.backend, backend.name))
    return Replayed(line, recorded, answers, failed, differences, left_out)


def _layout(program: Program, line: int) -> Layout:
    """Of a program whose variables nobody reads. An error of an op names the line of the recording."""
    source = Source(("recording", line))
    count = len(program.branches)
    return Layout(tuple((source,) * len(branch.ops) for branch in program.branches), ({},) * count, ((),) * count)
