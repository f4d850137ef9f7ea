"""Forms whose products the built C++ operations compute, of the same parts as torch's: see `kernels/cpu/`."""

from __future__ import annotations

from torch import Tensor

from latticework.kernels.cpu.int8_matmul import Int8Packed, int8_matmul
from latticework.kernels.cpu.library import Library
from latticework.kernels.cpu.tile_matmul import TilePacked, tile_matmul
from latticework.runtime.model.quantize.base import Kind, Parts


class NativeInt8:
    """A `Form` of int8 codes, as `Int8`: the same integers, scaled at once. A row with NaN or infinity gives NaN."""

    kind: Kind = "int8"

    def __init__(self, library: Library, parts: Parts, bias: Tensor | None) -> None:
        self._library = library
        self._weight = Int8Packed(parts["codes"], parts["scales"])
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:  # [T, inputs] -> [T, outputs]
        return int8_matmul(self._library, x, self._weight, self._bias)


class NativePlain:
    """A `Form` in bfloat16, as `Plain`, in matrix registers. halved: see `TilePacked`."""

    kind: Kind = "plain"

    def __init__(self, library: Library, parts: Parts, bias: Tensor | None, halved: bool) -> None:
        self._library = library
        self.weight = TilePacked(parts["weight"], bias, halved)

    def __call__(self, x: Tensor) -> Tensor:  # [T, inputs] -> [T, outputs]
        return tile_matmul(self._library, x, self.weight)
