"""Rows times a weight in 4 bits, whose groups of 32 inputs have a scale and a zero each.

    w[n, 32 g + i] = (codes[n, 32 g + i] - 8) * scales[n, g] + zeros[n, g]
    x[t, 32 g + i] ~ steps[t, 32 g + i] * s[t, g]      s[t, g] = max_i |x[t, 32 g + i]| / (127 * 16), found anew
    steps = 16 * high + low                            high in -127 .. 127, low in -8 .. 8
    y[t, n] = sum_g s[t, g] * (scales[n, g] * sum_i steps * (codes - 8) + zeros[n, g] * sum_i steps) + bias[n]

12 bits beside the largest of 32 numbers: the error is a third of what rounding to bfloat16 costs. Sums within a group
are of integers, exact, and groups are added in order: a row's result is the same bits whatever other rows are
multiplied with it, by VPDPBUSD (AVX-512 VNNI) for a few rows or in AMX's tiles for more.
(8 bits for every 32 numbers: llama.cpp's Q8_1.)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from latticework.kernels.cpu.library import Library

GROUP = 32
_COLUMN, _ROWS = 16, 16  # outputs, rows of a tile
_SHARED = 16  # bytes
_MIDDLE, _MOST, _SMALLEST = 8, 127.0 * 16.0, 1e-30


def pack_int4(codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """codes: [outputs, inputs] uint8, 0 to 15; scales, zeros: [outputs, inputs / 32], rounded to bfloat16
    -> [columns of 16 outputs, groups, 320] uint8: codes as the library reads them, 16 scales, 16 zeros."""
    outputs, inputs = codes.shape
    added = (0, 0, 0, -outputs % _COLUMN)
    groups = inputs // GROUP
    # column, output, group, eight, half, four -> column, group, eight, output, four, half
    parts = pad(codes, added).view(-1, _COLUMN, groups, 4, 2, 4).permute(0, 2, 3, 1, 5, 4)
    packed = (parts[..., 0] | parts[..., 1] << 4).reshape(len(parts), groups, -1)
    facts = torch.stack((pad(scales, added), pad(zeros, added))).to(torch.bfloat16)  # [2, outputs, groups]
    facts = facts.view(2, -1, _COLUMN, groups).permute(1, 3, 0, 2).reshape(len(parts), groups, -1)
    return torch.cat((packed, facts.contiguous().view(torch.uint8)), dim=2)


def int4_matmul(library: Library, x: Tensor, packed: Tensor, outputs: int, bias: Tensor | None) -> Tensor:
    """x: [T, inputs], float32, float16 or bfloat16; packed: see `pack_int4`; bias: [outputs], x's type
    -> [T, outputs], x's type."""
    x = x.contiguous()
    rows, groups = len(x), packed.shape[1]
    blocks = -(-rows // _ROWS)
    halves = torch.empty((blocks, groups, _ROWS, 2 * GROUP), dtype=torch.int8)
    shared = torch.empty((blocks * _ROWS, groups, _SHARED), dtype=torch.uint8)
    out = torch.empty((rows, outputs), dtype=x.dtype)
    library.int4_matmul[x.dtype](
        x.data_ptr(),
        packed.data_ptr(),
        None if bias is None else bias.data_ptr(),
        halves.data_ptr(),
        shared.data_ptr(),
        out.data_ptr(),
        rows,
        outputs,
        groups,
        library.threads,
        library.uses_tiles,
    )
    return out


def int4_matmul_reference(x: Tensor, codes: Tensor, scales: Tensor, zeros: Tensor, bias: Tensor | None) -> Tensor:
    """codes: [outputs, inputs] uint8, scales and zeros: [outputs, inputs / 32]; sums in float64."""
    steps, row_scales = row_steps(x)
    near = (steps.double() * row_scales.double()).flatten(1)
    scales, zeros = (part.bfloat16().double().unsqueeze(2) for part in (scales, zeros))
    dense = ((codes.unflatten(1, (-1, GROUP)).double() - _MIDDLE) * scales + zeros).flatten(1)
    found = near @ dense.T
    return (found if bias is None else found + bias).to(x.dtype)


def row_steps(x: Tensor) -> tuple[Tensor, Tensor]:
    """x: [T, inputs] -> whole numbers [T, groups, 32], scales [T, groups, 1]; float32, x ~ steps * scales."""
    groups = x.to(torch.float32).unflatten(1, (-1, GROUP))
    scales = groups.abs().amax(2, keepdim=True).clamp_min(_SMALLEST) / _MOST
    return (groups / scales).round(), scales
