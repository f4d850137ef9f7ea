"""What a request changes in the logits before tokens are chosen from them, in this order:

    repetition   tokens in the text before the segment or in its output: a logit above 0 is divided by the penalty,
                 others are multiplied (Keskar et al. 2019, as transformers counts)
    frequency    minus frequency_penalty, times how often the token is in the output
    presence     minus presence_penalty, if it is in the output at all
    bias         plus logit_bias

All in float64, from counts that are made of the tokens themselves each time: whatever a sequence went through, the
same text gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from latticework.lang.ir import Sampling

Logits = NDArray[np.floating]  # float32 or float64, as the model gave them
Ids = NDArray[np.intp]


def is_penalised(sampling: Sampling) -> bool:
    """Something is changed."""
    return bool(
        sampling.repetition_penalty != 1.0
        or sampling.frequency_penalty
        or sampling.presence_penalty
        or sampling.logit_bias
    )


def penalised(logits: Logits, sampling: Sampling, before: Ids | None, output: Sequence[int]) -> Logits:
    """`logits` [V] themselves where nothing is asked, else a changed copy in float64. before: see `Row`."""
    if not is_penalised(sampling):
        return logits
    repetition, bias = sampling.repetition_penalty, sampling.logit_bias
    x = logits.astype(np.float64)  # [V]
    seen, times = np.unique(np.array(output, dtype=np.intp), return_counts=True)
    if repetition != 1.0:
        every = seen if before is None else np.union1d(before, seen)
        x[every] = np.where(x[every] > 0, x[every] / repetition, x[every] * repetition)
    if sampling.frequency_penalty or sampling.presence_penalty:
        x[seen] -= sampling.frequency_penalty * times
        x[seen] -= sampling.presence_penalty
    if bias:
        x[[token for token, _ in bias]] += [number for _, number in bias]
    return x
