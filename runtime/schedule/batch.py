"""Everything one model step needs, complete when built.

The scheduler builds it, the runner reads it. numpy only: nothing here knows torch.

    tokens     t0 t1 t2 | u0 | v0 v1        the new tokens of B sequences, end to end
    starts     0          3    4       6    where each sequence's new tokens begin
    lengths    9          120  2            KV length of each sequence once this step's tokens are in
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Batch:
    """B sequences with T new tokens in all, R rows of logits.

    Position i of a sequence lives in page page_table[b, i // page_size] at offset i % page_size.
    """

    tokens: NDArray[np.int64]  # [T]
    positions: NDArray[np.int64]  # [T]
    slots: NDArray[np.int64]  # [T], page * page_size + offset: where this token's KV is written
    starts: NDArray[np.int64]  # [B + 1]
    lengths: NDArray[np.int64]  # [B]
    page_table: NDArray[np.int32]  # [B, P], unused entries 0
    logit_rows: NDArray[np.int64]  # [R], indices into T, ascending

    @property
    def is_decode(self) -> bool:
        """One new token for every sequence."""
        return len(self.tokens) == len(self.lengths)
