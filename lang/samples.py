"""Several outputs of one gen, and the one Done that tells of them all. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from latticework.lang.events import Done, Usage
from latticework.lang.ir import Sampling


def kept(drawn: Sequence[Done], sampling: Sampling) -> list[int]:
    """Which of the outputs drawn are given, first to last: the n best, or all as they were drawn."""
    order = list(range(len(drawn)))
    if sampling.ranked:
        order.sort(key=lambda index: -mean_logprob(drawn[index]))
    return order[: sampling.n]


def mean_logprob(done: Done) -> float:
    """Per token of the text; minus infinity for an output without any."""
    if not done.logprobs:
        return -math.inf
    return sum(token.logprob for token in done.logprobs) / len(done.logprobs)


def total_usage(drawn: Sequence[Usage]) -> Usage:
    """The prompt is that of the first; every token drawn counts; what ran side by side took as long as the longest."""
    first = drawn[0]
    return Usage(
        first.prompt,
        first.cached,
        first.computed,
        sum(usage.output for usage in drawn),
        drafted=sum(usage.drafted for usage in drawn),
        accepted=sum(usage.accepted for usage in drawn),
        queue_seconds=max(usage.queue_seconds for usage in drawn),
        compile_seconds=max(usage.compile_seconds for usage in drawn),
        prefill_seconds=max(usage.prefill_seconds for usage in drawn),
        decode_seconds=max(usage.decode_seconds for usage in drawn),
    )


def as_one(drawn: Sequence[Done], sampling: Sampling) -> Done:
    """The Done of a gen: its first output, the usage of all, and in `samples` all that are given, where n is above 1.

    drawn: in order of sample. Log-probabilities that only the ranking needed are left out."""
    prompt = drawn[0].prompt_logprobs
    given = [msgspec.structs.replace(drawn[index], prompt_logprobs=prompt) for index in kept(drawn, sampling)]
    if sampling.logprobs is None:
        given = [msgspec.structs.replace(done, logprobs=()) for done in given]
    samples = tuple(given) if sampling.n > 1 else ()
    return msgspec.structs.replace(given[0], usage=total_usage([done.usage for done in drawn]), samples=samples)
