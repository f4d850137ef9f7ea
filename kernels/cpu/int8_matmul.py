"""A weight in 8 bits, multiplied with rows in two halves of 8 bits: dynamic int8 x int8, twice.

    w[n, k] ~ codes[n, k] * scales[n]           scales[n] = max_k |w[n, k]| / 127
    x[t, k] ~ steps[t, k] * s[t]                s[t]      = max_k |x[t, k]| / (127 * 128), found anew for every row
    steps   = 128 * high + low                  high in -127 .. 127, low in -64 .. 64
    y[t, n] = (128 * sum_k high * codes + sum_k low * codes) * scales[n] * s[t] + bias[n]

The sums are of integers, exact, so a row's result is the same bits whatever other rows are multiplied with it and in
whatever order the processor adds: by VPDPBUSD (AVX-512 VNNI) for a few rows, in AMX's tiles for more.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from latticework.kernels.cpu.library import Library
from latticework.kernels.cpu.pack_tiles import COLUMN, pack_tiles_reference

STEPS = 127.0
HALF = 128.0  # of a step of the high half, in steps of the low one
SMALLEST = 1e-30  # the largest number of a row of zeros: 0 / 1e-30 is 0
_BLOCK, _BYTES = 16, 64  # rows or outputs of a tile, its inputs


class Int8Packed:
    """A weight as the library reads it. codes: [columns, depth, 2, 16, 16, 4] int8, scales: [columns * 32] float32,
    sums: [columns * 32] int32, 128 times the sum of an output's codes."""

    def __init__(self, codes: Tensor, scales: Tensor, pack: Callable[[Tensor], Tensor] = pack_tiles_reference) -> None:
        """codes: [outputs, inputs] int8; scales: [outputs] float32. pack: see pack_tiles.py."""
        self.outputs, self.inputs = codes.shape
        self.depth = -(-self.inputs // _BYTES)
        added = (0, -self.outputs % COLUMN)
        fours = pad(codes, (0, -self.inputs % 4)).contiguous().view(torch.int32)
        self.codes = pack(fours).view(torch.int8).unflatten(-1, (_BLOCK, 4))
        self.scales = pad(scales, added)
        self.sums = pad(codes.sum(1, dtype=torch.int32).mul_(int(HALF)), added)


def int8_matmul(library: Library, x: Tensor, weight: Int8Packed, bias: Tensor | None) -> Tensor:
    """x: [T, inputs], float32, float16 or bfloat16; bias: [outputs], x's type -> [T, outputs], x's type."""
    x = x.contiguous()
    rows = len(x)
    halves = torch.empty((-(-rows // _BLOCK), 2, weight.depth, _BLOCK, _BYTES), dtype=torch.int8)
    scales = torch.empty(rows, dtype=torch.float32)
    out = torch.empty((rows, weight.outputs), dtype=x.dtype)
    library.int8_matmul[x.dtype](
        x.data_ptr(),
        weight.codes.data_ptr(),
        weight.scales.data_ptr(),
        weight.sums.data_ptr(),
        None if bias is None else bias.data_ptr(),
        halves.data_ptr(),
        scales.data_ptr(),
        out.data_ptr(),
        rows,
        weight.outputs,
        weight.inputs,
        library.threads,
        library.uses_tiles,
    )
    return out


def int8_matmul_reference(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    """codes: [outputs, inputs] int8, scales: [outputs] float32. Integers in float64, which is exact below 2^53."""
    halves, row_scales = row_halves(x)
    sums = halves.double() @ codes.double().T
    found = (sums[: len(x)].float() * HALF + sums[len(x) :].float()) * scales * row_scales
    return (found if bias is None else found + bias).to(x.dtype)


def row_halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """x: [T, inputs] -> int8 [2 T, inputs], the high halves before the low ones, and float32 scales [T, 1], so that
    x ~ (128 * high + low) * scales."""
    wide = x.to(torch.float32)  # once: torch is slow where types are mixed
    scales = wide.abs().amax(1, keepdim=True).clamp_min_(SMALLEST).div_(STEPS * HALF)
    steps = (wide / scales).round_()
    high = (steps * (1 / HALF)).round_()
    halves = torch.empty((2 * len(x), x.shape[1]), dtype=torch.int8)
    halves[len(x) :].copy_(steps.sub_(high, alpha=HALF))
    halves[: len(x)].copy_(high)
    return halves, scales
