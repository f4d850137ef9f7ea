"""From segment to segment: what a sequence's tokens become, and when a segment ends.

    text ──▶ appended at once      gen ──▶ one token a call, until a stop, the budget      select ──▶ once every
             with any carry                or a finished constraint ends it                option has its scores

Everything here happens between two model steps, in the same sequence. It knows tokens and bytes; it knows no
batch, no other sequence and no owner of pages.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from typing import NoReturn

import numpy as np

from latticework.lang.choices import decide, likeliest, mean_scores
from latticework.lang.errors import BudgetTooSmall, InvalidArgument, PromptTooLong, RuntimeFailure
from latticework.lang.ir import Sampling
from latticework.runtime.constrain.base import Matcher
from latticework.runtime.constrain.healing import HealingMatcher, count_to_heal
from latticework.runtime.constrain.vocabulary import Vocabulary
from latticework.runtime.request import GenSegment, SelectSegment, TextSegment, TokenEvent, TokenInfo
from latticework.runtime.schedule.automata import Automata
from latticework.runtime.schedule.memory import Memory
from latticework.runtime.schedule.sequence import Output, Scoring, Selection, Sequence
from latticework.runtime.schedule.stops import StopHit, StopMatcher

MAX_PROMPT_LOGPROBS = 1 << 19
"""Numbers told of one prompt: the link's longest message holds them with the tokens' texts."""


class Chain:
    """The rules by which sequences move on.

    encode: tokens that spell bytes. token_bytes: what each token spells; vocabulary: the same as a trie. capacity: the
    longest sequence, tokens.
    """

    def __init__(
        self,
        encode: Callable[[bytes], list[int]],
        token_bytes: Many[bytes],
        vocabulary: Vocabulary,
        end_ids: frozenset[int],
        automata: Automata,
        memory: Memory,
        capacity: int,
    ) -> None:
        self.capacity = capacity
        self._encode = encode
        self._token_bytes = token_bytes
        self._vocabulary = vocabulary
        self._end_ids = end_ids
        self._automata = automata
        self._memory = memory

    # ------------------------------------------------------------ entering segments

    def enter(self, sequence: Sequence) -> None:
        """Appends constant text up to the next gen or select and begins that; at the chain's end stops.

        Raises PromptTooLong, BudgetTooSmall, and whatever is wrong with a constraint or a carry."""
        text = len(sequence.tokens)
        while not sequence.at_end:
            segment = sequence.request.chain[sequence.segment]
            if not isinstance(segment, TextSegment):
                self._append(sequence, self._take_carry(sequence))
                self._begin(sequence, segment, text)
                return
            kept = segment.tokens
            if sequence.carry:
                kept = (*self._take_carry(sequence, segment.head), *segment.tokens[segment.head_tokens :])
            self._append(sequence, kept)
            sequence.segment += 1

    def _take_carry(self, sequence: Sequence, following: bytes = b"") -> Many[int]:
        carry, sequence.carry = sequence.carry, b""
        return self._encode(carry + following) if carry else ()

    def _append(self, sequence: Sequence, tokens: Many[int]) -> None:
        sequence.tokens += tokens
        sequence.given += len(tokens)
        if len(sequence.tokens) > self.capacity:
            self._refuse(sequence, 0)

    def _refuse(self, sequence: Sequence, more: int) -> NoReturn:
        wanted = f"the text is {len(sequence.tokens)} tokens" + (f" and needs {more} more" if more else "")
        raise PromptTooLong(
            f"{wanted}; this engine holds sequences of at most {self.capacity}",
            hint="shorten the text, or start the engine with a larger context or kv_tokens",
            field="prompt",
        )

    def _begin(self, sequence: Sequence, segment: GenSegment | SelectSegment, text: int) -> None:
        """text: where the constant text before the segment begins."""
        if not sequence.tokens:
            raise InvalidArgument("there is no text before the first gen", field="prompt", hint="append some text")
        if isinstance(segment, GenSegment):
            healed = self._take_back(sequence, segment.healable) if segment.healable else b""
            sequence.output = self._output(sequence, segment, min(text, len(sequence.tokens)), healed)
        else:
            more = max(map(len, segment.options))
            if len(sequence.tokens) + more > self.capacity:
                self._refuse(sequence, more)
            sequence.selection = Selection(len(sequence.tokens), segment, [Scoring(o) for o in segment.options])
        if sequence.computed > sequence.first_logits:  # its logits are gone, if there were any
            self._memory.truncate(sequence, sequence.first_logits)

    def _take_back(self, sequence: Sequence, most: int) -> bytes:
        """Takes back the tokens at the end of the text that are to be healed; what they spell."""
        count = count_to_heal(self._vocabulary, sequence.tokens, most)
        kept = len(sequence.tokens) - count
        taken = sequence.tokens[kept:]
        del sequence.tokens[kept:]
        sequence.given -= count
        if sequence.lookup is not None:
            sequence.lookup.cut(kept)
        return b"".join(self._token_bytes[token] for token in taken)

    def _output(self, sequence: Sequence, segment: GenSegment, text: int, healed: bytes) -> Output:
        room = self.capacity - len(sequence.tokens) - len(healed)  # at most a token for each of its bytes
        if room < 1:
            self._refuse(sequence, 1 + len(healed))
        sampling = segment.sampling
        budget = min(sampling.max_tokens, room)
        matcher = self._matcher(segment.constraint, healed)
        closing = (
            segment.constraint is not None
            and matcher is not None
            and segment.on_length != "cut"
            and _fits(matcher, budget, segment)
        )
        stops = StopMatcher(sampling.stop, frozenset(sampling.stop_token_ids), sampling.include_stop)
        ends = tuple(self._end_ids)
        return Output(
            sampling,
            len(sequence.tokens),
            budget,
            stops.cursor(zip(sampling.stop_regex, map(self._automata.search, segment.stop_rules), strict=True)),
            matcher,
            _count_to_score(sampling, text, len(sequence.tokens)),
            early=(*ends, *sampling.stop_token_ids),
            never=ends if sampling.ignore_eos else (),
            before=np.unique(sequence.tokens) if sampling.repetition_penalty != 1.0 else None,
            closing=closing,
            unspelled=healed,
        )

    def _matcher(self, constraint: str | None, healed: bytes) -> Matcher | None:
        if not healed:
            return None if constraint is None else self._automata.matcher(constraint)
        if constraint is None:
            return HealingMatcher(self._vocabulary, healed)
        return self._automata.healing_matcher(constraint, healed)

    # ------------------------------------------------------------ a gen

    def accept(self, sequence: Sequence, token: int, info: TokenInfo | None) -> TokenEvent:
        """Takes one drawn token. The event's `end` is set when the segment has ended with it."""
        output = sequence.output
        assert output is not None
        event = TokenEvent(sequence.request.id, sequence.segment)
        if output.unspelled and len(self._token_bytes[token]) <= len(output.unspelled):
            self._respell(sequence, output, event, token)
        else:
            self._draw(sequence, output, event, token, info)
        if event.end is not None:
            event.data = output.text.release()
            sequence.output = None
            sequence.segment += 1
        else:
            event.data = output.text.release(output.stops.held)
        return event

    def _respell(self, sequence: Sequence, output: Output, event: TokenEvent, token: int) -> None:
        """A token of healed text: that is given text again, and no output."""
        matcher = output.matcher
        assert matcher is not None
        if not matcher.accept(token):
            raise RuntimeFailure(f"token {token} was drawn where healed text had to be spelled")
        output.unspelled = output.unspelled[len(self._token_bytes[token]) :]
        output.respelled += 1
        output.start += 1
        sequence.tokens.append(token)
        sequence.given += 1
        if output.before is not None:
            output.before = np.union1d(output.before, [token])
        if matcher.is_finished():
            event.end = "stop"
        self._end_healing(sequence, output)

    def _end_healing(self, sequence: Sequence, output: Output) -> None:
        """Once all is spelled, a gen without a constraint has no masks any more."""
        segment = sequence.request.chain[sequence.segment]
        assert isinstance(segment, GenSegment)
        if not output.unspelled and segment.constraint is None:
            output.matcher = None

    def _draw(self, sequence: Sequence, output: Output, event: TokenEvent, token: int, info: TokenInfo | None) -> None:
        """A token of the output; healed text that it begins with is no part of it."""
        output.drawn += 1
        sequence.generated += 1
        data = self._token_bytes[token]
        if output.unspelled:
            data = data[len(output.unspelled) :]
            output.overlap, output.unspelled = output.unspelled, b""
            self._end_healing(sequence, output)
        hit = output.stops.feed(data, token, output.drawn > output.sampling.min_tokens)
        self._count_growth(sequence)
        if hit is not None:
            self._stop(sequence, output, event, token, data, info, hit)
        elif token in self._end_ids:
            event.end = "stop"
            event.complete = output.matcher is None or output.matcher.is_complete()
        else:
            self._keep(sequence, output, event, token, data, info)

    def _count_growth(self, sequence: Sequence) -> None:
        """Searches make states of their automata: all automata together stay within their bytes."""
        segment = sequence.request.chain[sequence.segment]
        assert isinstance(segment, GenSegment)
        for key in segment.stop_rules:
            self._automata.grown(key)

    def _keep(
        self, sequence: Sequence, output: Output, event: TokenEvent, token: int, data: bytes, info: TokenInfo | None
    ) -> None:
        matcher = output.matcher
        if matcher is not None and not matcher.accept(token):
            raise RuntimeFailure(f"token {token} was drawn against its constraint")
        sequence.tokens.append(token)
        output.text.append(token, data)
        _report(event, token, info)
        if matcher is not None and matcher.is_finished():
            event.end = "stop"
        elif output.remaining == 0:
            event.end = "length"
        if event.end is not None:
            event.complete = matcher is None or matcher.is_complete()

    def _stop(
        self,
        sequence: Sequence,
        output: Output,
        event: TokenEvent,
        token: int,
        data: bytes,
        info: TokenInfo | None,
        hit: StopHit,
    ) -> None:
        """Cuts the output where the stop begins: whole tokens stay, bytes past them become the carry."""
        event.end = "stop"
        event.stopped_by = hit.stopped_by
        before = len(output.text.tokens)
        if isinstance(hit.stopped_by, str) or output.sampling.include_stop:
            sequence.tokens.append(token)
            output.text.append(token, data)
            cut = output.text.cut(hit.cut)
            sequence.carry = cut.carry
            del sequence.tokens[output.start + cut.tokens :]
            if sequence.lookup is not None:
                sequence.lookup.cut(len(sequence.tokens))
            self._memory.truncate(sequence, len(sequence.tokens))
            if cut.tokens > before or (cut.tokens == before and cut.carry):
                _report(event, token, info)
        if not output.text.tokens:  # nor is there a token any more that writes what it began with
            sequence.carry = output.overlap + sequence.carry
        if output.matcher is not None:
            event.complete = _is_complete_after(output.matcher, len(output.text.tokens) - before, token) and (
                all(map(output.matcher.accept, self._encode(sequence.carry))) and output.matcher.is_complete()
            )

    # ------------------------------------------------------------ a select

    def keep_best(self, sequence: Sequence) -> None:
        """Lets go of the KV of options that have lost already."""
        selection = sequence.selection
        assert selection is not None
        scored = [scoring for scoring in selection.options if not scoring.unscored]
        if scored:
            # Whichever is decided on in the end, its KV can be computed again: the mean is a good guess.
            best = likeliest(mean_scores([scoring.logprobs for scoring in scored]))
            for index, scoring in enumerate(scored):
                if index != best:
                    self._memory.drop_option(scoring)

    def choose(self, sequence: Sequence) -> TokenEvent:
        """Decides a select whose options are all scored, and appends the chosen one."""
        selection = sequence.selection
        assert selection is not None
        assert not selection.pending
        asked = selection.segment
        logprobs = _alike([(scoring.tokens, scoring.logprobs) for scoring in selection.options])
        decision = decide(asked.method, logprobs, asked.unconditional, asked.temperature, asked.seed)
        chosen = selection.options[decision.chosen]
        self._memory.adopt_option(sequence, chosen)
        self._memory.drop_options(selection)
        sequence.tokens += chosen.tokens
        sequence.generated += len(chosen.tokens)
        sequence.selection = None
        sequence.segment += 1
        return TokenEvent(
            sequence.request.id,
            sequence.segment - 1,
            tokens=chosen.tokens,
            data=b"".join(self._token_bytes[token] for token in chosen.tokens),
            end="select",
            chosen=decision.chosen,
            scores=decision.scores,
            probabilities=decision.probabilities,
            option_logprobs=logprobs,
        )


