"""Log-probabilities of given tokens: what a select compares, and what is told of prompts.

Raw model log-probabilities, natural logarithm, in float64 from the logits as they are. Knows rows, no sequences.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from latticework.kernels.cpu.draw import to_numpy
from latticework.lang.errors import RuntimeFailure
from latticework.runtime.request import TokenInfo
from latticework.runtime.sample.sampler import log_probabilities


def token_logprobs(logits: Tensor, tokens: Sequence[Sequence[int]]) -> list[list[float]]:
    """logits: [R, V]; tokens: for each row the ids asked for, any number. NaN in, NaN out."""
    assert logits.shape[0] == len(tokens)
    result = []
    for row, wanted in zip(to_numpy(logits), tokens, strict=True):
        x = row.astype(np.float64)
        with np.errstate(invalid="ignore"):
            x -= x.max()
            x -= np.log(np.exp(x).sum())
        result.append(x[list(wanted)].tolist())
    return result


def prompt_logprobs(logits: Tensor, tokens: Sequence[int], count: int) -> tuple[TokenInfo, ...]:
    """For each row of logits [R, V] the token that follows it, and the `count` likeliest. One row at a time is held
    in float64. Raises RuntimeFailure for rows that are no logits."""
    assert logits.shape[0] == len(tokens)
    infos = []
    for row, token in zip(to_numpy(logits), tokens, strict=True):
        if not np.isfinite(row.max()):
            raise RuntimeFailure("model produced NaN" if np.isnan(row.max()) else "model produced infinite logits")
        infos.append(log_probabilities(row, token, count))
    return tuple(infos)
