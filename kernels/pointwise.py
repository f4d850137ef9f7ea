"""The Triton kernels behind the protocol that a CPU's operations have, see `cpu/pointwise.py`.

Rotary positions are not among them: `turn_and_store.py` turns heads where it stores them. `rotate` is torch's, for
attention that takes heads turned already.
"""

from __future__ import annotations

from torch import Tensor

from latticework.kernels.cpu.rotate import rotate_reference
from latticework.kernels.gated import gated
from latticework.kernels.rms_norm import rms_norm as normed_rows


class TritonPointwise:
    """A `Pointwise` for float32, float16 and bfloat16 on CUDA, or in Triton's interpreter; twins where
    LATTICEWORK_KERNELS=torch."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
        """x: [..., size] -> the same."""
        normed, _ = normed_rows(x.reshape(-1, x.shape[-1]), weight, eps, offset=offset)
        return normed.view(x.shape)

    def add_rms_norm(
        self, x: Tensor, part: Tensor, weight: Tensor, eps: float, offset: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """x, part: [T, size] -> x + part, and its norm."""
        normed, total = normed_rows(part, weight, eps, residual=x, offset=offset)
        return total, normed

    rotate = staticmethod(rotate_reference)

    def gate(self, gate_up: Tensor, is_gelu: bool) -> Tensor:
        """gate_up: [T, 2 size], gate before up -> [T, size]."""
        return gated(gate_up, "gelu_pytorch_tanh" if is_gelu else "silu")