def _alike(options: Many[tuple[Many[int], Many[float]]]) -> tuple[tuple[float, ...], ...]:
    """The log-probabilities of options, given their tokens: a token after the same tokens has the same one in all of
    them, that of the first, whatever rounding said in different batches. Methods that compare them may rely on it."""
    known: dict[tuple[int, int], tuple[int, float]] = {}  # (node, token) -> (node behind it, log-probability)
    found: list[tuple[float, ...]] = []
    for tokens, logprobs in options:
        node, same = 0, []
        for token, logprob in zip(tokens, logprobs, strict=True):
            node, number = known.setdefault((node, token), (len(known) + 1, logprob))
            same.append(number)
        found.append(tuple(same))
    return tuple(found)


def _count_to_score(sampling: Sampling, text: int, end: int) -> int:
    """How many of the tokens from `text` to `end` are to have their log-probabilities told. Raises InvalidArgument
    for more numbers than an answer can hold."""
    if sampling.prompt_logprobs is None:
        return 0
    text = min(end, max(text, sampling.prompt_logprobs_start))
    numbers = (end - text) * (1 + sampling.prompt_logprobs)
    if numbers > MAX_PROMPT_LOGPROBS:
        raise InvalidArgument(
            f"prompt_logprobs={sampling.prompt_logprobs} of {end - text} tokens are {numbers} numbers; at most "
            f"{MAX_PROMPT_LOGPROBS} are told",
            field="prompt_logprobs",
            hint="ask for fewer of the likeliest tokens, or shorten the text",
        )
    return end - min(end, max(1, text))  # nothing predicts the first token of all


def _fits(matcher: Matcher, budget: int, segment: GenSegment) -> bool:
    """Whether the gen can be held to finish within its budget. Raises BudgetTooSmall if it must."""
    shortest = matcher.shortest()
    if shortest > budget and segment.on_length == "close":
        raise BudgetTooSmall(
            f"max_tokens leaves {budget} tokens, but the shortest text the constraint allows may need {shortest}",
            field="max_tokens",
            hint=f"use max_tokens={shortest} or more, or on_length='cut'",
        )
    return shortest <= budget


def _is_complete_after(matcher: Matcher, more: int, token: int) -> bool:
    """Brings a matcher to where the text was cut: `more` tokens on (1: `token` itself) or back."""
    if more > 0:
        return matcher.accept(token)
    matcher.rollback(-more)
    return True


def _report(event: TokenEvent, token: int, info: TokenInfo | None) -> None:
    event.tokens = (token,)
    if info is not None:
        event.logprobs = (info,)
