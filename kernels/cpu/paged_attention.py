"""Causal attention of a step's new tokens over paged keys and values, for all its sequences in one call.

    out[t, h] = sum_j p_j v_j / sum_j p_j,  p_j = exp(s_j - max s),  s_j = cap(scale * q[t, h] · k_j)

over the positions j <= the token's own that a window, if there is one, leaves in sight; cap(s) = c tanh(s / c), or s.
Query head h reads KV head h // (heads / kv_heads), which is read once for all of them.

Positions are cut into chunks. A row (one head of one token) computes a part in every chunk that it sees, with the
chunk's own maximum, and the parts are merged at the end (as "Flash-Decoding", Dao et al. 2023, splits a sequence):
so one long sequence keeps all threads busy. Sequences whose pages are the same throughout a chunk share its *item*:
keys and values of a common prefix are read once for all of them, as in cascade inference (Ye et al. 2024), which
is found here in the page tables alone. Chunks lie at fixed positions, so a row's result does not depend on who
shares: it is the same bits alone and in any batch.

Scores and sums are float32 for 16-bit numbers. bfloat16 is multiplied as it is where the processor can, and the
products summed in float32; where it has matrix registers (AMX), p is rounded to bfloat16, too, before it weighs values.

A long prompt needs no parts: a block of its tokens attends to all chunks in one item, and each chunk is folded at once
into what there is of the chunks before, in the order and with the arithmetic of merging. So which way a token goes is
a matter of time alone (`_attended_whole`), not of bits.
"""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_int64, c_void_p
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latticework.kernels.cpu.library import Library

CHUNK = 128  # positions; a multiple of every vector's width
WHOLE = 16  # new tokens of a sequence from which on parts cost more time than reading a shared prefix once saves
SHARES = 2  # of the longest whole item, for each thread at least
SHARED = 64  # tokens in an item at most: its scores stay in the cache of a core

Integers = NDArray[np.int64]


class _Plan(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("slots", "positions", "page_table", "items", "members")),
        *((name, c_void_p) for name in ("rows", "first", "parts", "scratch")),
        *((name, c_int64) for name in ("tokens", "pages", "item_count", "row_count")),
        *((name, c_int64) for name in ("heads", "kv_heads", "head_dim", "page_size", "chunk", "threads", "tiles")),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("q", "k", "v")),
        *((name, c_int64) for name in ("q_stride", "k_stride", "v_stride")),
        *((name, c_void_p) for name in ("keys", "values", "out")),
        *((name, c_double) for name in ("scale", "soft_cap")),
    ]


