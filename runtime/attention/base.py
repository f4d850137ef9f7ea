"""The contract of an attention backend over a paged KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from latticework.runtime.attention.layer import LayerAttention
from latticework.runtime.schedule.batch import Batch


@dataclass(frozen=True, slots=True)
class KVCache:
    """The KV tensors of one engine. Who owns which page is runtime/cache's business."""

    keys: tuple[Tensor, ...]  # per layer [pages, page_size, kv_heads, head_dim]
    values: tuple[Tensor, ...]  # same shape

    @property
    def page_size(self) -> int:
        return self.keys[0].shape[1]


class AttentionBackend(Protocol):
    """Causal attention of a batch's new tokens over everything their sequences hold.

    Called once a step with `plan`, then once a layer with `forward`. Supports grouped queries:
    query head h reads kv head h // (heads / kv_heads).

    layers: how each layer attends, given at construction, where a backend refuses (Unsupported) what it cannot do.
    Empty: every layer is PLAIN.
    """

    name: str
    layers: tuple[LayerAttention, ...]

    def plan(self, batch: Batch, kv: KVCache) -> Any:
        """Whatever the layers of this step share (index tensors, masks)."""
        ...

    def forward(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kv: KVCache, plan: Any) -> Tensor:
        """q: [T, heads, head_dim]; k, v: [T, kv_heads, head_dim]. Writes k and v to the batch's slots and copies, then
        returns [T, heads, head_dim]."""
        ...
