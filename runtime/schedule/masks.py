"""The masks of the next tokens of sequences under a constraint, computed within a step's time.

This file knows automata by their matchers; it draws nothing.
"""

from __future__ import annotations

import math

import numpy as np

from latticework.runtime.constrain.base import Row
from latticework.runtime.profile import Profile
from latticework.runtime.request import GenSegment
from latticework.runtime.schedule.automata import Automata
from latticework.runtime.schedule.sequence import Sequence


class Masks:
    """deadline: until when, in monotonic seconds, cold masks of this step may be computed."""

    def __init__(self, automata: Automata, vocab_size: int, profile: Profile) -> None:
        self.deadline = 0.0
        self._automata = automata
        self._vocab_size = vocab_size
        self._profile = profile

    def is_ready(self, sequence: Sequence, patient: bool) -> bool:
        """The next token can be masked at once. patient: computes for as long as it takes."""
        output = sequence.output
        assert output is not None
        assert output.matcher is not None
        with self._profile.part("mask"):
            is_ready = output.matcher.prepare(math.inf if patient else self.deadline) or patient
        self._count_growth(sequence)
        return is_ready

    def ready_along(self, sequence: Sequence, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """The first of `tokens` that a gen's constraint allows, each with the mask after it ready; none that finishes
        the text, as nothing is drawn after that."""
        output = sequence.output
        assert output is not None
        matcher = output.matcher
        if matcher is None or not tokens:
            return tokens
        kept = 0
        with self._profile.part("mask"):
            while kept < len(tokens) and matcher.accept(tokens[kept]):
                if matcher.is_finished() or not matcher.prepare(self.deadline):
                    matcher.rollback(1)
                    break
                kept += 1
            matcher.rollback(kept)
        self._count_growth(sequence)
        return tokens[:kept]

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
        segment = sequence.request.chain[sequence.segment]
        assert isinstance(segment, GenSegment)
        assert segment.constraint is not None
        self._automata.grown(segment.constraint)
