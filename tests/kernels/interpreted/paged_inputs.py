"""Queries over shuffled pages, for the tests of the attention kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.kernels.interpreted.device import INTERPRETED

# Half a unit in the last place of a value near 1, doubled: the interpreter truncates to bfloat16, a GPU rounds. A GPU
# takes powers of two to 22 bits.
TOLERANCE = {torch.float32: 2e-6 if INTERPRETED else 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def make_pages(
    kv_heads: int, head_dim: int, page_size: int, lengths: list[int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """keys, values, page_table, lengths; slots that no sequence holds are NaN."""
    wide = -(-max(lengths) // page_size)
    pages = len(lengths) * wide + 1
    table = torch.randperm(pages)[:-1].view(len(lengths), wide).int()
    keys = torch.randn(pages, page_size, kv_heads, head_dim).to(dtype)
    values = torch.randn(pages, page_size, kv_heads, head_dim).to(dtype)
    for b, length in enumerate(lengths):
        whole, rest = divmod(length, page_size)
        unused = table[b, whole:].long()
        for cache in (keys, values):
            held = cache[unused[:1], :rest].clone()
            cache[unused] = torch.nan
            cache[unused[:1], :rest] = held
    return keys, values, table, torch.tensor(lengths, dtype=torch.int32)


def in_double(arguments: Any) -> Any:
    return [a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments]


def error_of(out: Tensor, exact: Tensor) -> float:
    """The largest difference, relative to numbers beyond 1. NaN if there is one."""
    return float(((out.double() - exact.double()).abs() / exact.double().abs().clamp(min=1)).max())


def tolerance(dtype: torch.dtype, soft_cap: float | None = None) -> float:
    """Capped scores are right to an ulp of the cap, and a result off by up to twice as much as its scores."""
    return TOLERANCE[dtype] + 2 * (soft_cap or 0.0) * 2.0**-24
