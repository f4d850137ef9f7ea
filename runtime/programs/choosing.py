"""A select in the front: its segment, what it still needs to know, and its Done.

The method that compares with the options' own likelihood first has them scored without the program's text:

    [first token][the other tokens, as a select]      one request for each first token; a first token counts 0

This file knows no chain and no branch.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from latticework.lang.errors import Cancelled, from_data
from latticework.lang.events import Done, TokenLogprob, Usage
from latticework.lang.ir import Select
from latticework.runtime.link.engine_link import EngineLink
from latticework.runtime.request import Request, SelectSegment, TextSegment, TokenEvent
from latticework.runtime.text.tokenizer import Tokenizer

NOTHING = Usage()


@dataclass(frozen=True, slots=True)
class Choosing:
    """Who speaks for a select. options: its choices as tokens. alone: what scoring them without the text has cost."""

    branch: int
    position: int
    op: Select
    seed: int
    options: tuple[tuple[int, ...], ...]
    alone: Usage = NOTHING

    def done(self, event: TokenEvent, usage: Usage, tokenizer: Tokenizer) -> Done:
        """The op's Done. event: the segment's last, with the decision. usage: of the segment."""
        assert event.chosen is not None
        logprobs = tuple(
            tuple(
                TokenLogprob(token, tokenizer.text_of(token), number)
                for token, number in zip(tokens, numbers, strict=True)
            )
            for tokens, numbers in zip(self.options, event.option_logprobs, strict=True)
        )
        return Done(
            self.branch,
            self.position,
            self.op.options[event.chosen],
            "select",
            usage=usage + self.alone,
            scores=event.scores,
            seed=self.seed,
            probabilities=event.probabilities,
            option_logprobs=logprobs,
        )

    def segment(self, unconditional: tuple[float, ...] = ()) -> SelectSegment:
        return SelectSegment(self.options, self.op.method, self.op.temperature, self.seed, unconditional)


async def score_alone(
    link: EngineLink, options: tuple[tuple[int, ...], ...], tenant: str, priority: int
) -> tuple[tuple[float, ...], Usage]:
    """For each option, the sum of its tokens' log-probabilities after its first token alone; and what that has cost.
    Raises what the engine reports. Cancelled, it cancels."""
    rests: dict[int, list[tuple[int, ...]]] = {}
    for option in options:
        if len(option) > 1 and option[1:] not in rests.setdefault(option[0], []):
            rests[option[0]].append(option[1:])
    rests = {first: found for first, found in rests.items() if found}
    group = link.number()
    calls = [_ask(link, TextSegment((first,)), tuple(found), group, tenant, priority) for first, found in rests.items()]
    sums: dict[tuple[int, ...], float] = {}
    usage = Usage()
    for (first, found), event in zip(rests.items(), await _all(calls), strict=True):
        usage += event.usage or Usage()
        for rest, numbers in zip(found, event.option_logprobs, strict=True):
            sums[(first, *rest)] = math.fsum(numbers)
    return tuple(sums.get(option, 0.0) for option in options), usage


async def _all(calls: list[asyncio.Task[TokenEvent]]) -> list[TokenEvent]:
    try:
        return await asyncio.gather(*calls)
    finally:
        for call in calls:
            call.cancel()


def _ask(
    link: EngineLink,
    text: TextSegment,
    rests: tuple[tuple[int, ...], ...],
    group: int,
    tenant: str,
    priority: int,
) -> asyncio.Task[TokenEvent]:
    """The event that scores the options behind a text, in a task of its own."""

    async def ask() -> TokenEvent:
        done: asyncio.Future[TokenEvent] = asyncio.get_running_loop().create_future()
        decided: list[TokenEvent] = []

        def hear(event: TokenEvent) -> None:
            if event.chosen is not None:
                decided.append(event)
            if event.final and not done.done():
                done.set_result(event)

        request = Request(
            link.number(), (text, SelectSegment(rests, "probability")), group=group, tenant=tenant, priority=priority
        )
        link.submit(request, {}, hear)
        try:
            final = await done
        except asyncio.CancelledError:
            link.cancel(request.id)
            raise
        if final.error is not None:
            raise from_data(final.error)
        if not decided:
            raise Cancelled("the request was cancelled")
        return decided[0]

    return asyncio.create_task(ask())
