"""How a select decides: pure functions on log-probabilities.

Each function takes, for every option, the natural log-probabilities of that option's tokens after the shared
prefix, and returns a `Decision`. This file knows no tokens, no model and no text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from latticework.lang.ir import SelectMethod


class Decision(NamedTuple):
    """The index of the chosen option, and one score per option, higher is likelier."""

    chosen: int
    scores: tuple[float, ...]


def token_length_normalized(logprobs: Sequence[Sequence[float]]) -> Decision:
    """The option with the highest mean token log-probability; ties go to the lower index.

    Every token counts, one of exactly 0.0 (probability 1) too. Long options that predict themselves win more
    often than their probability says: Brown et al. 2020 (GPT-3), section 2.4, and SGLang issue 523.
    """
    assert logprobs, "a Select has at least one option"
    assert all(logprobs), "an option has at least one token"
    scores = tuple(math.fsum(option) / len(option) for option in logprobs)
    assert not any(map(math.isnan, scores)), "a log-probability is not a number"
    return Decision(max(range(len(scores)), key=scores.__getitem__), scores)


METHODS: dict[SelectMethod, Callable[[Sequence[Sequence[float]]], Decision]] = {
    "token_length_normalized": token_length_normalized,
}


def decide(method: SelectMethod, logprobs: Sequence[Sequence[float]]) -> Decision:
    """The decision of the named method."""
    return METHODS[method](logprobs)