class AttentionPlan:
    """Who attends where, for every layer of one step with the same window.

    slots, positions: [T]; starts: [B + 1]; lengths: [B]; page_table: int32 [B, P], all contiguous: see `Batch`.
    sequences: [S], which of them attend; new tokens of the others are only written. window: how many positions a
    token sees, its own included; None: all.
    """

    def __init__(
        self,
        library: Library,
        slots: Integers,
        positions: Integers,
        starts: Integers,
        lengths: Integers,
        page_table: NDArray[np.int32],
        sequences: Integers,
        page_size: int,
        window: int | None = None,
    ) -> None:
        first = np.zeros_like(positions) if window is None else np.maximum(positions - window + 1, 0)
        new = starts[sequences + 1] - starts[sequences]
        whole = _attended_whole(sequences, starts, positions - first + 1, library.threads)
        self.rows = _rows_of(starts, sequences[~whole], len(positions))
        counts = np.zeros_like(positions)
        counts[self.rows] = positions[self.rows] // CHUNK - first[self.rows] // CHUNK + 1
        parts = np.cumsum(counts) - counts
        parts[_rows_of(starts, sequences[whole], len(positions))] = -1
        self.part_count = int(counts.sum())
        room = int(((-(-lengths[sequences] // CHUNK)) * -(-new // SHARED)).sum())
        items, members = np.empty((room, 5), dtype=np.int32), np.empty((room, 2), dtype=np.int32)
        self._alive: list[Any] = [slots, positions, starts, lengths, page_table, first, parts, items, members]
        assert all(array.flags.c_contiguous for array in self._alive)
        self._library = library
        self._plan = _Plan(
            slots=slots.ctypes.data,
            positions=positions.ctypes.data,
            page_table=page_table.ctypes.data,
            items=items.ctypes.data,
            members=members.ctypes.data,
            rows=self.rows.ctypes.data,
            first=first.ctypes.data,
            parts=parts.ctypes.data,
            tokens=len(positions),
            pages=page_table.shape[1],
            row_count=len(self.rows),
            page_size=page_size,
            chunk=CHUNK,
            threads=library.threads,
            tiles=library.uses_tiles,
        )
        self.address = ctypes.addressof(self._plan)
        library.plan_attention(
            self.address,
            sequences.ctypes.data,
            len(sequences),
            starts.ctypes.data,
            lengths.ctypes.data,
            SHARED,
            items.ctypes.data,
            members.ctypes.data,
        )
        self.items = items[: self._plan.item_count]
        self._shape: tuple[int, ...] = ()

    def fit(self, heads: int, keys: Tensor) -> None:
        """Makes room for the parts of layers of this shape: once a step, at the first of them."""
        shape = (heads, *keys.shape[2:])
        if self._shape == shape:
            return
        work = torch.float64 if keys.dtype == torch.float64 else torch.float32
        width = self._library.vector_bytes // work.itemsize
        padded = -(-shape[2] // width) * width
        scratch = torch.empty(self.part_count * heads * (padded + width), dtype=work)
        self._alive.append(scratch)
        self._plan.scratch = scratch.data_ptr()
        self._plan.heads, self._plan.kv_heads, self._plan.head_dim = shape
        self._shape = shape


def _attended_whole(sequences: Integers, starts: Integers, seen: Integers, threads: int) -> NDArray[np.bool_]:
    """Which of the sequences attend in items of all their chunks: those with many new tokens, if the longest such item
    is short enough that all threads have their share. seen: [T], how many positions each token sees."""
    new = starts[sequences + 1] - starts[sequences]
    whole = new >= WHOLE
    if whole.any():
        longest = min(SHARED, int(new.max())) * int(seen[starts[sequences[whole] + 1] - 1].max())
        work = sum(int(seen[starts[b] : starts[b + 1]].sum()) for b in sequences)
        if work < SHARES * longest * threads:
            whole[:] = False
    return whole


def _rows_of(starts: Integers, sequences: Integers, tokens: int) -> Integers:
    """The tokens of some sequences, ascending within each."""
    if len(sequences) == len(starts) - 1:
        return np.arange(tokens)
    return np.concatenate([np.arange(starts[b], starts[b + 1]) for b in sequences] or [np.arange(0)])


def paged_attention(
    library: Library,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    plan: AttentionPlan,
    scale: float,
    soft_cap: float | None = None,
) -> Tensor:
    """Writes all new tokens' k and v into the cache and returns [T, heads, head_dim], where rows of sequences that do
    not attend here are left as they are in memory.

    q: [T, heads, head_dim]; k, v: [T, kv_heads, head_dim]; keys, values: [P, page_size, kv_heads, head_dim].
    """
    tokens, heads, head_dim = q.shape
    q, k, v = (_by_token(tensor) for tensor in (q, k, v))
    plan.fit(heads, keys)
    out = torch.empty((tokens, heads, head_dim), dtype=q.dtype)
    layer = _Layer(
        q.data_ptr(),
        k.data_ptr(),
        v.data_ptr(),
        q.stride(0),
        k.stride(0),
        v.stride(0),
        keys.data_ptr(),
        values.data_ptr(),
        out.data_ptr(),
        scale,
        soft_cap or 0.0,
    )
    library.paged_attention[q.dtype](plan.address, ctypes.addressof(layer))
    return out


def _by_token(x: Tensor) -> Tensor:
    """x [T, heads, head_dim] with each token's heads one after the other."""
    return x if x.stride()[1:] == (x.shape[2], 1) else x.contiguous()


def paged_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    batch: Any,
    scale: float,
    soft_cap: float | None = None,
    window: int | None = None,
) -> Tensor:
    """The same, token by token, in float32 or better. batch: anything with the arrays that a plan is made of."""
    work = torch.promote_types(q.dtype, torch.float32)
    kv_heads, head_dim = keys.shape[2:]
    flat = [cache.view(-1, kv_heads, head_dim) for cache in (keys, values)]
    for cache, new in zip(flat, (k, v), strict=True):
        cache[torch.from_numpy(batch.slots)] = new
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    for b, (begin, end) in enumerate(zip(batch.starts[:-1], batch.starts[1:], strict=True)):
        for t in range(begin, end):
            stop = int(batch.positions[t]) + 1
            seen = np.arange(0 if window is None else max(0, stop - window), stop)
            slots = batch.page_table[b, seen // keys.shape[1]].astype(np.int64) * keys.shape[1] + seen % keys.shape[1]
            held_keys, held_values = (cache[torch.from_numpy(slots)].to(work) for cache in flat)  # [n, kv_heads, D]
            queries = q[t].to(work).view(kv_heads, -1, head_dim)
            scores = torch.einsum("gfd,ngd->gfn", queries, held_keys) * scale
            if soft_cap is not None:
                scores = (scores / soft_cap).tanh() * soft_cap
            found = torch.einsum("gfn,ngd->gfd", scores.softmax(-1), held_values)
            out[t] = found.reshape(q.shape[1:]).to(q.dtype)
    return out
