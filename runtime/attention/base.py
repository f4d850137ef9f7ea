"""The contract of an attention backend over a paged KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

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


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """Norms of q and k, each head by itself: x / sqrt(mean(x^2) + eps) * (offset + weight)."""

    q: Tensor  # [head_dim]
    k: Tensor  # [head_dim]
    eps: float
    offset: float


@dataclass(frozen=True, slots=True)
class Turning:
    """What becomes of q and k between their matrix product and attention: normed, then turned."""

    positions: Tensor  # int64 [T]
    tables: tuple[Tensor, Tensor] | None  # cos, sin of every position, [context, rotary_dim]; None: not turned
    norms: HeadNorms | None = None


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


@runtime_checkable
class QkvBackend(AttentionBackend, Protocol):
    """A backend that also does what comes before attention, in one pass over q, k and v."""

    def forward_qkv(self, layer: int, qkv: Tensor, turning: Turning, kv: KVCache, plan: Any) -> Tensor:
        """qkv: [T, (heads + 2 kv_heads) * head_dim], as the matrix product leaves them; norms, turns, writes k and v
        to the batch's slots and copies, then returns [T, heads, head_dim]."""
        ...
