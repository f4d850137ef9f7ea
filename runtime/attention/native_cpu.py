"""Attention with the built C++ operation: a step's new tokens in one call a layer, `kernels/cpu/paged_attention.py`.

Where the processor has no matrix registers, sequences with many new tokens, prompts, go through torch's formulation,
whose matrix products are the faster ones there. This file knows which sequences go which way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latticework.kernels.cpu.library import DTYPES, Library
from latticework.kernels.cpu.paged_attention import AttentionPlan, paged_attention
from latticework.lang.errors import Unsupported
from latticework.runtime.attention.base import KVCache
from latticework.runtime.attention.layer import PLAIN, LayerAttention
from latticework.runtime.attention.places import Copies
from latticework.runtime.attention.torch_cpu import TorchPlan, attend, plan_sequences
from latticework.runtime.schedule.batch import Batch

MOST_NEW = 16  # new tokens of a sequence that the operation takes where it does not multiply in matrix registers


@dataclass(frozen=True, slots=True)
class NativePlan:
    """Sequences with few new tokens (any number, in matrix registers) for the operation, the rest in a torch plan."""

    few: AttentionPlan
    rest: TorchPlan | None
    copies: Copies | None


class NativeAttention:
    """An AttentionBackend for a CPU. Stateless but for the library."""

    name = "native"

    def __init__(
        self,
        library: Library,
        dtype: torch.dtype | None = None,
        layers: tuple[LayerAttention, ...] = (),
        takes_all: bool = False,
    ) -> None:
        """takes_all: prompts go through the operation, too. Raises Unsupported for a dtype that it does not know."""
        if dtype is not None and dtype not in DTYPES:
            raise Unsupported(f"attention='native' does not compute in {dtype}", hint="use attention='torch'")
        self.layers = layers
        self._library = library
        self._takes_all = takes_all
        self._windows = {layer.window for layer in layers} or {None}

    def _takes(self, new: NDArray[np.int64], kv: KVCache) -> NDArray[np.bool_]:
        """Which sequences the operation takes; new: [B], their new tokens."""
        keys = kv.keys[0]
        in_tiles = self._library.uses_tiles and keys.dtype == torch.bfloat16 and keys.shape[3] % 32 == 0
        return np.ones(len(new), dtype=np.bool_) if in_tiles or self._takes_all else new <= MOST_NEW

    def plan(self, batch: Batch, kv: KVCache) -> dict[int | None, NativePlan]:
        """By window."""
        longest = int(batch.lengths.max())
        whole = None
        plans: dict[int | None, NativePlan] = {}
        for window in self._windows:
            if window is not None and window < longest:
                plans[window] = self._plan(batch, kv, window)
            else:  # nothing is out of sight
                whole = whole or self._plan(batch, kv, None)
                plans[window] = whole
        return plans

    def forward(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kv: KVCache, plan: Any) -> Tensor:
        """q: [T, heads, head_dim]; k, v: [T, kv_heads, head_dim] -> [T, heads, head_dim]."""
        how = self.layers[layer] if self.layers else PLAIN
        chosen: NativePlan = plan[how.window]
        keys, values = kv.keys[layer], kv.values[layer]
        scale = q.shape[2] ** -0.5 if how.scale is None else how.scale
        if chosen.copies is not None:  # read by the sequences they go to
            chosen.copies.write(keys, k)
            chosen.copies.write(values, v)
        out = paged_attention(self._library, q, k, v, keys, values, chosen.few, scale, how.soft_cap)
        return out if chosen.rest is None else attend(q, keys, values, chosen.rest, out, how)

    def _plan(self, batch: Batch, kv: KVCache, window: int | None) -> NativePlan:
        few = self._takes(np.diff(batch.starts), kv)
        many = np.flatnonzero(~few)
        plan = AttentionPlan(
            self._library,
            batch.slots,
            batch.positions,
            batch.starts,
            batch.lengths,
            batch.page_table,
            np.flatnonzero(few),
            kv.page_size,
            window,
        )
        rest = plan_sequences(batch, kv, many, window) if len(many) else None
        return NativePlan(plan, rest, Copies.of(batch, kv.keys[0].device))
