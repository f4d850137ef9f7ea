"""Paged decode attention: one query token a sequence over KV held in pages, split along the sequence.

    out[b, h] = softmax(q[b, h] · K[b]ᵀ / sqrt(D)) · V[b]      K[b], V[b]: the first lengths[b] rows of b's pages

Split-KV as in Flash-Decoding (Dao, Haziza, Massa, Sizov 2023), pages as in PagedAttention (Kwon et al. 2023). One
program computes one (sequence, KV head, split) for the whole group of query heads that share the KV head, so each
key and value is read once. It leaves a normalised partial result o_s and its log-sum-exp l_s (base 2), merged as

    out = Σ_s 2^(l_s - m) o_s / Σ_s 2^(l_s - m),    m = max_s l_s

Splits are SPLIT tokens wherever the batch ends, so a sequence's result does not depend on its neighbours, bit for
bit. Numbers become float32 right after each load: Triton's interpreter computes with bfloat16's raw bits. 16-bit
inputs fit TF32's mantissa, so tensor cores multiply them exactly; probabilities keep 11 bits there. This file knows
no model and no scheduler.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

SPLIT = 256  # tokens a program reads: partial results are 3 % of the traffic (bfloat16, 4 query heads a KV head)
MERGE_BLOCK = 8  # partial results merged at once
MAX_HEAD_DIM = 256
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LOG2_E = 1.4426950408889634


def paged_decode(q: Tensor, keys: Tensor, values: Tensor, page_table: Tensor, lengths: Tensor) -> Tensor:
    """Attention of one new token a sequence. Its own key and value are already in the pages.

    q: [B, heads, D]; keys, values: [pages, page_size, kv_heads, D], any page size; page_table: int32 [B, P];
    lengths: int32 [B], 0 gives zeros. Returns [B, heads, D] of q's dtype; float32 inside.
    Raises TypeError for other dtypes and ValueError for shapes that do not agree or D > 256.
    """
    check_arguments(q, keys, values, page_table, lengths)
    sequences, heads, head_dim = q.shape
    page_size, kv_heads = keys.shape[1:3]
    out = q.new_empty(q.shape)
    splits = triton.cdiv(page_table.shape[1] * page_size, SPLIT)
    if sequences == 0 or splits == 0:
        return out.zero_()
    partial = torch.empty(sequences, heads, splits, head_dim, dtype=torch.float32, device=q.device)
    weight = torch.empty(sequences, heads, splits, dtype=torch.float32, device=q.device)
    group = heads // kv_heads
    split_kernel[(sequences, kv_heads, splits)](
        q, keys, values, page_table, lengths, partial, weight,
        head_dim**-0.5 * LOG2_E, splits,
        q.stride(0), q.stride(1), keys.stride(0), keys.stride(1), keys.stride(2), page_table.stride(0),
        KV_HEADS=kv_heads, GROUP=group, GROUP_PADDED=max(16, triton.next_power_of_2(group)), PAGE_SIZE=page_size,
        **split_options(q.dtype, head_dim),
    )  # fmt: skip
    merge_kernel[(sequences, heads)](
        partial, weight, out, lengths, splits, HEADS=heads, **merge_options(head_dim),
    )  # fmt: skip
    return out


def paged_decode_reference(q: Tensor, keys: Tensor, values: Tensor, page_table: Tensor, lengths: Tensor) -> Tensor:
    """The same in plain torch, one sequence at a time; float64 inputs stay float64."""
    sequences, heads, head_dim = q.shape
    page_size, kv_heads = keys.shape[1:3]
    work = torch.promote_types(q.dtype, torch.float32)
    out = torch.zeros_like(q)
    for b in range(sequences):
        length = int(lengths[b])
        if length == 0:
            continue
        pages = page_table[b, : -(-length // page_size)].long()
        k = keys[pages].flatten(0, 1)[:length].to(work)  # [length, kv_heads, D]
        v = values[pages].flatten(0, 1)[:length].to(work)
        grouped = q[b].to(work).view(kv_heads, heads // kv_heads, head_dim)
        scores = torch.einsum("hgd,nhd->hgn", grouped, k) * head_dim**-0.5
        out[b] = torch.einsum("hgn,nhd->hgd", scores.softmax(-1), v).reshape(heads, head_dim).to(q.dtype)
    return out


def check_arguments(q: Tensor, keys: Tensor, values: Tensor, page_table: Tensor, lengths: Tensor) -> None:
    """Raises TypeError or ValueError, naming the kernel, the argument and the limit."""
    check_support(q.dtype, q.shape[-1])
    if not q.dtype == keys.dtype == values.dtype:
        raise TypeError(
            f"paged_decode: q, keys, values are {q.dtype}, {keys.dtype}, {values.dtype}; expected one dtype"
        )
    for name, index in (("page_table", page_table), ("lengths", lengths)):
        if index.dtype != torch.int32:
            raise TypeError(f"paged_decode: {name} is {index.dtype}; expected torch.int32")
    if q.dim() != 3 or keys.dim() != 4 or keys.shape != values.shape or q.shape[2] != keys.shape[3]:
        raise ValueError(
            f"paged_decode: q {tuple(q.shape)}, keys {tuple(keys.shape)}, values {tuple(values.shape)}; "
            "expected [B, heads, D] and twice [pages, page_size, kv_heads, D]"
        )
    if q.shape[1] % keys.shape[2]:
        raise ValueError(f"paged_decode: {q.shape[1]} heads are not a multiple of {keys.shape[2]} KV heads")
    if page_table.dim() != 2 or len(page_table) != len(q) or lengths.shape != q.shape[:1]:
        raise ValueError(
            f"paged_decode: page_table {tuple(page_table.shape)}, lengths {tuple(lengths.shape)}; "
            f"expected [B, P] and [B] with B = {len(q)}"
        )
    if keys.stride() != values.stride():
        raise ValueError(f"paged_decode: strides of keys {keys.stride()} and values {values.stride()} differ")
    for name, tensor in (("q", q), ("keys", keys), ("page_table", page_table), ("lengths", lengths)):
        if tensor.stride(-1) != 1:
            raise ValueError(f"paged_decode: {name} is not contiguous in its last dimension: {tensor.stride()}")


def check_support(dtype: torch.dtype, head_dim: int) -> None:
    """Raises TypeError or ValueError where no program of this kernel exists for the dtype or head dim."""
    if dtype not in DTYPES:
        raise TypeError(f"paged_decode: dtype {dtype}; supported are {', '.join(map(str, DTYPES))}")
    if not 1 <= head_dim <= MAX_HEAD_DIM:
        raise ValueError(f"paged_decode: head_dim {head_dim}; supported are 1 to {MAX_HEAD_DIM}")


def split_options(dtype: torch.dtype, head_dim: int) -> dict[str, int | str]:
    """How the split kernel is compiled for a dtype and head dim: at most some 140 registers and no spills on sm_80
    and sm_90 (tests/kernels/test_compiled_ahead_of_time.py).

    BLOCK: tokens read at once. PRECISION: TF32 holds every 16-bit input exactly; float32 is multiplied in float32.
    """
    padded = max(16, triton.next_power_of_2(head_dim))
    if dtype == torch.float32:
        options: dict[str, int | str] = {"BLOCK": 32 if padded <= 128 else 16, "PRECISION": "ieee", "num_warps": 8}
    else:
        options = {"BLOCK": 64 if padded <= 64 else 32, "PRECISION": "tf32", "num_warps": 4}
    return {"HEAD_DIM": head_dim, "DIM_PADDED": padded, "SPLIT_TOKENS": SPLIT, **options}


def merge_options(head_dim: int) -> dict[str, int]:
    """How the merge kernel is compiled."""
    padded = max(16, triton.next_power_of_2(head_dim))
    return {"HEAD_DIM": head_dim, "DIM_PADDED": padded, "SPLIT_TOKENS": SPLIT, "BLOCK": MERGE_BLOCK, "num_warps": 4}


@triton.jit
def split_kernel(
    q: tl.tensor,  # [B, heads, D]
    keys: tl.tensor,  # [pages, page_size, kv_heads, D]
    values: tl.tensor,
    page_table: tl.tensor,  # [B, P]
    lengths: tl.tensor,  # [B]
    partial: tl.tensor,  # [B, heads, splits, D]
    weight: tl.tensor,  # [B, heads, splits]
    scale: tl.tensor,  # D ** -0.5 * log2(e): scores are powers of two
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
) -> None:
    sequence = tl.program_id(0)
    head = tl.program_id(1)
    split = tl.program_id(2)
    start = split * SPLIT_TOKENS
    stop = tl.minimum(start + SPLIT_TOKENS, tl.load(lengths + sequence))
    if start >= stop:
        return  # past the sequence's end; the merge does not look here

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
        score = tl.dot(query, tl.trans(k), input_precision=PRECISION) * scale
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


@triton.jit
def merge_kernel(
    partial: tl.tensor,  # [B, heads, splits, D]
    weight: tl.tensor,  # [B, heads, splits]
    out: tl.tensor,  # [B, heads, D]
    lengths: tl.tensor,  # [B]
    splits: tl.tensor,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLIT_TOKENS: tl.constexpr,
) -> None:
    sequence = tl.program_id(0)
    row = sequence.to(tl.int64) * HEADS + tl.program_id(1)
    live = tl.cdiv(tl.load(lengths + sequence), SPLIT_TOKENS)
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
