"""Paged extend attention: several new tokens a sequence, over KV held in pages that already include their own.

    out[r, h] = softmax(score(q[r, h], K[b, lo..own])) · V[b, lo..own]      for new token i of sequence b,
    r = first[b] + i,   own = lengths[b] - new[b] + i,   lo = max(0, own - window + 1)

`score` with scale and soft cap: see paged.py. The online softmax of FlashAttention-2 (Dao 2023) over pages
(PagedAttention, Kwon et al. 2023). A prefill, a chunk of one and drafts that are verified are the same thing here: a
prefix that is cached and new tokens of any number, ragged over the batch.

    rows of a program     token 0: head 0 1 .. GROUP-1 | token 1: head 0 1 ..     all heads that share a KV head, so
                                                                                  keys are read once for them

Blocks of keys begin at multiples of BLOCK, and one that a row does not see changes nothing in it: a token's result is
the same, bit for bit, however its prompt is cut into chunks and whatever else is in the batch. 16-bit numbers are
multiplied as they are, probabilities rounded to them first, which is what tensor cores do fastest; in the interpreter
everything becomes float32 right after each load. This file knows no model and no scheduler.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from latticework.kernels.choice import capability_of, is_interpreted, twins_chosen
from latticework.kernels.paged import (
    NO_WINDOW,
    attention_reference,
    capped,
    check_heads,
    check_indices,
    check_scores,
    exact,
    score_factors,
)
from latticework.kernels.tuned import pad, tuned

NAME = "paged_extend"


def paged_extend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    page_table: Tensor,
    first: Tensor,
    new: Tensor,
    lengths: Tensor,
    longest: int,
    out: Tensor,
    window: int | None = None,
    soft_cap: float | None = None,
    scale: float | None = None,
) -> Tensor:
    """Attention of the new tokens of B sequences. Their own keys and values are already in the pages.

    q, out: [T, heads, D]; keys, values: [pages, page_size, kv_heads, D]; page_table: int32 [B, P]; first, new, lengths:
    int32 [B]: sequence b's new tokens are rows first[b] to first[b] + new[b] of q, and lengths[b] counts all its
    tokens. longest: at least the largest of `new`, known to the host. Writes those rows of `out`, leaves the others
    alone, and returns it. Raises TypeError for other dtypes and ValueError for shapes that do not agree or are beyond
    the limits in paged.py.
    """
    check_heads(NAME, q, keys, values)
    check_indices(NAME, len(page_table), page_table, first=first, new=new, lengths=lengths)
    check_scores(NAME, window, soft_cap)
    if out.shape != q.shape or out.dtype != q.dtype or not out.is_contiguous():
        raise ValueError(f"{NAME}: out {tuple(out.shape)} {out.dtype}; expected {tuple(q.shape)} {q.dtype}, contiguous")
    if twins_chosen():
        return paged_extend_reference(
            q, keys, values, page_table, first, new, lengths, longest, out, window, soft_cap, scale
        )
    heads, head_dim = q.shape[1:]
    page_size, kv_heads = keys.shape[1:3]
    group = heads // kv_heads
    options = extend_options(q.dtype, head_dim, group, capability_of(q.device), is_interpreted(extend_kernel))
    tiles = triton.cdiv(longest, int(options["ROWS"]) // group)
    if tiles == 0 or len(page_table) == 0:
        return out
    extend_kernel[(tiles, len(page_table), kv_heads)](
        q, keys, values, page_table, first, new, lengths, out,
        *score_factors(head_dim, soft_cap, scale), NO_WINDOW if window is None else window,
        q.stride(0), q.stride(1), keys.stride(0), keys.stride(1), keys.stride(2), page_table.stride(0),
        HEADS=heads, GROUP=group, PAGE_SIZE=page_size, CAPPED=soft_cap is not None, **options,
    )  # fmt: skip
    return out


def paged_extend_reference(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    page_table: Tensor,
    first: Tensor,
    new: Tensor,
    lengths: Tensor,
    longest: int,
    out: Tensor,
    window: int | None = None,
    soft_cap: float | None = None,
    scale: float | None = None,
) -> Tensor:
    """The same in plain torch, one sequence at a time; float64 inputs stay float64."""
    page_size = keys.shape[1]
    for b in range(len(page_table)):
        start, count, length = int(first[b]), int(new[b]), int(lengths[b])
        pages = page_table[b, : -(-length // page_size)].long()
        k = keys[pages].flatten(0, 1)[:length]  # [length, kv_heads, D]
        v = values[pages].flatten(0, 1)[:length]
        out[start : start + count] = attention_reference(q[start : start + count], k, v, window, soft_cap, scale)
    return out


def extend_options(
    dtype: torch.dtype, head_dim: int, group: int, capability: int, interpreted: bool
) -> dict[str, int | str]:
    """How the kernel is compiled. ROWS: new tokens times heads of a program; BLOCK: keys at once."""
    single = dtype == torch.float32
    options = tuned(NAME, capability, 8 * dtype.itemsize, head_dim)
    rows = max(options["ROWS"], pad(group))
    precision = "ieee" if single else "tf32"
    return {
        "HEAD_DIM": head_dim,
        "DIM_PADDED": pad(head_dim),
        "UPCAST": single or interpreted,
        "PRECISION": precision,
        **options,
        "ROWS": rows,
    }


@triton.jit(do_not_specialize=["table_sequence"])  # it changes from step to step: one program for all
def extend_kernel(
    q: tl.tensor,  # [T, heads, D]
    keys: tl.tensor,  # [pages, page_size, kv_heads, D]
    values: tl.tensor,
    page_table: tl.tensor,  # [B, P]
    first: tl.tensor,  # [B]
    new: tl.tensor,  # [B]
    lengths: tl.tensor,  # [B]
    out: tl.tensor,  # [T, heads, D]
    factor: tl.tensor,  # see paged.score_factors
    cap: tl.tensor,
    window: tl.tensor,
    q_token: tl.tensor,  # strides in elements
    q_head: tl.tensor,
    kv_page: tl.tensor,
    kv_token: tl.tensor,
    kv_head: tl.tensor,
    table_sequence: tl.tensor,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
    CAPPED: tl.constexpr,
) -> None:
    TOKENS: tl.constexpr = ROWS // GROUP
    sequence = tl.program_id(1)
    head = tl.program_id(2)
    count = tl.load(new + sequence)
    tile = (tl.cdiv(count, TOKENS) - 1 - tl.program_id(0)) * TOKENS  # the longest work first
    if tile < 0:
        return
    length = tl.load(lengths + sequence)
    cached = length - count

    row = tl.arange(0, ROWS)
    dim = tl.arange(0, DIM_PADDED)
    token = tile + row // GROUP
    query_head = head * GROUP + row % GROUP
    used = ((row < TOKENS * GROUP) & (token < count))[:, None] & (dim < HEAD_DIM)[None, :]
    at = (tl.load(first + sequence) + token).to(tl.int64)
    query = tl.load(q + (at * q_token + query_head * q_head)[:, None] + dim[None, :], mask=used, other=0.0)
    query = exact(query, UPCAST)
    own = cached + token

    highest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    result = tl.zeros([ROWS, DIM_PADDED], tl.float32)
    table = page_table + sequence.to(tl.int64) * table_sequence
    begin = tl.maximum(cached + tile - window + 1, 0) // BLOCK * BLOCK
    stop = tl.minimum(cached + tile + TOKENS, length)
    for block in tl.range(begin, stop, BLOCK):
        position = block + tl.arange(0, BLOCK)
        held = position < stop
        page = tl.load(table + position // PAGE_SIZE, mask=held, other=0).to(tl.int64)
        kv_at = (page * kv_page + (position % PAGE_SIZE) * kv_token + head * kv_head)[:, None] + dim[None, :]
        here = held[:, None] & (dim < HEAD_DIM)[None, :]
        k = exact(tl.load(keys + kv_at, mask=here, other=0.0), UPCAST)
        v = exact(tl.load(values + kv_at, mask=here, other=0.0), UPCAST)
        score = capped(tl.dot(query, tl.trans(k), input_precision=PRECISION), factor, cap, CAPPED)
        seen = (position[None, :] <= own[:, None]) & (position[None, :] > own[:, None] - window)
        score = tl.where(seen, score, float("-inf"))
        higher = tl.maximum(highest, tl.max(score, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)  # a row that has seen nothing yet
        shrink = tl.exp2(highest - base)
        likelihood = tl.exp2(score - base[:, None])
        total = total * shrink + tl.sum(likelihood, 1)
        result = result * shrink[:, None] + tl.dot(likelihood.to(v.dtype), v, input_precision=PRECISION)
        highest = higher

    result = result / tl.where(total > 0.0, total, 1.0)[:, None]  # unused rows: anything but NaN
    out_at = out + (at * HEADS + query_head)[:, None] * HEAD_DIM + dim[None, :]
    tl.store(out_at, result.to(out.dtype.element_ty), mask=used)
