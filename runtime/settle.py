"""What becomes of a step's logits: every sequence takes its token or its scores, and moves on.

A failure is that of its own sequence. This file knows which rows are whose; how a token is drawn (runtime/sample) and
what it does to a sequence (schedule/chain.py) it does not.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from latticework.lang.errors import RuntimeFailure
from latticework.runtime.profile import Profile
from latticework.runtime.request import TokenEvent, TokenInfo
from latticework.runtime.sample.contained import draw
from latticework.runtime.sample.sampler import Row
from latticework.runtime.sample.scores import prompt_logprobs, token_logprobs
from latticework.runtime.schedule.chain import Chain
from latticework.runtime.schedule.drafts import Drafts
from latticework.runtime.schedule.masks import Masks
from latticework.runtime.schedule.memory import Memory
from latticework.runtime.schedule.plan import Plan, Work
from latticework.runtime.schedule.requests import Requests
from latticework.runtime.schedule.sequence import Scoring, Selection, Sequence

if TYPE_CHECKING:
    from torch import Tensor

    from latticework.kernels.cpu.library import Library
    from latticework.runtime.device.flight import Flight, Flown


@dataclass(slots=True)
class Drawing:
    """A gen's tokens of one step. row: of the logits, the next token's. right: tokens drawn as guessed, of which `said`
    tells."""

    work: Work
    row: int
    right: int = 0
    said: TokenEvent | None = None


class Settlement:
    """Stateless between steps; it acts on the sequences of a plan. library: draws with it."""

    def __init__(
        self,
        requests: Requests,
        chain: Chain,
        memory: Memory,
        masks: Masks,
        drafts: Drafts,
        profile: Profile,
        library: Library | None = None,
    ) -> None:
        self._requests = requests
        self._chain = chain
        self._memory = memory
        self._masks = masks
        self._drafts = drafts
        self._profile = profile
        self._library = library

    def settle(self, plan: Plan, logits: Tensor | None) -> None:
        """logits: [R, V], the rows of the plan's works in their order; None: nothing was computed."""
        for sequence, error in plan.failures:
            self._requests.fail(sequence, error)
        if logits is not None:
            self._settle_works(plan.works, logits)
        self._requests.finish_texts()

    def _settle_works(self, works: list[Work], logits: Tensor) -> None:
        """Sorts the works by what their logits are for, before any sequence moves on, then serves them."""
        samples: list[Drawing] = []
        scores: list[tuple[Work, int]] = []  # with the work's first row of logits
        row, now = 0, time.monotonic()
        for work in works:
            work.sequence.count_work(now)
            if work.scoring is None:
                work.sequence.computed += work.own
                work.sequence.count_copied(work.source.count)
            first, row = row, row + work.entry.logits
            try:
                if work.prompt_rows:
                    self._tell_prompt(work, logits[first : first + work.prompt_rows])
                    first += work.prompt_rows
                if first == row:
                    self._publish(work)
                    continue
            except Exception as error:
                self._requests.fail(work.sequence, error)
                continue
            if work.sequence.output is None:
                scores.append((work, first))
            else:
                samples.append(Drawing(work, first))
        self._settle_samples(samples, logits)
        self._settle_scores(scores, logits)

    # ------------------------------------------------------------ gens

    def land(self, flight: Flight) -> int:
        """Every sequence takes the token that a device has drawn for it; those that went another way meanwhile do not.
        Returns how many these are."""
        void = 0
        for flown, found in flight.land():
            if flown.is_void or not self._requests.is_open(flown.work.sequence):
                void += 1
            else:
                self._land(flown, found)
        return void

    def _land(self, flown: Flown, found: tuple[int, TokenInfo | None] | Exception) -> None:
        sequence = flown.work.sequence
        output = sequence.output
        sequence.count_work(time.monotonic())
        sequence.ahead -= 1
        sequence.computed += 1
        drawing = Drawing(flown.work, 0)
        try:
            if isinstance(found, Exception):
                raise found
            self._take(drawing, *found)
        except Exception as error:
            self._fail(drawing, error)
        if sequence.output is not output:  # the next step is under way with this row, for nothing
            sequence.leave_steps()

    def _settle_samples(self, drawings: list[Drawing], logits: Tensor) -> None:
        """Draws a token for every gen, and one more as long as it was the one guessed."""
        while drawings:
            drawings = self._draw(drawings, logits)

    def _draw(self, drawings: list[Drawing], logits: Tensor) -> list[Drawing]:
        """Draws one token for each; returns those whose guess has the next one's logits, too."""
        ready: list[tuple[Drawing, Row]] = []
        for drawing in drawings:
            try:
                ready.append((drawing, self._rule(drawing.work.sequence)))
            except Exception as error:
                self._fail(drawing, error)
        if not ready:
            return []
        with self._profile.part("sample"):
            drawn = draw(logits, [drawing.row for drawing, _ in ready], [rule for _, rule in ready], self._library)
        going_on = []
        for (drawing, _), found in zip(ready, drawn, strict=True):
            try:
                if isinstance(found, Exception):
                    raise found
                if self._take(drawing, *found):
                    going_on.append(drawing)
            except Exception as error:
                self._fail(drawing, error)
        return going_on

    def _take(self, drawing: Drawing, token: int, info: TokenInfo | None) -> bool:
        """A sequence takes a token. True if that was guessed: the row after it is the next one's."""
        work, sequence = drawing.work, drawing.work.sequence
        if drawing.said is None:
            self._publish(work)
        guessed = work.draft.tokens[drawing.right :]
        event = self._chain.accept(sequence, token, info)
        if drawing.said is not None:
            event = event.after(drawing.said)
        is_right = bool(guessed) and guessed[0] == token
        drawing.right += is_right
        if is_right and event.end is None:
            sequence.computed += 1
            drawing.said = event
            drawing.row += 1
            return True
        self._drafts.learn(sequence, work.draft, drawing.right)
        if drawing.right < len(work.draft.tokens):
            self._memory.truncate(sequence, len(sequence.tokens))  # pages for what was guessed wrong
        self._requests.proceed(sequence, event)
        return False

    def _fail(self, drawing: Drawing, error: Exception) -> None:
        """What a gen has said before counts."""
        if drawing.said is not None:
            self._requests.tell(drawing.work.sequence, drawing.said)
        self._requests.fail(drawing.work.sequence, error)

    def _tell_prompt(self, work: Work, logits: Tensor) -> None:
        """Tells the log-probabilities of the tokens that these rows, [R, V], predict, each once."""
        sequence, output = work.sequence, work.sequence.output
        assert output is not None
        assert output.sampling.prompt_logprobs is not None
        first = output.start - output.unscored
        tokens = tuple(sequence.tokens[first : first + len(logits)])
        with self._profile.part("sample"):
            infos = prompt_logprobs(logits, tokens, output.sampling.prompt_logprobs)
        output.unscored -= len(tokens)
        event = TokenEvent(sequence.request.id, sequence.segment, prompt_tokens=tokens, prompt_logprobs=infos)
        self._requests.tell(sequence, event)

    def _rule(self, sequence: Sequence) -> Row:
        """How the next token of a gen is drawn."""
        output = sequence.output
        assert output is not None
        mask = self._masks.row(sequence)
        return Row(output.sampling, output.position, mask, output.before, output.text.tokens, output.barred)

    def _publish(self, work: Work) -> None:
        """Lets others share a prompt once it is computed."""
        if work.own > 1 and work.sequence.uncomputed == 0:
            self._memory.publish(work.sequence)

    # ------------------------------------------------------------ selects

    def _settle_scores(self, works: list[tuple[Work, int]], logits: Tensor) -> None:
        """Hands log-probabilities to the options of selects, and decides those that are complete."""
        touched: dict[Sequence, None] = {}
        for work, row in works:
            if not self._requests.is_open(work.sequence):
                continue  # another of its options has failed it
            selection = work.sequence.selection
            assert selection is not None
            rows = logits[row : row + work.entry.logits]
            try:
                with self._profile.part("sample"):
                    _score(selection, work.scoring, rows)
            except Exception as error:
                self._requests.fail(work.sequence, error)
            touched[work.sequence] = None
        for sequence in touched:
            if self._requests.is_open(sequence):
                self._decide(sequence)

    def _decide(self, sequence: Sequence) -> None:
        selection = sequence.selection
        assert selection is not None
        try:
            if any(math.isnan(number) for scoring in selection.options for number in scoring.logprobs):
                raise RuntimeFailure("model produced NaN")
            self._memory.publish(sequence)
            if selection.pending:
                self._chain.keep_best(sequence)
                return
            event = self._chain.choose(sequence)
        except Exception as error:
            self._requests.fail(sequence, error)
            return
        self._requests.proceed(sequence, event)


def _score(selection: Selection, scoring: Scoring | None, logits: Tensor) -> None:
    """Hands log-probabilities to one option, or, where `scoring` is None, their first ones to all. logits: [R, V]"""
    if scoring is None:
        firsts = token_logprobs(logits, [[option.tokens[0] for option in selection.options]])[0]
        for option, logprob in zip(selection.options, firsts, strict=True):
            option.logprobs = [logprob]
    else:
        known = len(scoring.logprobs)
        predicted = scoring.tokens[known : known + len(logits)]
        scoring.logprobs += [one for (one,) in token_logprobs(logits, [[token] for token in predicted])]
