"""Matrix product with 4-bit weights in groups of 32, read as they are stored.

    out[m, n] = Σ_k x[m, k] · w[n, k],     w[n, k] = scale · code + minimum       GGUF's Q4_1
                                           w[n, k] = scale · (code - 8)           GGUF's Q4_0

ggml's order within a group: byte i holds code i in its low half and code i + 16 in its high half. A program multiplies
the two halves with the x that belong to them, so codes are never shuffled; `from_q4_0` and `from_q4_1` only take scales
and codes apart, so that codes can be read 16 bytes at a time. Weights are rounded to TF32's 11 bits for 16-bit x;
float32 x is multiplied in float32. This file knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from latticework.kernels.choice import capability_of, twins_chosen
from latticework.kernels.int8_matmul import half_at, matmul_options, split_blocks, spread
from latticework.kernels.paged import DTYPES, check_rows

NAME = "int4_matmul"
GROUP = 32
Q4_0_BYTES, Q4_1_BYTES = 18, 20  # of a block: a half-precision scale (and minimum), then 32 codes


@dataclass(frozen=True, slots=True)
class Int4Weight:
    """codes: uint8 [N, K / 2], ggml's order; scales: float16 [N, K / 32]; minima: the same, None for Q4_0."""

    codes: Tensor
    scales: Tensor
    minima: Tensor | None

    @staticmethod
    def from_q4_0(blocks: Tensor) -> Int4Weight:
        """blocks: uint8 [N, K / 32 * 18], as GGUF stores a matrix. Raises ValueError for another shape."""
        parts = split_blocks(blocks, Q4_0_BYTES, "Q4_0")
        return Int4Weight(parts[:, :, 2:].flatten(1).contiguous(), half_at(parts, 0), None)

    @staticmethod
    def from_q4_1(blocks: Tensor) -> Int4Weight:
        """blocks: uint8 [N, K / 32 * 20], as GGUF stores a matrix. Raises ValueError for another shape."""
        parts = split_blocks(blocks, Q4_1_BYTES, "Q4_1")
        return Int4Weight(parts[:, :, 4:].flatten(1).contiguous(), half_at(parts, 0), half_at(parts, 2))

    def dequantise(self) -> Tensor:
        """float32 [N, K]."""
        packed = self.codes.unflatten(1, (-1, GROUP // 2))
        codes = torch.cat((packed & 15, packed >> 4), dim=2).float()
        scales = self.scales.float()[:, :, None]
        if self.minima is None:
            return ((codes - 8) * scales).flatten(1)
        return (codes * scales + self.minima.float()[:, :, None]).flatten(1)


def int4_matmul(x: Tensor, weight: Int4Weight) -> Tensor:
    """x: [M, K] -> [M, N] of x's dtype. Raises TypeError for other dtypes, ValueError for shapes that do not agree."""
    check_weight(x, weight)
    if twins_chosen():
        return int4_matmul_reference(x, weight)
    outputs, groups = weight.scales.shape
    out = torch.empty(len(x), outputs, dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    options = matmul_options(NAME, x.dtype, len(x), capability_of(x.device))
    grid = (triton.cdiv(outputs, int(options["COLUMNS"])), triton.cdiv(len(x), int(options["ROWS"])))
    int4_kernel[grid](
        x, weight.codes, weight.scales, weight.scales if weight.minima is None else weight.minima, out,
        len(x), outputs, groups, x.stride(0), CENTRED=weight.minima is None, **options,
    )  # fmt: skip
    return out


def int4_matmul_reference(x: Tensor, weight: Int4Weight) -> Tensor:
    """The same in plain torch; float64 inputs stay float64."""
    work = torch.promote_types(x.dtype, torch.float32)
    return (x.to(work) @ weight.dequantise().to(work).T).to(x.dtype)


def check_weight(x: Tensor, weight: Int4Weight) -> None:
    if x.dtype not in DTYPES:
        raise TypeError(f"{NAME}: dtype {x.dtype}; supported are {', '.join(map(str, DTYPES))}")
    codes, scales = weight.codes, weight.scales
    minima = scales if weight.minima is None else weight.minima
    if codes.dtype != torch.uint8 or not scales.dtype == minima.dtype == torch.float16:
        found = f"{codes.dtype}, scales {scales.dtype}, minima {minima.dtype}"
        raise TypeError(f"{NAME}: codes are {found}; expected torch.uint8 and twice torch.float16")
    if x.dim() != 2 or x.shape[1] % GROUP or codes.shape != (len(codes), x.shape[1] // 2):
        raise ValueError(
            f"{NAME}: x {tuple(x.shape)}, codes {tuple(codes.shape)}; "
            "expected [M, K] and [N, K / 2], K a multiple of 32"
        )
    if not scales.shape == minima.shape == (len(codes), x.shape[1] // GROUP):
        raise ValueError(f"{NAME}: scales {tuple(scales.shape)}, minima {tuple(minima.shape)}; expected [N, K / 32]")
    if not (codes.is_contiguous() and scales.is_contiguous() and minima.is_contiguous()):
        raise ValueError(f"{NAME}: codes, scales and minima are not all contiguous")
    check_rows(NAME, x=x)


@triton.jit(do_not_specialize=["rows"])  # they change from step to step: one program for all
def int4_kernel(
    x: tl.tensor,  # [M, K]
    codes: tl.tensor,  # uint8 [N, K / 2]
    scales: tl.tensor,  # [N, groups]
    minima: tl.tensor,  # [N, groups], read unless CENTRED
    out: tl.tensor,  # [M, N], contiguous
    rows: tl.tensor,  # M
    outputs: tl.tensor,  # N
    groups: tl.tensor,  # K / 32
    x_row: tl.tensor,  # stride in elements
    CENTRED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    HALF: tl.constexpr = DEPTH // 2
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    byte = tl.arange(0, HALF)[None, :]
    low = byte // 16 * 32 + byte % 16  # whose code is the low half of a byte
    codes_at = codes + column.to(tl.int64)[:, None] * (groups * 16) + byte
    scales_at = column.to(tl.int64)[:, None] * groups
    x_at = x + row.to(tl.int64)[:, None] * x_row + low
    is_row, is_column = (row < rows)[:, None], (column < outputs)[:, None]
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in tl.range(0, groups, DEPTH // 32):
        there = byte < (groups - first) * 16
        packed = tl.load(codes_at + first * 16, mask=is_column & there, other=0)
        group = first + tl.arange(0, DEPTH // 32)[None, :]
        held = is_column & (group < groups)
        scale = spread(tl.load(scales + scales_at + group, mask=held, other=0.0).to(tl.float32), COLUMNS, HALF, 16)
        if CENTRED:
            minimum = -8.0 * scale
        else:
            least = tl.load(minima + scales_at + group, mask=held, other=0.0).to(tl.float32)
            minimum = spread(least, COLUMNS, HALF, 16)
        low_weight = (packed & 15).to(tl.float32) * scale + minimum
        high_weight = (packed >> 4).to(tl.float32) * scale + minimum
        low_part = tl.load(x_at + first * 32, mask=is_row & there, other=0.0).to(tl.float32)
        high_part = tl.load(x_at + first * 32 + 16, mask=is_row & there, other=0.0).to(tl.float32)
        total += tl.dot(low_part, tl.trans(low_weight), input_precision=PRECISION)
        total += tl.dot(high_part, tl.trans(high_weight), input_precision=PRECISION)
    out_at = out + row.to(tl.int64)[:, None] * outputs + column[None, :]
    tl.store(out_at, total.to(out.dtype.element_ty), mask=is_row & (column < outputs)[None, :])
