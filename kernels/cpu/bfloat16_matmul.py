"""y = x w^T + bias, all of bfloat16, summed in float32 and rounded once: in AMX's tile registers.

    y[t, n] = sum_k x[t, k] * w[n, k] + bias[n]

A row's sum runs over 32 inputs at a time, in order, so its result is the same bits whatever other rows are multiplied
with it. Only where the library uses tiles; elsewhere the twin is as fast.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from latticework.kernels.cpu.library import Library
from latticework.kernels.cpu.pack_tiles import SIDE, pack_tiles_reference

_TILE, _INPUTS = 16, 32  # rows of a tile, its inputs


def pack_bfloat16(weight: Tensor, pack: Callable[[Tensor], Tensor] = pack_tiles_reference) -> Tensor:
    """weight: [outputs, inputs] bfloat16 -> [columns of 32 outputs, depth, 2, 16, 16, 2]: tiles of 16 pairs of inputs
    of 16 outputs, zeros beyond the ends. pack: see pack_tiles.py."""
    even = pad(weight, (0, weight.shape[1] % 2)).contiguous()
    return pack(even.view(torch.int32)).view(torch.bfloat16).unflatten(-1, (SIDE, 2))


def bfloat16_matmul(library: Library, x: Tensor, packed: Tensor, outputs: int, bias: Tensor | None) -> Tensor:
    """x: [T, inputs]; packed: see `pack_bfloat16`; bias: [outputs] -> [T, outputs]."""
    assert library.uses_tiles
    assert x.dtype == torch.bfloat16
    x = x.contiguous()
    count, inputs = x.shape
    rows = torch.empty((-(-count // _TILE), packed.shape[1], _TILE, _INPUTS), dtype=torch.bfloat16)
    out = torch.empty((count, outputs), dtype=torch.bfloat16)
    library.bfloat16_matmul(
        x.data_ptr(),
        packed.data_ptr(),
        None if bias is None else bias.data_ptr(),
        rows.data_ptr(),
        out.data_ptr(),
        count,
        outputs,
        inputs,
        library.threads,
    )
    return out


def bfloat16_matmul_reference(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return linear(x, weight, bias)
