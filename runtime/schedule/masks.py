"""The masks of the next tokens of sequences under a constraint, computed in pieces between steps.

A row that is cached is there at once. One that is not becomes a job (pieces.py), and its sequence waits without
keeping others waiting. This file knows automata by their matchers; it draws nothing.
"""

from __future__ import annotations

import math
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
from latticework.runtime.schedule.sequence import Sequence

ROW_BYTES = 256 << 20  # what one automaton may hold while a row of it is made


@dataclass(frozen=True, slots=True)
class _Making:
    """A row under way. job: tells whether it is ready."""

    matcher: Matcher
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
        self._making: dict[str, _Making] = {}  # by the constraint's key

    def is_ready(self, sequence: Sequence, patient: bool) -> bool:
        """The next token can be masked at once. patient: takes the matcher's word where a job ends without a row.

        Raises ConstraintError where a row takes too much time or memory."""
        output = sequence.output
        assert output is not None
        assert output.matcher is not None
        with self._profile.part("mask"):
            is_ready = output.matcher.prepare(0.0) or self._make(sequence, output.matcher, patient)
        self._count_growth(sequence)
        return is_ready

    def _make(self, sequence: Sequence, matcher: Matcher, patient: bool) -> bool:
        """Begins a row, or looks what has become of it."""
        key = self._key(sequence)
        making = self._making.get(key)
        if making is None:
            job = self._pieces.start(
                partial(matcher.prepare, math.inf), "a mask of the constraint", partial(self._fault, sequence, key)
            )
            making = self._making[key] = _Making(matcher, job)
        if not making.job.is_done:
            return False
        del self._making[key]
        if making.matcher is not matcher:
            return False  # another one's: begins in the next step
        return making.job.result() or patient

    def _fault(self, sequence: Sequence, key: str) -> LatticeworkError | None:
        """Why a row is not made any further."""
        if not self._is_open(sequence):
            self._making.pop(key, None)
            return gone()
        held = self._automata.grown(key)
        if held > ROW_BYTES:
            limit = ROW_BYTES >> 20
            return ConstraintError(f"a mask of the constraint takes more than {limit} MiB to make", field="constraint")
        return None

    def row(self, sequence: Sequence) -> Row | None:
        """The tokens that may come next, [W]; None: all."""
        output = sequence.output
        if output is None or output.matcher is None:
            return None
        row = np.zeros(-(-self._vocab_size // 32), dtype=np.int32)
        with self._profile.part("mask"):
            output.matcher.fill_mask(row, output.remaining if output.closing else None)
        self._count_growth(sequence)
        return row

    def _count_growth(self, sequence: Sequence) -> None:
        """A mask was computed: all automata together stay within their bytes."""
        self._automata.grown(self._key(sequence))

    def _key(self, sequence: Sequence) -> str:
        segment = sequence.request.chain[sequence.segment]
        assert isinstance(segment, GenSegment)
        assert segment.constraint is not None
        return segment.constraint
