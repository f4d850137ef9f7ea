"""Random ragged batches over shuffled pages, and attention over them written out per token in float64."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from latticework.runtime.attention.base import KVCache
from latticework.runtime.attention.layer import PLAIN, LayerAttention
from latticework.runtime.schedule.batch import Batch

Inputs: TypeAlias = tuple[Tensor, Tensor, Tensor]


def make_batch(sequences: list[tuple[int, int]], page_size: int, random: np.random.Generator) -> tuple[Batch, int]:
    """A batch on shuffled pages, and how many pages its pool needs; page 0 belongs to nobody."""
    new, lengths = (np.array(column, dtype=np.int64) for column in zip(*sequences, strict=True))
    pages = -(-lengths // page_size)
    pool = 1 + random.permutation(int(pages.sum()))
    table = np.zeros((len(lengths), int(pages.max()) + 1), dtype=np.int32)
    for b, count in enumerate(pages):
        table[b, :count], pool = pool[:count], pool[count:]
    starts = np.concatenate([[0], np.cumsum(new)])
    owner = np.repeat(np.arange(len(new)), new)
    positions = np.concatenate([np.arange(total - n, total) for n, total in sequences])
    slots = table[owner, positions // page_size].astype(np.int64) * page_size + positions % page_size
    tokens = np.zeros(len(positions), dtype=np.int64)
    return Batch(tokens, positions, slots, starts, lengths, table, starts[1:] - 1), 1 + int(pages.sum())


def make_kv(pages: int, page_size: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> KVCache:
    shape = (pages, page_size, kv_heads, head_dim)
    return KVCache((torch.randn(shape, dtype=dtype),), (torch.randn(shape, dtype=dtype),))


def make_inputs(batch: Batch, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> Inputs:
    """q, k and v of a layer."""
    rows = len(batch.tokens)
    q = torch.randn(rows, heads, head_dim, dtype=dtype)
    k, v = torch.randn(2, rows, kv_heads, head_dim, dtype=dtype)
    return q, k, v


def naive(q: Tensor, kv: KVCache, batch: Batch, how: LayerAttention = PLAIN) -> Tensor:
    """float64 [T, heads, head_dim], one token and head at a time; the new tokens' KV is in the cache."""
    keys, values = kv.keys[0].double(), kv.values[0].double()
    out = torch.empty(q.shape, dtype=torch.float64)
    fold = q.shape[1] // keys.shape[2]
    for b in range(len(batch.lengths)):
        for t in range(batch.starts[b], batch.starts[b + 1]):
            stop = int(batch.positions[t]) + 1
            places = [divmod(i, kv.page_size) for i in range(max(0, stop - (how.window or stop)), stop)]
            held = [(int(batch.page_table[b, page]), offset) for page, offset in places]
            for h in range(q.shape[1]):
                k = torch.stack([keys[page, offset, h // fold] for page, offset in held])
                v = torch.stack([values[page, offset, h // fold] for page, offset in held])
                scores = k @ q[t, h].double() * (how.scale or q.shape[2] ** -0.5)
                if how.soft_cap is not None:
                    scores = (scores / how.soft_cap).tanh() * how.soft_cap
                out[t, h] = scores.softmax(0) @ v
    return out


def one_of(batch: Batch, b: int) -> Batch:
    """Sequence b of a batch by itself."""
    rows = slice(int(batch.starts[b]), int(batch.starts[b + 1]))
    count = rows.stop - rows.start
    return Batch(
        tokens=batch.tokens[rows],
        positions=batch.positions[rows],
        slots=batch.slots[rows],
        starts=np.array([0, count]),
        lengths=batch.lengths[b : b + 1],
        page_table=batch.page_table[b : b + 1],
        logit_rows=np.array([count - 1]),
    )


def share_prefix(batch: Batch, members: Iterable[int], pages: int) -> None:
    """Lets these sequences have the first pages of the first of them."""
    first, *others = members
    batch.page_table[others, :pages] = batch.page_table[first, :pages]
