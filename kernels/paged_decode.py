"""Paged decode attention: one query token a sequence over KV held in pages, split along the sequence.

    out[b, h] = softmax(score(q[b, h], K[b])) · V[b]       K[b], V[b]: the first lengths[b] rows of b's pages,
                                                           with a window only the last `window` of them

`score` with scale and soft cap: see paged.py. Split-KV as in Flash-Decoding (Dao, Haziza, Massa, Sizov 2023), pages
as in PagedAttention (Kwon et al. 2023). One program computes one (sequence, KV head, split) for the whole group of
query heads that share the KV head, so each key and value is read once. It leaves a normalised partial result o_s and
its log-sum-exp l_s (base 2), merged as

    out = Σ_s 2^(l_s - m) o_s / Σ_s 2^(l_s - m),    m = max_s l_s

Splits begin at multiples of SPLIT tokens, so a sequence's result does not depend on its neighbours, bit for bit.
Numbers become float32 right after each load: Triton's interpreter computes with bfloat16's raw bits. 16-bit inputs
fit TF32's mantissa, so tensor cores multiply them exactly; probabilities keep 11 bits there. This file knows no model
and no scheduler.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from latticework.kernels.choice import capability_of, twins_chosen
from latticework.kernels.paged import (
    NO_WINDOW,
    attention_reference,
    capped,
    check_heads,
    check_indices,
    check_scores,
    score_factors,
)
from latticework.kernels.tuned import pad, tuned

NAME = "paged_decode"
SPLIT = 256  # tokens a program reads: partial results are 3 % of the traffic (bfloat16, 4 query heads a KV head)
MERGE_BLOCK = 8  # partial results merged at once


def paged_decode(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    page_table: Tensor,
    lengths: Tensor,
    window: int | None = None,
    soft_cap: float | None = None,
    scale: float | None = None,
) -> Tensor:
    """Attention of one new token a sequence. Its own key and value are already in the pages.

    q: [B, heads, D]; keys, values: [pages, page_size, kv_heads, D]; page_table: int32 [B, P]; lengths: int32 [B], 0
    gives zeros. window: how many tokens are seen, the new one included. scale: None for D ** -0.5. Returns
    [B, heads, D] of q's dtype; float32 inside. Raises TypeError for other dtypes and ValueError for shapes that do not
    agree or are beyond the limits in paged.py.
    """
    check_heads(NAME, q, keys, values)
    check_indices(NAME, len(q), page_table, lengths=lengths)
    check_scores(NAME, window, soft_cap)
    if twins_chosen():
        return paged_decode_reference(q, keys, values, page_table, lengths, window, soft_cap, scale)
    sequences, heads, head_dim = q.shape
    page_size, kv_heads = keys.shape[1:3]
    out = q.new_empty(q.shape)
    splits = triton.cdiv(page_table.shape[1] * page_size, SPLIT)
    if window is not None:
        splits = min(splits, triton.cdiv(window - 1, SPLIT) + 1)  # a window may begin in the middle of a split
    if sequences == 0 or splits == 0:
        return out.zero_()
    partial = torch.empty(sequences, heads, splits, head_dim, dtype=torch.float32, device=q.device)
    weight = torch.empty(sequences, heads, splits, dtype=torch.float32, device=q.device)
    group = heads // kv_heads
    seen = NO_WINDOW if window is None else window
    split_kernel[(sequences, kv_heads, splits)](
        q, keys, values, page_table, lengths, lengths, partial, weight,
        *score_factors(head_dim, soft_cap, scale), seen, splits,
        q.stride(0), q.stride(1), keys.stride(0), keys.stride(1), keys.stride(2), page_table.stride(0),
        KV_HEADS=kv_heads, GROUP=group, GROUP_PADDED=pad(group), PAGE_SIZE=page_size, CAPPED=soft_cap is not None,
        SKIPPING=False, **split_options(q.dtype, head_dim, capability_of(q.device)),
    )  # fmt: skip
    merge_kernel[(sequences, heads)](
        partial, weight, out, lengths, seen, splits, HEADS=heads, **merge_options(head_dim),
    )  # fmt: skip
    return out


def paged_decode_reference(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    page_table: Tensor,
    lengths: Tensor,
    window: int | None = None,
    soft_cap: float | None = None,
    scale: float | None = None,
) -> Tensor:
    """The same in plain torch, one sequence at a time; float64 inputs stay float64."""
    page_size = keys.shape[1]
    out = torch.zeros_like(q)
    for b in range(len(q)):
        length = int(lengths[b])
        if length == 0:
            continue
        pages = page_table[b, : -(-length // page_size)].long()
        k = keys[pages].flatten(0, 1)[:length]  # [length, kv_heads, D]
        v = values[pages].flatten(0, 1)[:length]
        out[b] = attention_reference(q[b : b + 1], k, v, window, soft_cap, scale)[0]
    return out


def split_options(dtype: torch.dtype, head_dim: int, capability: int) -> dict[str, int | str]:
    """How the split kernel is compiled. PRECISION: TF32 holds every 16-bit input exactly; float32 is multiplied in
    float32. BLOCK: tokens read at once."""
    precision = "ieee" if dtype == torch.float32 else "tf32"
    options = tuned(NAME, capability, 8 * dtype.itemsize, head_dim)
    return {"HEAD_DIM": head_dim, "DIM_PADDED": pad(head_dim), "SPLIT_TOKENS": SPLIT, "PRECISION": precision, **options}


def merge_options(head_dim: int) -> dict[str, int]:
    """How the merge kernel is compiled."""
    return {
        "HEAD_DIM": head_dim,
        "DIM_PADDED": pad(head_dim),
        "SPLIT_TOKENS": SPLIT,
        "BLOCK": MERGE_BLOCK,
        "num_warps": 4,
    }


@triton.jit(do_not_specialize=["splits", "table_sequence"])  # they change from step to step: one program for all
def split_kernel(
    q: tl.tensor,  # [B, heads, D]
    keys: tl.tensor,  # [pages, page_size, kv_heads, D]
    values: tl.tensor,
    page_table: tl.tensor,  # [B, P]
    lengths: tl.tensor,  # [B]
    done: tl.tensor,  # [B], tokens whose splits are computed elsewhere, whole splits; read where SKIPPING
    partial: tl.tensor,  # [B, heads, splits, D]
    weight: tl.tensor,  # [B, heads, splits]
    factor: tl.tensor,  # see paged.score_factors
    cap: tl.tensor,
    window: tl.tensor,
    splits: tl.tensor,
    q_sequence: tl.tensor,  # strides in elements
    q_head: tl.tensor,
    kv_page: tl.tensor,
    kv_token: tl.tensor,
    kv_head: tl.tensor,
    table_sequence: tl.tensor,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PADDED: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLIT_TOKENS: tl.constexpr,
    PRECISION: tl.constexpr,
    CAPPED: tl.constexpr,
    SKIPPING: tl.constexpr,
) -> None:
    sequence = tl.program_id(0)
    head = tl.program_id(1)
    split = tl.program_id(2)
    length = tl.load(lengths + sequence)
    seen = tl.maximum(length - window, 0)  # the first position in sight
    begin = (seen // SPLIT_TOKENS + split) * SPLIT_TOKENS
    start = tl.maximum(begin, seen)
    stop = tl.minimum(begin + SPLIT_TOKENS, length)
    skipped = tl.load(done + sequence) if SKIPPING else 0
    if (start >= stop) | (begin < skipped):
        return  # past the sequence's end, where the merge does not look, or written by another kernel

    member = tl.arange(0, GROUP_PADDED)
    dim = tl.arange(0, DIM_PADDED)
    block = tl.arange(0, BLOCK)
    query_heads = head * GROUP + member
    used = (member < GROUP)[:, None] & (dim < HEAD_DIM)[None, :]
    q_at = q + sequence.to(tl.int64) * q_sequence + query_heads[:, None] * q_head + dim[None, :]
    query = tl.load(q_at, mask=used, other=0.0).to(tl.float32)

    highest = tl.full([GROUP_PADDED], float("-inf"), tl.float32)
    total = tl.zeros([GROUP_PADDED], tl.float32)
    result = tl.zeros([GROUP_PADDED, DIM_PADDED], tl.float32)
    table = page_table + sequence.to(tl.int64) * table_sequence
    for first in tl.range(start, stop, BLOCK):
        position = first + block
        held = position < stop
        page = tl.load(table + position // PAGE_SIZE, mask=held, other=0).to(tl.int64)
        row = page * kv_page + (position % PAGE_SIZE) * kv_token + head * kv_head
        at = row[:, None] + dim[None, :]
        here = held[:, None] & (dim < HEAD_DIM)[None, :]
        k = tl.load(keys + at, mask=here, other=0.0).to(tl.float32)
        v = tl.load(values + at, mask=here, other=0.0).to(tl.float32)
        score = capped(tl.dot(query, tl.trans(k), input_precision=PRECISION), factor, cap, CAPPED)
        score = tl.where(held[None, :], score, float("-inf"))
        higher = tl.maximum(highest, tl.max(score, 1))
        shrink = tl.exp2(highest - higher)
        likelihood = tl.exp2(score - higher[:, None])
        total = total * shrink + tl.sum(likelihood, 1)
        result = result * shrink[:, None] + tl.dot(likelihood, v, input_precision=PRECISION)
        highest = higher

    slot = (sequence.to(tl.int64) * KV_HEADS * GROUP + query_heads) * splits + split
    tl.store(partial + slot[:, None] * HEAD_DIM + dim[None, :], result / total[:, None], mask=used)
    tl.store(weight + slot, highest + tl.log2(total), mask=member < GROUP)


@triton.jit(do_not_specialize=["splits"])
def merge_kernel(
    partial: tl.tensor,  # [B, heads, splits, D]
    weight: tl.tensor,  # [B, heads, splits]
    out: tl.tensor,  # [B, heads, D]
    lengths: tl.tensor,  # [B]
    window: tl.tensor,
    splits: tl.tensor,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLIT_TOKENS: tl.constexpr,
) -> None:
    sequence = tl.program_id(0)
    row = sequence.to(tl.int64) * HEADS + tl.program_id(1)
    length = tl.load(lengths + sequence)
    live = tl.cdiv(length, SPLIT_TOKENS) - tl.maximum(length - window, 0) // SPLIT_TOKENS
    dim = tl.arange(0, DIM_PADDED)
    block = tl.arange(0, BLOCK)
    highest = float("-inf")
    total = 0.0
    result = tl.zeros([DIM_PADDED], tl.float32)
    for first in tl.range(0, live, BLOCK):
        split = first + block
        written = split < live
        lse = tl.load(weight + row * splits + split, mask=written, other=float("-inf"))
        at = (row * splits + split)[:, None] * HEAD_DIM + dim[None, :]
        o = tl.load(partial + at, mask=written[:, None] & (dim < HEAD_DIM)[None, :], other=0.0)
        higher = tl.maximum(highest, tl.max(lse, 0))
        share = tl.exp2(lse - higher)
        shrink = tl.exp2(highest - higher)
        total = total * shrink + tl.sum(share, 0)
        result = result * shrink + tl.sum(o * share[:, None], 0)
        highest = higher
    result = result / tl.where(total > 0.0, total, 1.0)  # no tokens, no attention
    tl.store(out + row * HEAD_DIM + dim, result.to(out.dtype.element_ty), mask=dim < HEAD_DIM)
