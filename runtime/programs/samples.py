"""The requests of one gen: a single one, or one per candidate after a text that is computed once.

    one output       [text][gen]

    several          [text] ── lease ──┬── [gen]     siblings of one group; each computes the text's last token,
                                       ├── [gen]     whose logits nobody keeps, and its own output
                                       └── [gen]

Where log-probabilities of the text are asked for, the first candidate computes it with its logits, and the others
continue from there. Everything happens in callbacks of the engine link: nothing here waits. Knows no ops and no HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import msgspec

from latticework.lang.errors import Cancelled, from_data
from latticework.lang.events import Chunk, Done, Usage
from latticework.lang.ir import sample_seed
from latticework.lang.samples import kept
from latticework.runtime.link.engine_link import EngineLink
from latticework.runtime.programs.hold import Hold
from latticework.runtime.programs.speech import Speech
from latticework.runtime.request import GenSegment, Request, Segment, TextSegment, TokenEvent
from latticework.runtime.text.tokenizer import Tokenizer

LEAST_SECONDS = 0.001  # a request sent at its deadline is refused by the engine, not by an error here


@dataclass(frozen=True, slots=True)
class Terms:
    """What all requests of a gen have in common; see `Request`. deadline: on the clock of `time.monotonic`."""

    parent: int | None = None
    group: int | None = None
    tenant: str = ""
    priority: int = 0
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """What one candidate has said. done: on its last. error: all candidates have ended with it."""

    sample: int
    chunk: Chunk | None = None
    done: Done | None = None
    error: Exception | None = None


class Samples:
    """Owns the requests of one gen. `tell` hears every candidate until each has a Done, or one error for all.

    segment: with sampling and seed complete. keep: the sequence of the output that comes first is kept under a lease,
    `hold`, to be taken once all are done. `close` ends what is under way and gives back whatever was not taken.
    """

    def __init__(
        self,
        link: EngineLink,
        tokenizer: Tokenizer,
        text: TextSegment | None,
        segment: GenSegment,
        rules: Mapping[str, bytes],
        terms: Terms,
        tell: Callable[[Said], None],
        *,
        branch: int = 0,
        position: int = 0,
        keep: bool = False,
    ) -> None:
        self.sampling = segment.sampling
        self.hold: Hold | None = None
        self.done: dict[int, Done] = {}
        self.over = False
        self._link = link
        self._text = text
        self._segment = segment
        self._rules = rules
        self._terms = terms
        self._tell = tell
        seed = self.sampling.seed or 0
        self._speeches = [
            Speech(tokenizer, branch, position, sample_seed(seed, sample)) for sample in range(self.sampling.candidates)
        ]
        keeping = keep and (len(self._speeches) if self.sampling.ranked else 1)
        self._holds = {sample: Hold(link) for sample in range(keeping)}
        self._prefix: Hold | None = None
        self._prefix_usage = Usage()
        self._waiting = False  # the first candidate computes the text, the others wait for it
        self._open: set[int] = set()

    @property
    def drawn(self) -> list[Done]:
        """One Done per candidate, in order of sample, once all are over."""
        return [self.done[sample] for sample in range(len(self._speeches))]

    def start(self) -> None:
        """Submits."""
        if len(self._speeches) == 1 or self._text is None:
            self._draw(range(len(self._speeches)), self._text, self._terms.parent)
        elif self.sampling.prompt_logprobs is not None:
            self._waiting = True
            self._draw(range(1), self._text, self._terms.parent)
        else:
            self._compute_text(range(len(self._speeches)))

    def close(self) -> None:
        """Cancels what is under way. Nothing is told from here on. Idempotent."""
        self.over = True
        for number in self._open:
            self._link.cancel(number)
        self._open.clear()
        self._let_go()
        if self.hold is not None:
            self.hold.drop()
            self.hold = None

    # ------------------------------------------------------------ requests

    def _compute_text(self, following: range) -> None:
        """Holds the text under a lease; candidates continue from it."""
        assert self._text is not None
        self._waiting = False
        self._prefix = Hold(self._link)
        self._submit((self._text,), self._terms.parent, self._prefix, partial(self._hear_text, following))

    def _hear_text(self, following: range, event: TokenEvent) -> None:
        assert self._prefix is not None
        if event.final:
            if following.start == 0:
                self._prefix_usage = event.usage or Usage()
            self._draw(following, None, self._prefix.id)

    def _draw(self, samples: range, text: TextSegment | None, parent: int | None) -> None:
        for sample in samples:
            sampling = msgspec.structs.replace(
                self.sampling,
                seed=self._speeches[sample].seed,
                n=1,
                best_of=None,
                logprobs=self._logprobs,
                prompt_logprobs=self.sampling.prompt_logprobs if sample == 0 else None,
            )
            segment = msgspec.structs.replace(self._segment, sampling=sampling)
            chain: tuple[Segment, ...] = (segment,) if text is None else (text, segment)
            self._submit(chain, parent, self._holds.get(sample), partial(self._hear, sample, len(chain) - 1))

    @property
    def _logprobs(self) -> int | None:
        """Ranking needs them, whoever else does."""
        return 0 if self.sampling.ranked and self.sampling.logprobs is None else self.sampling.logprobs

    def _submit(
        self, chain: tuple[Segment, ...], parent: int | None, hold: Hold | None, hear: Callable[[TokenEvent], None]
    ) -> None:
        if self.over:
            return  # the one before it has failed at once
        number, terms = self._link.number(), self._terms
        left = None if terms.deadline is None else max(LEAST_SECONDS, terms.deadline - time.monotonic())
        request = Request(
            number,
            chain,
            parent,
            None if hold is None else hold.id,
            terms.group,
            tenant=terms.tenant,
            priority=terms.priority,
            deadline=left,
        )

        def on_event(event: TokenEvent) -> None:
            if event.final:
                self._open.discard(number)
            if self.over:
                return
            try:
                if event.error is not None:
                    raise from_data(event.error)
                if event.end == "cancelled":
                    raise Cancelled("the request was cancelled")
                hear(event)
            except Exception as error:  # one outcome for all
                self.close()
                self._tell(Said(0, error=error))

        self._open.add(number)
        rules = self._rules if any(isinstance(part, GenSegment) for part in chain) else {}
        self._link.submit(request, rules, on_event)

    # ------------------------------------------------------------ events

    def _hear(self, sample: int, segment: int, event: TokenEvent) -> None:
        speech = self._speeches[sample]
        chunk = speech.hear(event) if event.segment == segment else None
        if speech.done is not None:
            self.done[sample] = self._finished(sample, speech.done)
        if len(self.done) == len(self._speeches):
            self._finish()
        if chunk is not None or speech.done is not None:
            self._tell(Said(sample, chunk, self.done.get(sample)))
        if self._waiting and (event.tokens or event.end) and not self.over:  # its text is computed
            self._compute_text(range(1, len(self._speeches)))

    def _finished(self, sample: int, done: Done) -> Done:
        """The first candidate's usage tells what it took to compute the text."""
        if sample > 0 or self._prefix_usage == Usage():
            return done
        text, own = self._prefix_usage, done.usage
        cached = min(text.cached, own.prompt)  # of a healed prompt, less than the text
        usage = msgspec.structs.replace(
            own,
            cached=cached,
            computed=own.prompt - cached,
            queue_seconds=text.queue_seconds + own.queue_seconds,
            prefill_seconds=text.prefill_seconds + own.prefill_seconds,
        )
        return msgspec.structs.replace(done, usage=usage)

    def _finish(self) -> None:
        self.over = True
        if self._holds:
            self.hold = self._holds.pop(kept(self.drawn, self.sampling)[0])
        self._let_go()

    def _let_go(self) -> None:
        holds = [*self._holds.values(), *([self._prefix] if self._prefix is not None else [])]
        self._holds, self._prefix = {}, None
        for hold in holds:
            hold.drop()
