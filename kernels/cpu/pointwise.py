"""What a decoder computes token by token between its matrices: norms, turns, gates; in torch or in the library."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from latticework.kernels.cpu.gate import gate, gate_reference
from latticework.kernels.cpu.library import Library
from latticework.kernels.cpu.rms_norm import add_rms_norm, add_rms_norm_reference, rms_norm, rms_norm_reference
from latticework.kernels.cpu.rotate import rotate, rotate_reference


class Pointwise(Protocol):
    """Formulas, shapes and twins: see the file of each."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor: ...

    def add_rms_norm(
        self, x: Tensor, part: Tensor, weight: Tensor, eps: float, offset: float = 0.0
    ) -> tuple[Tensor, Tensor]: ...

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """May change x, which nobody may use any more."""
        ...

    def gate(self, gate_up: Tensor, is_gelu: bool) -> Tensor: ...


class TorchPointwise:
    """On any device."""

    rms_norm = staticmethod(rms_norm_reference)
    add_rms_norm = staticmethod(add_rms_norm_reference)
    rotate = staticmethod(rotate_reference)
    gate = staticmethod(gate_reference)


class NativePointwise:
    """On a CPU, for contiguous float64, float32, float16 and bfloat16."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
        return rms_norm(self._library, x, weight, eps, offset)

    def add_rms_norm(
        self, x: Tensor, part: Tensor, weight: Tensor, eps: float, offset: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        return add_rms_norm(self._library, x, part, weight, eps, offset)

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return rotate(self._library, x, cos, sin)

    def gate(self, gate_up: Tensor, is_gelu: bool) -> Tensor:
        return gate(self._library, gate_up, is_gelu)


TORCH = TorchPointwise()
