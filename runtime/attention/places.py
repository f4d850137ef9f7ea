"""Where the keys and values of a step's new tokens are written, some to several places. Knows tensors and a Batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latticework.runtime.schedule.batch import Batch


@dataclass(frozen=True, slots=True)
class Copies:
    """rows: which of the batch's T tokens have KV that goes to more than one slot. slots: the others of them."""

    rows: Tensor  # int64 [C]
    slots: Tensor  # int64 [C]

    @staticmethod
    def of(batch: Batch, device: torch.device) -> Copies | None:
        """None: there are none."""
        rows, slots = (torch.from_numpy(numbers).to(device) for numbers in batch.copies)
        return Copies(rows, slots) if len(rows) else None

    def write(self, cache: Tensor, new: Tensor) -> None:
        """cache: [P, page_size, kv_heads, head_dim]; new: [T, kv_heads, head_dim]."""
        cache.view(-1, *cache.shape[2:]).index_copy_(0, self.slots, new.index_select(0, self.rows))


@dataclass(frozen=True, slots=True)
class Places:
    """slots: where the KV of the batch's T tokens goes first."""

    slots: Tensor  # int64 [T]
    copies: Copies | None

    @staticmethod
    def of(batch: Batch, device: torch.device) -> Places:
        return Places(torch.from_numpy(batch.slots).to(device), Copies.of(batch, device))

    def copy_written(self, cache: Tensor) -> None:
        """Copies, where the KV is in its first places already. cache: [P, page_size, kv_heads, head_dim]."""
        if self.copies is not None:
            numbers = cache.view(-1, *cache.shape[2:])
            first = self.slots.index_select(0, self.copies.rows)
            numbers.index_copy_(0, self.copies.slots, numbers.index_select(0, first))


def write_kv(cache: Tensor, new: Tensor, places: Places) -> None:
    """cache: [P, page_size, kv_heads, head_dim]; new: [T, kv_heads, head_dim]."""
    cache.view(-1, *cache.shape[2:]).index_copy_(0, places.slots, new)
    if places.copies is not None:
        places.copies.write(cache, new)
