"""Matrix product with 8-bit weights, read as they are stored.

    out[m, n] = Σ_k x[m, k] · codes[n, k] · scales[n, k div group]

group = K: one scale a row, applied to the finished sum. group = 32: GGUF's Q8_0 (ggml), whose blocks of 34 bytes
`from_q8_0` takes apart, so that codes can be read 16 bytes at a time. Weight-only quantisation as in LLM.int8
(Dettmers et al. 2022) without its outliers: x stays as it is. Codes and 16-bit x fit TF32 exactly; scaled codes are
rounded to its 11 bits. float32 x is multiplied in float32. This file knows no model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from latticework.kernels.choice import capability_of, twins_chosen
from latticework.kernels.paged import DTYPES, check_rows
from latticework.kernels.tuned import tuned

NAME = "int8_matmul"
GGUF_GROUP = 32
Q8_0_BYTES = 34  # of a block: a half-precision scale, then 32 codes


@dataclass(frozen=True, slots=True)
class Int8Weight:
    """codes: int8 [N, K]; scales: float16 or float32 [N, K / group], group = K or 32."""

    codes: Tensor
    scales: Tensor

    @staticmethod
    def from_q8_0(blocks: Tensor) -> Int8Weight:
        """blocks: uint8 [N, K / 32 * 34], as GGUF stores a matrix. Raises ValueError for another shape."""
        parts = split_blocks(blocks, Q8_0_BYTES, "Q8_0")
        return Int8Weight(parts[:, :, 2:].flatten(1).contiguous().view(torch.int8), half_at(parts, 0))

    @staticmethod
    def quantise(weight: Tensor) -> Int8Weight:
        """weight: [N, K] of any float type, to the nearest of 255 steps a row."""
        wide = weight.float()
        scales = (wide.abs().amax(1, keepdim=True) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        return Int8Weight((wide / scales).round().to(torch.int8), scales)

    def dequantise(self) -> Tensor:
        """float32 [N, K]."""
        groups = self.scales.shape[1]
        codes = self.codes.float().unflatten(1, (groups, -1))
        return (codes * self.scales.float()[:, :, None]).flatten(1)


def split_blocks(blocks: Tensor, size: int, name: str) -> Tensor:
    """uint8 [N, K / 32 * size] -> [N, K / 32, size]."""
    if blocks.dtype != torch.uint8 or blocks.dim() != 2 or blocks.shape[1] % size or not blocks.shape[1]:
        raise ValueError(
            f"{name} blocks {tuple(blocks.shape)} {blocks.dtype}; expected uint8 [N, a multiple of {size}]"
        )
    return blocks.unflatten(1, (-1, size))


def half_at(parts: Tensor, at: int) -> Tensor:
    """The half-precision number at byte `at` of every block: float16 [N, K / 32]."""
    return parts[:, :, at : at + 2].contiguous().view(torch.float16).squeeze(2)


def int8_matmul(x: Tensor, weight: Int8Weight) -> Tensor:
    """x: [M, K] -> [M, N] of x's dtype. Raises TypeError for other dtypes, ValueError for shapes that do not agree."""
    check_weight(x, weight)
    if twins_chosen():
        return int8_matmul_reference(x, weight)
    rows, inputs = x.shape
    outputs, groups = weight.scales.shape
    out = torch.empty(rows, outputs, dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    options = matmul_options(NAME, x.dtype, rows, capability_of(x.device))
    grid = (triton.cdiv(outputs, int(options["COLUMNS"])), triton.cdiv(rows, int(options["ROWS"])))
    int8_kernel[grid](
        x, weight.codes, weight.scales, out, rows, outputs, inputs, groups, x.stride(0),
        BY_GROUP=groups > 1, **options,
    )  # fmt: skip
    return out


def int8_matmul_reference(x: Tensor, weight: Int8Weight) -> Tensor:
    """The same in plain torch; float64 inputs stay float64."""
    work = torch.promote_types(x.dtype, torch.float32)
    return (x.to(work) @ weight.dequantise().to(work).T).to(x.dtype)


def check_weight(x: Tensor, weight: Int8Weight) -> None:
    if x.dtype not in DTYPES:
        raise TypeError(f"{NAME}: dtype {x.dtype}; supported are {', '.join(map(str, DTYPES))}")
    codes, scales = weight.codes, weight.scales
    if codes.dtype != torch.int8 or scales.dtype not in (torch.float16, torch.float32):
        raise TypeError(f"{NAME}: codes are {codes.dtype}, scales {scales.dtype}; expected int8, float16 or float32")
    if x.dim() != 2 or codes.dim() != 2 or x.shape[1] != codes.shape[1]:
        raise ValueError(f"{NAME}: x {tuple(x.shape)}, codes {tuple(codes.shape)}; expected [M, K] and [N, K]")
    outputs, inputs = codes.shape
    by_group = inputs % GGUF_GROUP == 0 and scales.shape == (outputs, inputs // GGUF_GROUP)
    if not by_group and scales.shape != (outputs, 1):
        raise ValueError(
            f"{NAME}: scales {tuple(scales.shape)}; expected [{outputs}, 1], or one for every {GGUF_GROUP} of {inputs}"
        )
    if not (codes.is_contiguous() and scales.is_contiguous()):
        raise ValueError(f"{NAME}: codes and scales are not contiguous")
    check_rows(NAME, x=x)


def matmul_options(kernel: str, dtype: torch.dtype, rows: int, capability: int) -> dict[str, int | str]:
    """How the kernel is compiled: ROWS x COLUMNS of a program, DEPTH of K at a time. The width that is tuned for is
    that of x's rows: a decode step has few."""
    return {
        "PRECISION": "ieee" if dtype == torch.float32 else "tf32",
        **tuned(kernel, capability, 8 * dtype.itemsize, 16 if rows <= 16 else 64),
    }


@triton.jit(do_not_specialize=["rows"])  # they change from step to step: one program for all
def int8_kernel(
    x: tl.tensor,  # [M, K]
    codes: tl.tensor,  # int8 [N, K]
    scales: tl.tensor,  # [N, groups]
    out: tl.tensor,  # [M, N], contiguous
    rows: tl.tensor,  # M
    outputs: tl.tensor,  # N
    inputs: tl.tensor,  # K
    groups: tl.tensor,
    x_row: tl.tensor,  # stride in elements
    BY_GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    x_at = x + row.to(tl.int64)[:, None] * x_row
    codes_at = codes + column.to(tl.int64)[:, None] * inputs
    scales_at = scales + column.to(tl.int64)[:, None] * groups
    is_row, is_column = (row < rows)[:, None], (column < outputs)[:, None]
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in tl.range(0, inputs, DEPTH):
        k = (first + tl.arange(0, DEPTH))[None, :]
        part = tl.load(x_at + k, mask=is_row & (k < inputs), other=0.0).to(tl.float32)
        weight = tl.load(codes_at + k, mask=is_column & (k < inputs), other=0).to(tl.float32)
        if BY_GROUP:
            group = (first // 32 + tl.arange(0, DEPTH // 32))[None, :]
            scale = tl.load(scales_at + group, mask=is_column & (group < groups), other=0.0).to(tl.float32)
            weight *= spread(scale, COLUMNS, DEPTH, 32)
        total += tl.dot(part, tl.trans(weight), input_precision=PRECISION)
    if not BY_GROUP:
        total *= tl.load(scales + column, mask=column < outputs, other=0.0).to(tl.float32)[None, :]
    out_at = out + row.to(tl.int64)[:, None] * outputs + column[None, :]
    tl.store(out_at, total.to(out.dtype.element_ty), mask=is_row & (column < outputs)[None, :])


@triton.jit
def spread(of_group: tl.tensor, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, TIMES: tl.constexpr) -> tl.tensor:
    """[COLUMNS, WIDTH / TIMES] -> [COLUMNS, WIDTH], each number TIMES times."""
    wide = tl.broadcast_to(of_group[:, :, None], [COLUMNS, WIDTH // TIMES, TIMES])
    return tl.reshape(wide, [COLUMNS, WIDTH])
