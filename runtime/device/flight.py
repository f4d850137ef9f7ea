"""A decode step under way on the device: whose rows it has, and what they have drawn once it is over.

While it flies its tokens are known to the device alone. What becomes of a sequence meanwhile (it is cancelled, gives
way, or ends with the token before) makes its row void: that is told by the sequence's `turn`. This file knows sequences
and numbers; what a token does to a sequence it does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from latticework.lang.errors import RuntimeFailure
from latticework.runtime.request import TokenInfo
from latticework.runtime.schedule.plan import Work

if TYPE_CHECKING:
    from latticework.runtime.device.results import Results, Told

Token = tuple[int, TokenInfo | None]

_SAID = {  # by status (kernels/sample.py), in the words of runtime/sample/sampler.py
    1: "model produced NaN",
    2: "model produced infinite logits",
    3: "the constraint allows no token",
    4: "every token the constraint allows has probability zero",
}


@dataclass(frozen=True, slots=True)
class Flown:
    """One row. place: of the device's rows; turn: of the sequence when it was launched; logprobs: how many of the
    likeliest are told, None: none at all."""

    work: Work
    place: int
    turn: int
    logprobs: int | None

    @property
    def is_void(self) -> bool:
        """Its sequence went another way."""
        return self.work.sequence.turn != self.turn


class Flight:
    """One step. To be landed once."""

    def __init__(self, rows: list[Flown], results: Results) -> None:
        self.rows = rows
        self._results = results

    def land(self) -> Iterator[tuple[Flown, Token | Exception]]:
        """Waits for the step's end; what each row has drawn, or what was wrong with it."""
        try:
            told = self._results.wait()
        except Exception as error:
            yield from ((row, error) for row in self.rows)
            return
        for row in self.rows:
            yield row, _found(told, row)


def _found(told: Told, row: Flown) -> Token | Exception:
    at = row.place
    status = int(told.status[at])
    if status:
        return RuntimeFailure(_SAID[status])
    if row.logprobs is None:
        return int(told.tokens[at]), None
    likeliest = zip(told.likeliest[at, : row.logprobs].tolist(), told.theirs[at, : row.logprobs].tolist(), strict=True)
    return int(told.tokens[at]), TokenInfo(float(told.logprobs[at]), tuple(likeliest))
