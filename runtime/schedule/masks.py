"""The masks of the next tokens of sequences under a constraint, computed in pieces between steps.

A row that is cached is there at once. One that is not, or that has to be looked through because the budget is nearly
used up, becomes a job (pieces.py), and its sequence waits without keeping others waiting. This file knows automata by
their matchers; it draws nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from latticework.lang.errors import ConstraintError, LatticeworkError
from latticework.runtime.constrain.base import Matcher, Row
from latticework.runtime.profile import Profile
from latticework.runtime.request import GenSegment
from latticework.runtime.schedule.automata import Automata
from latticework.runtime.schedule.pieces import Job, Pieces, gone
from latticework.runtime.schedule.sequence import Output, Sequence

ROW_BYTES = 256 << 20  # what one automaton may hold while a row of it is made
NEAR_TOKENS = 64  # with fewer left, a cached row may have to be looked through again
DRAFT_SECONDS = 0.002  # of a step, that the rows after guessed tokens may take to make


@dataclass(frozen=True, slots=True)
class _Making:
    """A row under way. key: of the automaton; output, at: how far its sequence is; row: [W], once the job is done with
    True."""

    key: str
    output: Output
    at: tuple[int, int]
    row: Row
    job: Job[bool]


class Masks:
    """Owner of the rows under way: at most one of each automaton.

    pieces: does them. is_open: whether somebody still waits for a sequence.
    """

    def __init__(
        self,
        automata: Automata,
        vocab_size: int,
        profile: Profile,
        pieces: Pieces,
        is_open: Callable[[Sequence], bool],
    ) -> None:
        self._automata = automata
        self._vocab_size = vocab_size
        self._profile = profile
        self._pieces = pieces
        self._is_open = is_open
        self._making: dict[Sequence, _Making] = {}
        self._draft_seconds = 0.0  # what is left of them in this step

    def begin(self) -> None:
        """A step begins."""
        self._draft_seconds = DRAFT_SECONDS

    def is_ready(self, sequence: Sequence) -> bool:
        """The next token can be masked at once. If not, its row is made between steps, and with nothing else to do
        without a pause. Raises ConstraintError where a row takes too much time or memory."""
        output = sequence.output
        assert output is not None
        assert output.matcher is not None
        is_near = output.closing and output.remaining < NEAR_TOKENS
        with self._profile.part("mask"):
            if not is_near and output.matcher.prepare(0.0):
                return True  # nothing was made
            is_ready = self._make(sequence, output)
        self._count_growth(sequence)
        return is_ready

    def ready_along(self, sequence: Sequence, tokens: tuple[int, ...], is_forced: bool) -> tuple[int, ...]:
        """The first of `tokens` that a gen's constraint allows, each with the mask after it ready; none that finishes
        the text, as nothing is drawn after that. is_forced: nothing else can be written."""
        output = sequence.output
        assert output is not None
        matcher = output.matcher
        if matcher is None or not tokens:
            return tokens
        kept = 0
        with self._profile.part("mask"):
            while kept < len(tokens) and _accepts(matcher, tokens[kept]):
                # Near the end of the budget the row after a token is looked through in the middle of the step, when the
                # token is drawn. That is quick only where the text is forced still: so the last forced token is not
                # guessed there, nor is anything that is not forced.
                is_near = output.closing and output.remaining - kept - 1 < NEAR_TOKENS
                is_narrow = is_forced and kept + 1 < len(tokens)
                if matcher.is_finished() or (is_near and not is_narrow) or not self._is_ready_soon(matcher):
                    matcher.rollback(1)
                    break
                kept += 1
            matcher.rollback(kept)
        self._count_growth(sequence)
        return tokens[:kept]

    def _is_ready_soon(self, matcher: Matcher) -> bool:
        """A guess's row is cached, or made in what is left of this step for that; the next step goes on with it."""
        began = time.monotonic()
        try:
            if matcher.prepare(0.0):
                return True
            return self._draft_seconds > 0 and matcher.prepare(began + self._draft_seconds)
        except ConstraintError:  # the text may never come there
            return False
        finally:
            self._draft_seconds -= time.monotonic() - began

    def _make(self, sequence: Sequence, output: Output) -> bool:
        """Begins a row, or looks what has become of it."""
        making = self._making.get(sequence)
        if making is None or not _is_for(making, sequence):
            key = self._key(sequence)
            if any(other.key == key and not other.job.is_done for other in self._making.values()):
                return False
            making = self._making[sequence] = self._begin(sequence, output, key)
        if not making.job.is_done:
            return False
        is_made = making.job.result()
        if not is_made:
            del self._making[sequence]
        return is_made

    def tidy(self) -> None:
        """Forgets the rows of sequences that have ended."""
        if self._making:
            self._making = {one: making for one, making in self._making.items() if self._is_open(one)}

    def _begin(self, sequence: Sequence, output: Output, key: str) -> _Making:
        """A new job for the row of a sequence where it is now."""
        row = np.zeros(-(-self._vocab_size // 32), dtype=np.int32)
        matcher, remaining = output.matcher, output.remaining if output.closing else None
        assert matcher is not None

        def make() -> bool:
            is_ready = matcher.prepare(math.inf)
            if is_ready:
                matcher.fill_mask(row, remaining)
            return is_ready

        job = self._pieces.start(make, "a mask of the constraint", partial(self._fault, sequence, key))
        return _Making(key, output, _place(sequence, output), row, job)

    def _fault(self, sequence: Sequence, key: str) -> LatticeworkError | None:
        """Why a row is not made any further."""
        if not self._is_open(sequence):
            return gone()
        if self._automata.grown(key) > ROW_BYTES:
            limit = ROW_BYTES >> 20
            return ConstraintError(f"a mask of the constraint takes more than {limit} MiB to make", field="constraint")
        return None

    def row(self, sequence: Sequence) -> Row | None:
        """The tokens that may come next, [W]; None: all."""
        output = sequence.output
        if output is None or output.matcher is None:
            return None
        making = self._making.pop(sequence, None)
        if making is not None and making.job.succeeded and _is_for(making, sequence) and making.job.result():
            return making.row
        row = np.zeros(-(-self._vocab_size // 32), dtype=np.int32)
        with self._profile.part("mask"):
            output.matcher.fill_mask(row, output.remaining if output.closing else None)
        self._count_growth(sequence)
        return row

    def _count_growth(self, sequence: Sequence) -> None:
        """A mask was computed: all automata together stay within their bytes."""
        segment = sequence.request.chain[sequence.segment]
        assert isinstance(segment, GenSegment)
        if segment.constraint is not None:  # else it only heals
            self._automata.grown(segment.constraint)

    def _key(self, sequence: Sequence) -> str:
        segment = sequence.request.chain[sequence.segment]
        assert isinstance(segment, GenSegment)
        assert segment.constraint is not None
        return segment.constraint


def _accepts(matcher: Matcher, token: int) -> bool:
    """Whether a guess may be followed further; not into what is too ambiguous, as the text may never come there."""
    try:
        return matcher.accept(token)
    except ConstraintError:
        return False


def _is_for(making: _Making, sequence: Sequence) -> bool:
    """Whether a row is that of a sequence where it is now."""
    output = sequence.output
    return output is making.output and making.at == _place(sequence, output)


def _place(sequence: Sequence, output: Output) -> tuple[int, int]:
    return len(sequence.tokens), output.position
