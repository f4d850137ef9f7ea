"""Log-probabilities of given tokens: what a select compares.

Raw model log-probabilities, natural logarithm, in float64 from the logits as they are. Knows rows, no sequences.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def token_logprobs(logits: Tensor, tokens: Sequence[Sequence[int]]) -> list[list[float]]:
    """logits: [R, V]; tokens: for each row the ids asked for, any number. NaN in, NaN out."""
    assert logits.shape[0] == len(tokens)
    kept = logits.dtype if logits.dtype in (torch.float32, torch.float64) else torch.float32
    values = logits.detach().to(device="cpu", dtype=kept).numpy()  # [R, V]
    result = []
    for row, wanted in zip(values, tokens, strict=True):
        x = row.astype(np.float64)
        with np.errstate(invalid="ignore"):
            x -= x.max()
            x -= np.log(np.exp(x).sum())
        result.append(x[list(wanted)].tolist())
    return result
