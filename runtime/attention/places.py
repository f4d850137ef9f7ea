"""Where the keys and values of a step's new tokens are written, some to several places. Knows tensors and a Batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latticework.runtime.schedule.batch import Batch


@dataclass(frozen=True, slots=True)
class Places:
    """slots: where the KV of the batch's T tokens goes, then that of those that are copied. copied: which of T these
    are; None: none."""

    slots: Tensor  # int64 [T + C]
    copied: Tensor | None  # int64 [C]

    @staticmethod
    def of(batch: Batch, device: torch.device) -> Places:
        rows, slots = batch.copies
        copied = torch.from_numpy(rows).to(device) if len(rows) else None
        return Places(torch.from_numpy(np.concatenate([batch.slots, slots])).to(device), copied)


def write_kv(cache: Tensor, new: Tensor, places: Places) -> None:
    """cache: [P, page_size, kv_heads, head_dim]; new: [T, kv_heads, head_dim]."""
    if places.copied is not None:
        new = torch.cat([new, new.index_select(0, places.copied)])
    cache.view(-1, *cache.shape[2:]).index_copy_(0, places.slots, new)
