"""y = x w^T + bias, all of bfloat16, summed in float32 and rounded once: in AMX's tile registers.

    y[t, n] = sum_k x[t, k] * w[n, k] + bias[n]

A row's sum runs over 32 inputs at a time, in order, so its result is the same bits whatever other rows are multiplied
with it. Only where the library uses tiles; elsewhere the twin is as fast.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from latticework.kernels.cpu.library import Library

_COLUMN, _TILE, _INPUTS = 32, 16, 32  # outputs; outputs and rows of a tile, its inputs


def pack_bfloat16(weight: Tensor) -> Tensor:
    """weight: [outputs, inputs] bfloat16 -> [columns of 32 outputs, depth, 2, 16, 16, 2]: tiles of 16 pairs of inputs
    of 16 outputs, zeros beyond the ends."""
    outputs, inputs = weight.shape
    whole = pad(weight, (0, -inputs % _INPUTS, 0, -outputs % _COLUMN))
    tiles = whole.view(-1, 2, _TILE, whole.shape[1] // _INPUTS, _TILE, 2)  # column, half, output, depth, pair, number
    return tiles.permute(0, 3, 1, 4, 2, 5).contiguous()


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
