"""Root-mean-square norm of rows, with what is added to the stream before it.

    total[t] = x[t] + residual[t]                                       (x[t] alone without a residual)
    normed[t] = total[t] / sqrt(mean(total[t]²) + eps) · (offset + weight)

Zhang and Sennrich 2019; `offset` is Gemma's 1. The sum is rounded to x's dtype before it is normed, as the unfused
layers do; everything else is float32 and rounded once. One program a row: the row is read once and stays in registers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from latticework.kernels.choice import twins_chosen
from latticework.kernels.paged import DTYPES, check_rows

NAME = "rms_norm"
MAX_SIZE = 16384


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None, offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    """x, residual: [T, size]; weight: [size]; all of one dtype. Returns (normed, total), [T, size] each; total is x
    itself without a residual. Raises TypeError for other dtypes, ValueError for shapes that do not agree or a size
    beyond MAX_SIZE."""
    check_norm(x, weight, residual)
    if twins_chosen():
        return rms_norm_reference(x, weight, eps, residual, offset)
    normed = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = x if residual is None else torch.empty_like(normed)
    if len(x):
        norm_kernel[(len(x),)](
            x, x if residual is None else residual, weight, normed, total, eps, offset,
            x.stride(0), x.stride(0) if residual is None else residual.stride(0),
            ADDING=residual is not None, **norm_options(x.shape[1]),
        )  # fmt: skip
    return normed, total


def rms_norm_reference(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None, offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The same in plain torch; float64 inputs stay float64."""
    work = torch.promote_types(x.dtype, torch.float32)
    total = x if residual is None else (x.to(work) + residual.to(work)).to(x.dtype)
    wide = total.to(work)
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * (weight.to(work) + offset)
    return normed.to(x.dtype), total


def check_norm(x: Tensor, weight: Tensor, residual: Tensor | None) -> None:
    if x.dim() != 2:
        raise ValueError(f"{NAME}: x {tuple(x.shape)}; expected [T, size]")
    check_size(x.dtype, x.shape[1])
    for name, tensor, shape in (("weight", weight, x.shape[1:]), ("residual", residual, x.shape)):
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise ValueError(f"{NAME}: {name} {tuple(tensor.shape)}; expected {tuple(shape)}")
        if tensor.dtype != x.dtype:
            raise TypeError(f"{NAME}: {name} is {tensor.dtype}; expected x's {x.dtype}")
        check_rows(NAME, x=x, **{name: tensor})


def check_size(dtype: torch.dtype, size: int) -> None:
    """Raises TypeError or ValueError, naming the limit, where no program exists."""
    if dtype not in DTYPES:
        raise TypeError(f"{NAME}: dtype {dtype}; supported are {', '.join(map(str, DTYPES))}")
    if not 1 <= size <= MAX_SIZE:
        raise ValueError(f"{NAME}: size {size}; supported are 1 to {MAX_SIZE}")


def norm_options(size: int) -> dict[str, int]:
    """How the kernel is compiled: at most 16 numbers a thread until the threads run out."""
    padded = max(16, triton.next_power_of_2(size))
    return {"SIZE": size, "SIZE_PADDED": padded, "num_warps": min(max(padded // 512, 1), 16)}


@triton.jit
def norm_kernel(
    x: tl.tensor,  # [T, SIZE]
    residual: tl.tensor,  # [T, SIZE], read where ADDING
    weight: tl.tensor,  # [SIZE]
    normed: tl.tensor,  # [T, SIZE], contiguous
    total: tl.tensor,  # [T, SIZE], contiguous, written where ADDING
    eps: tl.tensor,
    offset: tl.tensor,
    x_row: tl.tensor,  # strides in elements
    residual_row: tl.tensor,
    SIZE: tl.constexpr,
    SIZE_PADDED: tl.constexpr,
    ADDING: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, SIZE_PADDED)
    there = column < SIZE
    stream = tl.load(x + row * x_row + column, mask=there, other=0.0).to(tl.float32)
    if ADDING:
        stream += tl.load(residual + row * residual_row + column, mask=there, other=0.0).to(tl.float32)
        rounded = stream.to(total.dtype.element_ty)
        tl.store(total + row * SIZE + column, rounded, mask=there)
        stream = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(stream * stream, 0) / SIZE + eps)
    factor = tl.load(weight + column, mask=there, other=0.0).to(tl.float32) + offset
    tl.store(normed + row * SIZE + column, (stream * scale * factor).to(normed.dtype.element_ty), mask=there)
