"""Decode attention where groups of sequences begin with the same pages: the prefix is read once for all of a group.

    out[b, h] = softmax(score(q[b, h], K[b])) · V[b]        as paged_decode, for every sequence

    group g: sequences order[starts[g]] .. order[starts[g + 1] - 1], whose first shared[g] tokens are the same pages

    splits of a prefix    for a tile of members at once: K, V read once, rows = members x heads that share a KV head
    splits of the tails   one sequence each: paged_decode's own kernel
    merge                 by log-sum-exp: paged_decode's own kernel, over both

Cascade inference (Ye et al. 2024, FlashInfer; Hydragen, Juravsky et al. 2024), cut along paged_decode's splits: a
prefix is shared up to its last whole split, and each split's partial result is what paged_decode would leave there.
So a sequence's result does not depend on who shares with it beyond the rounding of one split's products, and merging
has one form. 16-bit numbers are multiplied as they are, probabilities rounded to them, as in paged_extend. This file
knows no radix tree: who shares what is told by the caller."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from latticework.kernels.choice import capability_of, is_interpreted, twins_chosen
from latticework.kernels.paged import (
    NO_WINDOW,
    capped,
    check_heads,
    check_indices,
    check_scores,
    exact,
    score_factors,
)
from latticework.kernels.paged_decode import (
    SPLIT,
    merge_kernel,
    merge_options,
    paged_decode_reference,
    split_kernel,
    split_options,
)
from latticework.kernels.tuned import pad, tuned

NAME = "cascade_decode"


@dataclass(frozen=True, slots=True)
class SharedPrefixes:
    """G groups over B sequences. A sequence in no group shares nothing; one is in one group at most.

    order: int32 [N], members, group after group; starts: int32 [G + 1], into order; shared: int32 [G], tokens; done:
    int32 [B], those of each sequence's group that the prefix kernel computes. largest: members of the largest group;
    longest: the largest of `shared`: both known to the host.
    """

    order: Tensor
    starts: Tensor
    shared: Tensor
    done: Tensor
    largest: int
    longest: int

    @staticmethod
    def of(groups: list[tuple[list[int], int]], sequences: int, device: torch.device) -> SharedPrefixes:
        """groups: members (by index) and how many tokens they share, from the first on. Prefixes are cut down to
        whole splits. Raises ValueError for a sequence in two groups."""
        members = [member for group, _ in groups for member in group]
        if len(set(members)) < len(members) or not all(0 <= member < sequences for member in members):
            raise ValueError(
                f"{NAME}: groups {[group for group, _ in groups]}; expected 0 to {sequences - 1}, each once"
            )
        whole = [tokens // SPLIT * SPLIT for _, tokens in groups]
        done = [0] * sequences
        for (group, _), tokens in zip(groups, whole, strict=True):
            for member in group:
                done[member] = tokens
        starts = [0]
        for group, _ in groups:
            starts.append(starts[-1] + len(group))

        def int32(numbers: list[int]) -> Tensor:
            tensor = torch.tensor(numbers, dtype=torch.int32, device="cpu")
            return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor

        return SharedPrefixes(
            order=int32(members),
            starts=int32(starts),
            shared=int32(whole),
            done=int32(done),
            largest=max((len(group) for group, _ in groups), default=0),
            longest=max(whole, default=0),
        )


def cascade_decode(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    page_table: Tensor,
    lengths: Tensor,
    prefixes: SharedPrefixes,
    soft_cap: float | None = None,
    scale: float | None = None,
) -> Tensor:
    """As paged_decode without a window. A member's pages begin with those of its group's first member, and hold more
    than the shared tokens. Raises what paged_decode raises."""
    check_heads(NAME, q, keys, values)
    check_indices(NAME, len(q), page_table, lengths=lengths, done=prefixes.done)
    check_scores(NAME, None, soft_cap)
    if twins_chosen():
        return cascade_decode_reference(q, keys, values, page_table, lengths, prefixes, soft_cap, scale)
    sequences, heads, head_dim = q.shape
    page_size, kv_heads = keys.shape[1:3]
    out = q.new_empty(q.shape)
    splits = triton.cdiv(page_table.shape[1] * page_size, SPLIT)
    if sequences == 0 or splits == 0:
        return out.zero_()
    partial = torch.empty(sequences, heads, splits, head_dim, dtype=torch.float32, device=q.device)
    weight = torch.empty(sequences, heads, splits, dtype=torch.float32, device=q.device)
    group, capability = heads // kv_heads, capability_of(q.device)
    factors = score_factors(head_dim, soft_cap, scale)
    strides = (q.stride(0), q.stride(1), *keys.stride()[:3], page_table.stride(0))
    shape = {"GROUP": group, "PAGE_SIZE": page_size, "CAPPED": soft_cap is not None}
    if prefixes.longest:
        options = prefix_options(q.dtype, head_dim, group, capability, is_interpreted(prefix_kernel))
        tiles = triton.cdiv(prefixes.largest, int(options["ROWS"]) // group)
        prefix_kernel[(tiles * len(prefixes.shared), kv_heads, prefixes.longest // SPLIT)](
            q, keys, values, page_table, prefixes.order, prefixes.starts, prefixes.shared, partial, weight,
            *factors, splits, tiles, *strides, HEADS=heads, **shape, **options,
        )  # fmt: skip
    split_kernel[(sequences, kv_heads, splits)](
        q, keys, values, page_table, lengths, prefixes.done, partial, weight,
        *factors, NO_WINDOW, splits, *strides,
        KV_HEADS=kv_heads, GROUP_PADDED=pad(group), SKIPPING=True, **shape,
        **split_options(q.dtype, head_dim, capability),
    )  # fmt: skip
    merge_kernel[(sequences, heads)](
        partial, weight, out, lengths, NO_WINDOW, splits, HEADS=heads, **merge_options(head_dim),
    )  # fmt: skip
    return out


def cascade_decode_reference(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    page_table: Tensor,
    lengths: Tensor,
    prefixes: SharedPrefixes,
    soft_cap: float | None = None,
    scale: float | None = None,
) -> Tensor:
    """The same in plain torch: every prefix through its group's first member, the rest as it is; float64 stays so."""
    table = page_table.clone()
    starts, order = prefixes.starts.tolist(), prefixes.order.tolist()
    for g, shared in enumerate(prefixes.shared.tolist()):
        members = order[starts[g] : starts[g + 1]]
        pages = shared // keys.shape[1]  # whole ones; a page that is shared in part is a member's own
        for member in members:
            table[member, :pages] = page_table[members[0], :pages]
    return paged_decode_reference(q, keys, values, table, lengths, None, soft_cap, scale)


