"""act(gate) * up, where act is SiLU, x / (1 + exp(-x)), or GELU as approximated by tanh.

"GLU Variants Improve Transformer" (Shazeer, 2020).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from latticework.kernels.cpu.library import Library


def gate(library: Library, gate_up: Tensor, is_gelu: bool) -> Tensor:
    """gate_up: [T, 2 * size], gate before up -> [T, size]."""
    gate_up = gate_up.contiguous()
    rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((rows, size), dtype=gate_up.dtype)
    library.gate[gate_up.dtype](gate_up.data_ptr(), out.data_ptr(), rows, size, is_gelu, library.threads)
    return out


def gate_reference(gate_up: Tensor, is_gelu: bool) -> Tensor:
    gates, up = gate_up.chunk(2, dim=-1)
    return (functional.gelu(gates, approximate="tanh") if is_gelu else functional.silu(gates)) * up
