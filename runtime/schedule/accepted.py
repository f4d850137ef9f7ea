"""What of a request can be judged before anything runs: pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable

from latticework.lang.errors import InvalidArgument
from latticework.lang.ir import Sampling
from latticework.runtime.request import GenSegment, Request, SelectSegment, TextSegment

MAX_PRIORITY = 1000


def constraint_keys(request: Request) -> list[str]:
    """The rule graphs a request names, once for each use."""
    gens = [segment for segment in request.chain if isinstance(segment, GenSegment)]
    constraints = [gen.constraint for gen in gens if gen.constraint is not None]
    return constraints + [key for gen in gens for key in gen.stop_rules]


def check_request(request: Request, vocab_size: int) -> None:
    """Raises InvalidArgument for what a front should never send, and what must not reach a batch of others."""
    if request.deadline is not None and not 0 <= request.deadline < math.inf:
        raise InvalidArgument(f"timeout is {request.deadline}; expected seconds, at least 0", field="timeout")
    if abs(request.priority) > MAX_PRIORITY:
        raise InvalidArgument(
            f"priority is {request.priority}; expected {-MAX_PRIORITY} to {MAX_PRIORITY}", field="priority"
        )
    for segment in request.chain:
        match segment:
            case TextSegment(tokens, _, head_tokens):
                _check_tokens(tokens, vocab_size)
                if not 0 <= head_tokens <= len(tokens):
                    raise InvalidArgument(f"head_tokens is {head_tokens} of {len(tokens)}", field="chain")
            case SelectSegment(options):
                if not options or not all(options):
                    raise InvalidArgument("a select needs options of at least one token", field="choices")
                _check_tokens((token for option in options for token in option), vocab_size)
                _check_select(segment)
            case GenSegment(sampling):
                _check_sampling(sampling, vocab_size)
                if len(segment.stop_rules) != len(sampling.stop_regex):
                    raise InvalidArgument("stop_regex came without its rules", field="stop_regex")


def _check_select(segment: SelectSegment) -> None:
    if not 0 <= segment.temperature < math.inf:
        raise InvalidArgument(f"temperature is {segment.temperature}; expected at least 0", field="temperature")
    if not 0 <= segment.seed < 1 << 64:
        raise InvalidArgument(f"seed is {segment.seed}; expected 0 to 2**64 - 1", field="seed")
    needed = len(segment.options) if segment.method == "unconditional_likelihood_normalized" else 0
    if len(segment.unconditional) != needed or not all(map(math.isfinite, segment.unconditional)):
        raise InvalidArgument(
            f"{len(segment.unconditional)} unconditional scores; expected {needed}, each a number", field="choices"
        )


def _check_sampling(sampling: Sampling, vocab_size: int) -> None:
    """What a Sampling cannot know of itself: the vocabulary, and which of its fields are a run's defaults."""
    if sampling.seed is None and not sampling.greedy:
        raise InvalidArgument("a sampled gen came without a seed", field="seed")
    if sampling.min_tokens > sampling.max_tokens:
        raise InvalidArgument(
            f"min_tokens is {sampling.min_tokens}; expected at most max_tokens, {sampling.max_tokens}",
            field="min_tokens",
        )
    _check_tokens((token for token, _ in sampling.logit_bias), vocab_size, "logit_bias")
    _check_tokens(sampling.stop_token_ids, vocab_size, "stop_token_ids")


def _check_tokens(tokens: Iterable[int], vocab_size: int, field: str = "prompt") -> None:
    wrong = next((token for token in tokens if not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise InvalidArgument(f"token {wrong} is not one of the model's {vocab_size}", field=field)
