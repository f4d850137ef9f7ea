"""q, k and v of a step's tokens out of one matrix: normed and turned, k and v written to the cache, in one kernel."""

from __future__ import annotations

from torch import Tensor

from latticework.kernels.turn_and_store import HeadNorm, turn_and_store
from latticework.runtime.attention.base import KVCache, Turning
from latticework.runtime.attention.places import Places


def turned_queries(layer: int, qkv: Tensor, turning: Turning, kv: KVCache, places: Places) -> Tensor:
    """qkv: [T, (heads + 2 kv_heads) * head_dim] -> q [T, heads, head_dim]; k and v are where `places` says."""
    norms = turning.norms
    norm = None if norms is None else HeadNorm(norms.q, norms.k, norms.eps, norms.offset)
    keys, values = kv.keys[layer], kv.values[layer]
    q = turn_and_store(qkv, turning.positions, places.slots, keys, values, turning.tables, norm)
    places.copy_written(keys)
    places.copy_written(values)
    return q
