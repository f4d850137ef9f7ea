"""The gate of an MLP, between its two matrix products.

    out[t, i] = act(x[t, i]) · x[t, I + i]        act: silu(g) = g · σ(g), or
                                                  gelu(g) = g · σ(2 · sqrt(2/π) · (g + 0.044715 g³))

x holds gate and up side by side, as one matrix product leaves them. Shazeer 2020 (GLU variants); gelu is the tanh
approximation of Hendrycks and Gimpel 2016, by tanh(y) = 2σ(2y) - 1. float32 inside, rounded once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from latticework.kernels.choice import twins_chosen
from latticework.kernels.paged import DTYPES, check_rows

NAME = "gated"
ACTIVATIONS = ("silu", "gelu_pytorch_tanh")  # as ModelSpec.hidden_act names them
BLOCK = 1024


def gated(x: Tensor, activation: str) -> Tensor:
    """x: [T, 2 I] -> [T, I], of x's dtype. Raises TypeError for other dtypes, ValueError for an unknown activation or
    another shape."""
    check_gate(x, activation)
    if twins_chosen():
        return gated_reference(x, activation)
    inner = x.shape[1] // 2
    out = torch.empty(len(x), inner, dtype=x.dtype, device=x.device)
    if out.numel():
        gate_kernel[(len(x), triton.cdiv(inner, BLOCK))](
            x, out, x.stride(0), inner, SILU=activation == "silu", **gate_options()
        )
    return out


def gated_reference(x: Tensor, activation: str) -> Tensor:
    """The same in plain torch; float64 inputs stay float64."""
    gate, up = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, dim=-1)
    acted = functional.silu(gate) if activation == "silu" else functional.gelu(gate, approximate="tanh")
    return (acted * up).to(x.dtype)


def check_gate(x: Tensor, activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"{NAME}: activation {activation!r}; supported are {', '.join(ACTIVATIONS)}")
    if x.dtype not in DTYPES:
        raise TypeError(f"{NAME}: dtype {x.dtype}; supported are {', '.join(map(str, DTYPES))}")
    if x.dim() != 2 or x.shape[1] % 2:
        raise ValueError(f"{NAME}: x {tuple(x.shape)}; expected [T, 2 I]")
    check_rows(NAME, x=x)


def gate_options() -> dict[str, int]:
    return {"BLOCK": BLOCK, "num_warps": 4}


@triton.jit
def gate_kernel(
    x: tl.tensor,  # [T, 2 I]
    out: tl.tensor,  # [T, I], contiguous
    x_row: tl.tensor,  # stride in elements
    inner: tl.tensor,  # I
    BLOCK: tl.constexpr,
    SILU: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = column < inner
    gate = tl.load(x + row * x_row + column, mask=there, other=0.0).to(tl.float32)
    up = tl.load(x + row * x_row + inner + column, mask=there, other=0.0).to(tl.float32)
    if SILU:
        acted = gate * tl.sigmoid(gate)
    else:
        acted = gate * tl.sigmoid(1.5957691216057308 * (gate + 0.044715 * gate * gate * gate))
    tl.store(out + row * inner + column, (acted * up).to(out.dtype.element_ty), mask=there)
