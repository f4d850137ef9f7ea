"""One step, as it is planned: which sequences compute what, and which of their tokens are the same.

    A   [ cached ][ Problem: … | Plan  | 1: ]        computes
    B   [ cached ][ ···· copied ······ | 2: ]        has the KV of A's tokens written to its own pages, too

So siblings that begin alike compute what they have in common once, whatever the page size, and nobody waits a step
for it. This file knows no pages and no order; scheduler.py fills the plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from latticework.runtime.schedule.batch import Entry
from latticework.runtime.schedule.drafts import NOTHING, Draft
from latticework.runtime.schedule.policy import common_prefix
from latticework.runtime.schedule.sequence import Scoring, Sequence

PROMPT_ROWS = 128  # rows of logits a step computes for log-probabilities of prompts: what they take is bounded


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """One sequence's part of a step: more of its own tokens, or of one option of its select.

    prompt_rows: how many of its rows of logits, the first ones, are for log-probabilities of its prompt. draft: the
    last tokens of the entry, which are guesses; so many of its rows, the last ones, say what comes after each. source:
    of the tokens right before the entry's. is_ahead: its token is one that only a device knows yet."""

    sequence: Sequence
    entry: Entry
    scoring: Scoring | None = None
    prompt_rows: int = 0
    draft: Draft = NOTHING
    source: Source = field(default_factory=lambda: Source())
    is_ahead: bool = False

    @property
    def own(self) -> int:
        """How many of the sequence's own tokens have their KV after it, computed or copied."""
        return self.source.count + len(self.entry.tokens) - len(self.draft.tokens)

    @property
    def first(self) -> int:
        """The first of these."""
        return self.entry.start - self.source.count


@dataclass(frozen=True, slots=True)
class Source:
    """count: tokens of a sequence that need not be computed, as `work`, of the same step, has them too."""

    work: Work | None = None
    count: int = 0


@dataclass(slots=True)
class Plan:
    """One step. failures: sequences that can go no further, and why."""

    budget: int  # prompt tokens that may still be added
    spent: Counter[str] = field(default_factory=Counter)  # prompt tokens of each tenant
    cached: dict[Sequence, int] = field(default_factory=dict)  # tokens of those that may come in
    prompt_rows: int = PROMPT_ROWS  # rows of logits that may still be added for prompts
    drafts: int = 0  # guessed tokens that may still be added
    copies: int = 0  # tokens whose KV may still be copied
    rows: int = 0  # tokens planned so far
    works: list[Work] = field(default_factory=list)
    failures: list[tuple[Sequence, Exception]] = field(default_factory=list)
    has_retracted: bool = False

    def includes(self, sequence: Sequence) -> bool:
        return any(work.sequence is sequence for work in self.works)

    def fail(self, sequence: Sequence, error: Exception) -> None:
        """The sequence ends with this error; nothing more is computed for it."""
        self.drop(sequence)
        self.failures.append((sequence, error))

    def drop(self, sequence: Sequence) -> None:
        """Nothing is computed for a sequence after all, nor for those that would have copied from it."""
        gone: set[int] = set()
        kept: list[Work] = []
        for work in self.works:  # what is copied comes before its copies
            if work.sequence is sequence or id(work.source.work) in gone:
                gone.add(id(work))
            else:
                kept.append(work)
        self.works = kept

    def source(self, sequence: Sequence, computed: int) -> Source:
        """Who computes most of a sequence's tokens from `computed` on in this step, its last one not counted: that is
        to be computed for the sequence itself, as its logits are its own."""
        most = min(sequence.first_logits, len(sequence.tokens) - 1, computed + self.copies)
        found, reach = None, computed
        for work in self.works:
            other = work.sequence
            end = min(most, work.first + work.own)
            if work.scoring is not None or work.is_ahead or work.first > computed or end <= reach or other is sequence:
                continue
            if other.request.space != sequence.request.space or other.tokens[reach] != sequence.tokens[reach]:
                continue
            same = common_prefix(sequence.tokens[:end], other.tokens[:end])
            if same > reach:
                found, reach = work, same
        return Source(found, reach - computed)

    def has_failed(self, sequence: Sequence) -> bool:
        return any(failed is sequence for failed, _ in self.failures)

    @contextmanager
    def blaming(self, sequence: Sequence) -> Iterator[None]:
        """What goes wrong inside is the sequence's fault."""
        try:
            yield
        except Exception as error:
            self.fail(sequence, error)
