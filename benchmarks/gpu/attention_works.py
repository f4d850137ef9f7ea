"""Attention over paged KV: decode, extend and cascade, beside torch's SDPA on the same keys laid side by side.

Pages are shuffled. What FlashInfer would do with the same pages is in flashinfer_rivals.py.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu import flashinfer_rivals
from benchmarks.gpu.shapes import Shape
from benchmarks.gpu.work import Maker, Rival, Work, in_double, size_of
from latticework.kernels.cascade_decode import SharedPrefixes, cascade_decode, cascade_decode_reference
from latticework.kernels.paged_decode import paged_decode, paged_decode_reference
from latticework.kernels.paged_extend import paged_extend, paged_extend_reference

PAGE = 16


def decode(shape: Shape, batch: int, context: int, page: int = PAGE) -> Maker:
    """One new token for each of `batch` sequences of `context` tokens."""

    def make(device: torch.device, dtype: torch.dtype) -> Work:
        q = torch.randn(batch, shape.heads, shape.head_dim, dtype=dtype, device=device)
        keys, values, table = _pages(shape, batch, context, page, device, dtype)
        lengths = torch.full((batch,), context, dtype=torch.int32, device=device)

        def exact() -> tuple[Tensor, ...]:
            wide = in_double(q, keys, values)
            return (paged_decode_reference(wide[0], wide[1], wide[2], table, lengths),)

        def sdpa() -> Tensor:
            return functional.scaled_dot_product_attention(q[:, :, None], k, v, enable_gqa=True)[:, :, 0]

        k, v = (_side_by_side(pages, table, context) for pages in (keys, values))
        rivals = {"torch SDPA": Rival(sdpa)}
        return Work(
            run=lambda: (paged_decode(q, keys, values, table, lengths),),
            exact=exact,
            bytes=2 * size_of(q) + 2 * batch * context * _token_bytes(shape, dtype),
            flops=4 * batch * context * shape.heads * shape.head_dim,
            rivals=rivals | flashinfer_rivals.decode(q, keys, values, table, lengths),
        )

    return make


def extend(shape: Shape, new: int, cached: int) -> Maker:
    """`new` tokens of one sequence, of which `cached` are there already."""

    def make(device: torch.device, dtype: torch.dtype) -> Work:
        total = cached + new
        q = torch.randn(new, shape.heads, shape.head_dim, dtype=dtype, device=device)
        out = torch.full_like(q, torch.nan)  # what is not written is seen
        keys, values, table = _pages(shape, 1, total, PAGE, device, dtype)
        first, count, length = (torch.tensor([n], dtype=torch.int32, device=device) for n in (0, new, total))

        def exact() -> tuple[Tensor, ...]:
            wide = in_double(q, keys, values, out)
            given = (table, first, count, length, new)
            return (paged_extend_reference(wide[0], wide[1], wide[2], *given, wide[3]),)

        rivals: dict[str, Rival] = {}
        if not cached:  # SDPA's causal mask begins with the first key
            k, v = (_side_by_side(pages, table, total) for pages in (keys, values))
            rows = q.transpose(0, 1)[None].contiguous()

            def sdpa() -> Tensor:
                given = functional.scaled_dot_product_attention(rows, k, v, is_causal=True, enable_gqa=True)
                return given[0].transpose(0, 1)

            rivals = {"torch SDPA": Rival(sdpa)}
        return Work(
            run=lambda: (paged_extend(q, keys, values, table, first, count, length, new, out),),
            exact=exact,
            bytes=2 * size_of(q) + 2 * total * _token_bytes(shape, dtype),
            flops=4 * shape.heads * shape.head_dim * (new * cached + new * (new + 1) // 2),
            rivals=rivals | flashinfer_rivals.extend(q, keys, values, table, length),
        )

    return make


def cascade(shape: Shape, batch: int, shared: int, own: int) -> Maker:
    """One new token for each of `batch` sequences whose first `shared` tokens are the same pages, then `own` each."""

    def make(device: torch.device, dtype: torch.dtype) -> Work:
        q = torch.randn(batch, shape.heads, shape.head_dim, dtype=dtype, device=device)
        count = shared // PAGE + batch * -(-own // PAGE)
        keys, values = (
            torch.randn(count, PAGE, shape.kv_heads, shape.head_dim, dtype=dtype, device=device) for _ in range(2)
        )
        order = torch.randperm(count).int()
        prefix, tails = order[: shared // PAGE], order[shared // PAGE :].view(batch, -1)
        table = torch.cat((prefix.expand(batch, -1), tails), dim=1).contiguous().to(device)
        lengths = torch.full((batch,), shared + own, dtype=torch.int32, device=device)
        prefixes = SharedPrefixes.of([(list(range(batch)), shared)], batch, device)

        def exact() -> tuple[Tensor, ...]:
            wide = in_double(q, keys, values)
            return (cascade_decode_reference(wide[0], wide[1], wide[2], table, lengths, prefixes),)

        return Work(
            run=lambda: (cascade_decode(q, keys, values, table, lengths, prefixes),),
            exact=exact,
            bytes=2 * size_of(q) + 2 * (shared + batch * own) * _token_bytes(shape, dtype),
            flops=4 * batch * (shared + own) * shape.heads * shape.head_dim,
            rivals={"without cascade": Rival(lambda: paged_decode(q, keys, values, table, lengths))},
        )

    return make


def _pages(
    shape: Shape, batch: int, context: int, page: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """keys, values [pages, page, kv_heads, D], page_table int32 [batch, P]."""
    wide = -(-context // page)
    keys, values = (
        torch.randn(batch * wide, page, shape.kv_heads, shape.head_dim, dtype=dtype, device=device) for _ in range(2)
    )
    return keys, values, torch.randperm(batch * wide).view(batch, wide).int().to(device)


def _side_by_side(pages: Tensor, table: Tensor, context: int) -> Tensor:
    """[B, kv_heads, context, D], contiguous: what SDPA takes."""
    return pages[table.long()].flatten(1, 2)[:, :context].transpose(1, 2).contiguous()


def _token_bytes(shape: Shape, dtype: torch.dtype) -> int:
    """Of one token's keys, or values, in one layer."""
    return shape.kv_heads * shape.head_dim * dtype.itemsize
