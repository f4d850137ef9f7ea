"""How far a request has got: its tokens, its KV pages, and the segment it is in.

    tokens  [ prompt ............ | output of this gen ....... ]
    KV      [ computed ...................... ] uncomputed
    pages   [ shared: the tree's ] [ own: this sequence's      ]

A Sequence is mutable and the engine's alone: `memory` owns the KV fields, `chain` the rest. This file knows how
the fields relate, not who changes them when.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from latticework.lang.events import Usage
from latticework.lang.ir import Sampling
from latticework.runtime.cache.leases import Lease
from latticework.runtime.cache.radix import Node
from latticework.runtime.constrain.base import Matcher
from latticework.runtime.request import Request, SelectSegment
from latticework.runtime.schedule.lookup import Lookup
from latticework.runtime.schedule.stops import OutputText, StopCursor

Owner: TypeAlias = bytes | str
"""Whose request it is: a connection of the engine process."""


@dataclass(slots=True, eq=False)
class Output:
    """A gen under way. `start`: where its tokens begin in the sequence; `budget`: how many tokens it may draw.
    unscored: so many tokens right before `start` have log-probabilities that are still to be told. early, never:
    tokens that may come only where nothing else is left, before min_tokens and throughout. before: the tokens of the
    text so far, each once, where they are penalised.

    Of healed text, `unspelled` is what is still to be spelled, by tokens before `start` of which so many were
    `respelled`; the last of it may begin the first token of the output, which then has these bytes as its `overlap`."""

    sampling: Sampling
    start: int
    budget: int
    stops: StopCursor
    matcher: Matcher | None = None
    unscored: int = 0
    early: tuple[int, ...] = ()
    never: tuple[int, ...] = ()
    before: NDArray[np.intp] | None = None
    closing: bool = False  # only tokens that leave room to finish are allowed
    text: OutputText = field(default_factory=OutputText)
    drawn: int = 0
    unspelled: bytes = b""
    respelled: int = 0
    overlap: bytes = b""

    @property
    def position(self) -> int:
        """How many draws there were: what makes the next one differ from them."""
        return self.respelled + self.drawn

    @property
    def remaining(self) -> int:
        return self.budget - self.drawn

    @property
    def barred(self) -> tuple[int, ...]:
        return self.early if self.drawn < self.sampling.min_tokens else self.never


@dataclass(slots=True, eq=False)
class Scoring:
    """One option of a select being scored: logprobs[i] is that of tokens[i]. `pages` hold the sequence's partial
    last page and the option's first tokens, and belong to this option; it can be scored again without them."""

    tokens: tuple[int, ...]
    logprobs: list[float] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)

    @property
    def computed(self) -> int:
        """Tokens whose KV is in `pages`: each has predicted the one after it."""
        return len(self.logprobs) - 1 if self.pages else 0

    @property
    def unscored(self) -> int:
        return len(self.tokens) - len(self.logprobs)


@dataclass(slots=True, eq=False)
class Selection:
    """A select under way, over the first `base` tokens of its sequence.

    The sequence's last token predicts the first token of every option; then each option runs on its own."""

    base: int
    segment: SelectSegment
    options: list[Scoring]

    @property
    def begun(self) -> bool:
        return bool(self.options[0].logprobs)

    @property
    def pending(self) -> list[Scoring]:
        return [scoring for scoring in self.options if scoring.unscored]


@dataclass(slots=True, eq=False)
class Sequence:
    """The progress of one request. Owned by the engine; a sequence that waits holds no pages and no lock."""

    owner: Owner
    request: Request
    order: int  # of arrival
    tokens: list[int]
    carry: bytes = b""  # bytes past the last whole token, encoded with what comes next

    segment: int = 0
    output: Output | None = None
    selection: Selection | None = None
    given: int = 0  # tokens that were not generated
    generated: int = 0
    drafted: int = 0  # tokens guessed, and of these drawn as guessed
    accepted: int = 0
    lookup: Lookup | None = None
    cached: int | None = None  # tokens found in the cache when first admitted, or computed for another meanwhile

    running: bool = False
    waiting_since: int = 0  # the step it was submitted in
    computed: int = 0
    pages: list[int] = field(default_factory=list)
    shared: int = 0  # pages[:shared] belong to the tree
    node: Node | None = None  # locked while the sequence runs
    lease: Lease | None = None  # of a request that holds text: there before the text is computed
    ahead: int = 0  # steps under way on a device, which have each drawn a token that nobody knows yet
    turn: int = 0  # whatever was under way in an earlier turn is void

    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    timed: float = field(default_factory=time.monotonic)  # until when its time is accounted for

    @property
    def uncomputed(self) -> int:
        return len(self.tokens) - self.computed

    @property
    def needs_logits(self) -> bool:
        """Its last token is to predict something."""
        return self.output is not None or (self.selection is not None and not self.selection.begun)

    @property
    def first_logits(self) -> int:
        """The token from which on each is to predict the next; the end, if none is."""
        if self.output is not None and self.output.unscored:
            return self.output.start - self.output.unscored - 1
        return len(self.tokens) - 1 if self.needs_logits else len(self.tokens)

    @property
    def current(self) -> int:
        """The segment it is in; the last one when every segment is behind it."""
        return min(self.segment, max(0, len(self.request.chain) - 1))

    @property
    def at_end(self) -> bool:
        """Every segment is behind it; what may be left is KV of closing text."""
        return self.segment >= len(self.request.chain)

    @property
    def usage(self) -> Usage:
        """prompt: every token that was given, in whatever segment; output: every token drawn or chosen."""
        cached = min(self.cached or 0, self.given)
        return Usage(
            self.given,
            cached,
            self.given - cached,
            self.generated,
            drafted=self.drafted,
            accepted=self.accepted,
            queue_seconds=self.queue_seconds,
            prefill_seconds=self.prefill_seconds,
            decode_seconds=self.decode_seconds,
        )

    def leave_steps(self) -> None:
        """What is under way on a device is no longer a part of it."""
        self.ahead = 0
        self.turn += 1

    def count_copied(self, tokens: int) -> None:
        """Another sequence had these tokens computed. Once something is drawn it may be among them: then they count as
        computed, which says too much rather than too little."""
        if not self.generated:
            self.cached = (self.cached or 0) + tokens

    def count_wait(self) -> None:
        """The time since it was last accounted for was spent in the queue."""
        now = time.monotonic()
        self.queue_seconds += now - self.timed
        self.timed = now

    def count_work(self, now: float) -> None:
        """The time since it was last accounted for was spent on its prompt, or on its output if that has begun."""
        if self.output is not None and self.output.drawn:
            self.decode_seconds += now - self.timed
        else:
            self.prefill_seconds += now - self.timed
        self.timed = now