def prefix_options(
    dtype: torch.dtype, head_dim: int, group: int, capability: int, interpreted: bool
) -> dict[str, int | str]:
    """How the prefix kernel is compiled: paged_extend's tiles, which have as many rows."""
    single = dtype == torch.float32
    options = tuned("paged_extend", capability, 8 * dtype.itemsize, head_dim)
    return {
        "HEAD_DIM": head_dim,
        "DIM_PADDED": pad(head_dim),
        "SPLIT_TOKENS": SPLIT,
        "UPCAST": single or interpreted,
        "PRECISION": "ieee" if single else "tf32",
        **options,
        "ROWS": max(options["ROWS"], pad(group)),
    }


@triton.jit(
    do_not_specialize=["table_sequence", "splits", "tiles"]
)  # they change from step to step: one program for all
def prefix_kernel(
    q: tl.tensor,  # [B, heads, D]
    keys: tl.tensor,  # [pages, page_size, kv_heads, D]
    values: tl.tensor,
    page_table: tl.tensor,  # [B, P]
    order: tl.tensor,  # [N]
    starts: tl.tensor,  # [G + 1]
    shared: tl.tensor,  # [G]
    partial: tl.tensor,  # [B, heads, splits, D]
    weight: tl.tensor,  # [B, heads, splits]
    factor: tl.tensor,  # see paged.score_factors
    cap: tl.tensor,
    splits: tl.tensor,
    tiles: tl.tensor,  # of the largest group
    q_sequence: tl.tensor,  # strides in elements
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
    SPLIT_TOKENS: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
    CAPPED: tl.constexpr,
) -> None:
    MEMBERS: tl.constexpr = ROWS // GROUP
    sharing = tl.program_id(0) // tiles
    head = tl.program_id(1)
    split = tl.program_id(2)
    begin = split * SPLIT_TOKENS
    first = tl.load(starts + sharing)
    count = tl.load(starts + sharing + 1) - first
    tile = tl.program_id(0) % tiles * MEMBERS
    if (begin >= tl.load(shared + sharing)) | (tile >= count):
        return

    row = tl.arange(0, ROWS)
    dim = tl.arange(0, DIM_PADDED)
    member = tile + row // GROUP
    mine = (row < MEMBERS * GROUP) & (member < count)
    used = mine[:, None] & (dim < HEAD_DIM)[None, :]
    sequence = tl.load(order + first + member, mask=mine, other=0).to(tl.int64)
    query_head = head * GROUP + row % GROUP
    query = tl.load(q + (sequence * q_sequence + query_head * q_head)[:, None] + dim[None, :], mask=used, other=0.0)
    query = exact(query, UPCAST)

    highest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    result = tl.zeros([ROWS, DIM_PADDED], tl.float32)
    table = page_table + tl.load(order + first).to(tl.int64) * table_sequence
    for block in tl.range(begin, begin + SPLIT_TOKENS, BLOCK):
        position = block + tl.arange(0, BLOCK)
        page = tl.load(table + position // PAGE_SIZE).to(tl.int64)
        at = (page * kv_page + (position % PAGE_SIZE) * kv_token + head * kv_head)[:, None] + dim[None, :]
        here = (dim < HEAD_DIM)[None, :]
        k = exact(tl.load(keys + at, mask=here, other=0.0), UPCAST)
        v = exact(tl.load(values + at, mask=here, other=0.0), UPCAST)
        score = capped(tl.dot(query, tl.trans(k), input_precision=PRECISION), factor, cap, CAPPED)
        higher = tl.maximum(highest, tl.max(score, 1))
        shrink = tl.exp2(highest - higher)
        likelihood = tl.exp2(score - higher[:, None])
        total = total * shrink + tl.sum(likelihood, 1)
        result = result * shrink[:, None] + tl.dot(likelihood.to(v.dtype), v, input_precision=PRECISION)
        highest = higher

    slot = (sequence * HEADS + query_head) * splits + split
    tl.store(partial + slot[:, None] * HEAD_DIM + dim[None, :], result / total[:, None], mask=used)
    tl.store(weight + slot, highest + tl.log2(total), mask=mine)
