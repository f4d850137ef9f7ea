"""What happens to q, k and v between their matrix product and attention, in one pass over them.

    x[t, h]                  = qkv[t, h · D .. (h + 1) · D],   h over query heads, then KV heads of k, then of v
    q, k: normed             x / sqrt(mean(x²) + eps) · (offset + weight),  each head by itself, if there are weights
    q, k: turned             y[d] = x[d] cos[p, d] - x[d + R/2] sin[p, d]                      d < R/2
                             y[d] = x[d] cos[p, d] + x[d - R/2] sin[p, d]            R/2 <= d < R, y[d] = x[d] from R on
    k, v: stored             keys[slot[t]], values[slot[t]]

p = positions[t], R = rotary_dim. Rotary positions: Su et al. 2021, halves rotated as transformers does. Norms of q and
k: Henry et al. 2020, as in Qwen3 and Gemma 3. float32 inside, rounded once. This file knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from latticework.kernels.choice import twins_chosen
from latticework.kernels.paged import check_rows, check_support

NAME = "turn_and_store"
HEADS_BLOCK = 8  # heads of a program


@dataclass(frozen=True, slots=True)
class HeadNorm:
    """Norms of q and k, each head by itself: q, k are the weights, [D]."""

    q: Tensor
    k: Tensor
    eps: float
    offset: float = 0.0


def turn_and_store(
    qkv: Tensor,
    positions: Tensor,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
    turn: tuple[Tensor, Tensor] | None,
    norm: HeadNorm | None = None,
) -> Tensor:
    """Writes k and v of T tokens to their slots and returns their queries, [T, heads, D].

    qkv: [T, (heads + 2 kv_heads) D]; positions, slots: int64 [T]; keys, values: [pages, page_size, kv_heads, D]; turn:
    cos and sin of every position, [context, rotary_dim] each, None in layers without positions. Raises TypeError for
    other dtypes, ValueError for shapes that do not agree.
    """
    heads = check_qkv(qkv, positions, slots, keys, values, turn, norm)
    if twins_chosen():
        return turn_and_store_reference(qkv, positions, slots, keys, values, turn, norm)
    page_size, kv_heads, head_dim = keys.shape[1:]
    q = torch.empty(len(qkv), heads, head_dim, dtype=qkv.dtype, device=qkv.device)
    if not len(qkv):
        return q
    cos, sin = (qkv, qkv) if turn is None else turn  # anything, where it is not read
    turning = 0 if turn is None else cos.shape[1]
    q_weight, k_weight = (qkv, qkv) if norm is None else (norm.q, norm.k)
    turn_kernel[(len(qkv), triton.cdiv(heads + 2 * kv_heads, HEADS_BLOCK))](
        qkv, q, positions, slots, keys, values, cos, sin, q_weight, k_weight,
        0.0 if norm is None else norm.eps, 0.0 if norm is None else norm.offset,
        qkv.stride(0), keys.stride(0), keys.stride(1), keys.stride(2),
        HEADS=heads, KV_HEADS=kv_heads, PAGE_SIZE=page_size, NORMED=norm is not None,
        **turn_options(head_dim, turning),
    )  # fmt: skip
    return q


def turn_and_store_reference(
    qkv: Tensor,
    positions: Tensor,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
    turn: tuple[Tensor, Tensor] | None,
    norm: HeadNorm | None = None,
) -> Tensor:
    """The same in plain torch; float64 inputs stay float64."""
    page_size, kv_heads, head_dim = keys.shape[1:]
    work = torch.promote_types(qkv.dtype, torch.float32)
    x = qkv.to(work).view(len(qkv), -1, head_dim)
    q, k, v = x.split((x.shape[1] - 2 * kv_heads, kv_heads, kv_heads), dim=1)
    if norm is not None:
        q, k = (
            y * torch.rsqrt(y.square().mean(-1, keepdim=True) + norm.eps) * (weight.to(work) + norm.offset)
            for y, weight in ((q, norm.q), (k, norm.k))
        )
    if turn is not None:
        cos, sin = (table[positions].to(work).unsqueeze(1) for table in turn)
        q, k = (_turn(y, cos, sin) for y in (q, k))
    page, offset = slots // page_size, slots % page_size
    keys[page, offset] = k.to(keys.dtype)
    values[page, offset] = v.to(values.dtype)
    return q.to(qkv.dtype)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    turning = cos.shape[-1]
    first, second = x[..., :turning].chunk(2, dim=-1)
    turned = x[..., :turning] * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned, x[..., turning:]), dim=-1)


def check_qkv(
    qkv: Tensor,
    positions: Tensor,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
    turn: tuple[Tensor, Tensor] | None,
    norm: HeadNorm | None,
) -> int:
    """The number of query heads. Raises TypeError or ValueError, naming the argument."""
    if keys.dim() != 4 or keys.shape != values.shape or keys.stride() != values.stride():
        raise ValueError(f"{NAME}: keys {tuple(keys.shape)}, values {tuple(values.shape)}; expected one 4-d layout")
    kv_heads, head_dim = keys.shape[2:]
    check_support(NAME, qkv.dtype, head_dim, keys.shape[1])
    heads = qkv.shape[-1] // head_dim - 2 * kv_heads
    if qkv.dim() != 2 or qkv.shape[1] % head_dim or heads < 1:
        raise ValueError(f"{NAME}: qkv {tuple(qkv.shape)}; expected [T, (heads + {2 * kv_heads}) {head_dim}]")
    same = {"keys": keys, "values": values}
    if turn is not None:
        same |= {"cos": turn[0], "sin": turn[1]}
        turning = turn[0].shape[-1]
        if turn[0].shape != turn[1].shape or turn[0].dim() != 2 or turning % 2 or not 0 < turning <= head_dim:
            raise ValueError(
                f"{NAME}: cos {tuple(turn[0].shape)}; expected [context, even, up to {head_dim}] and sin's"
            )
    if norm is not None:
        same |= {"norm.q": norm.q, "norm.k": norm.k}
        if not norm.q.shape == norm.k.shape == (head_dim,):
            raise ValueError(
                f"{NAME}: norm.q {tuple(norm.q.shape)}, norm.k {tuple(norm.k.shape)}; expected [{head_dim}]"
            )
    for name, tensor in same.items():
        if tensor.dtype != qkv.dtype:
            raise TypeError(f"{NAME}: {name} is {tensor.dtype}; expected qkv's {qkv.dtype}")
    for name, index in (("positions", positions), ("slots", slots)):
        if index.dtype != torch.int64 or index.shape != qkv.shape[:1]:
            raise TypeError(f"{NAME}: {name} {tuple(index.shape)} {index.dtype}; expected int64 [{len(qkv)}]")
    check_rows(NAME, qkv=qkv, **same)
    if turn is not None and not (turn[0].is_contiguous() and turn[1].is_contiguous()):
        raise ValueError(f"{NAME}: cos and sin are not contiguous")
    return heads


def turn_options(head_dim: int, turning: int) -> dict[str, int]:
    """How the kernel is compiled."""
    return {
        "HEAD_DIM": head_dim,
        "DIM_PADDED": max(16, triton.next_power_of_2(head_dim)),
        "TURNING": turning,
        "HEADS_BLOCK": HEADS_BLOCK,
        "num_warps": 4,
    }


@triton.jit
def turn_kernel(
    qkv: tl.tensor,  # [T, (HEADS + 2 KV_HEADS) HEAD_DIM]
    q: tl.tensor,  # [T, HEADS, HEAD_DIM], contiguous
    positions: tl.tensor,  # [T]
    slots: tl.tensor,  # [T]
    keys: tl.tensor,  # [pages, page_size, KV_HEADS, HEAD_DIM]
    values: tl.tensor,
    cos: tl.tensor,  # [context, TURNING]
    sin: tl.tensor,
    q_weight: tl.tensor,  # [HEAD_DIM]
    k_weight: tl.tensor,
    eps: tl.tensor,
    offset: tl.tensor,
    qkv_row: tl.tensor,  # strides in elements
    kv_page: tl.tensor,
    kv_token: tl.tensor,
    kv_head: tl.tensor,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    HEADS_BLOCK: tl.constexpr,
    TURNING: tl.constexpr,
    NORMED: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    head = (tl.program_id(1) * HEADS_BLOCK + tl.arange(0, HEADS_BLOCK))[:, None]
    dim = tl.arange(0, DIM_PADDED)[None, :]
    there = (head < HEADS + 2 * KV_HEADS) & (dim < HEAD_DIM)
    is_q = head < HEADS
    is_k = (head >= HEADS) & (head < HEADS + KV_HEADS)
    is_v = head >= HEADS + KV_HEADS
    base = qkv + row * qkv_row + head * HEAD_DIM
    x = tl.load(base + dim, mask=there, other=0.0).to(tl.float32)

    if NORMED:
        scale = tl.where(is_v, 1.0, tl.rsqrt(tl.sum(x * x, 1) / HEAD_DIM + eps)[:, None])
        x = x * scale * norm_factor(q_weight, k_weight, offset, dim, is_q, is_k, HEAD_DIM)
    if TURNING > 0:
        half: tl.constexpr = TURNING // 2
        partner = tl.where(dim < half, dim + half, dim - half)
        turned = (dim < TURNING) & (is_q | is_k)
        y = tl.load(base + partner, mask=there & turned, other=0.0).to(tl.float32)
        if NORMED:
            y = y * scale * norm_factor(q_weight, k_weight, offset, partner, is_q, is_k, HEAD_DIM)
        at = tl.load(positions + row) * TURNING + dim
        c = tl.load(cos + at, mask=dim < TURNING, other=1.0).to(tl.float32)
        s = tl.load(sin + at, mask=dim < TURNING, other=0.0).to(tl.float32)
        x = tl.where(turned, x * c + tl.where(dim < half, -y, y) * s, x)

    rounded = x.to(q.dtype.element_ty)
    tl.store(q + (row * HEADS + head) * HEAD_DIM + dim, rounded, mask=there & is_q)
    slot = tl.load(slots + row)
    kv = (slot // PAGE_SIZE) * kv_page + (slot % PAGE_SIZE) * kv_token
    tl.store(keys + kv + (head - HEADS) * kv_head + dim, rounded, mask=there & is_k)
    tl.store(values + kv + (head - HEADS - KV_HEADS) * kv_head + dim, rounded, mask=there & is_v)


@triton.jit
def norm_factor(
    q_weight: tl.tensor,
    k_weight: tl.tensor,
    offset: tl.tensor,
    dim: tl.tensor,  # [1, D] or any of the tile's dimensions
    is_q: tl.tensor,  # [heads, 1]
    is_k: tl.tensor,
    HEAD_DIM: tl.constexpr,
) -> tl.tensor:
    """What each number of a normed head is multiplied with: 1 in heads of v."""
    there = (dim >= 0) & (dim < HEAD_DIM)
    of_q = tl.load(q_weight + dim, mask=there, other=0.0).to(tl.float32) + offset
    of_k = tl.load(k_weight + dim, mask=there, other=0.0).to(tl.float32) + offset
    return tl.where(is_q, of_q, tl.where(is_k, of_k, 1.0))
