"""Forms whose products the built C++ operations compute: see `kernels/cpu/`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from latticework.kernels.cpu.bfloat16_matmul import bfloat16_matmul, pack_bfloat16
from latticework.kernels.cpu.int4_matmul import GROUP, int4_matmul, pack_int4
from latticework.kernels.cpu.int8_matmul import Int8Packed, int8_matmul
from latticework.kernels.cpu.library import Library
from latticework.kernels.cpu.pack_tiles import pack_tiles
from latticework.kernels.cpu.products import BFLOAT16, INT4, INT8, Product
from latticework.runtime.model.quantize.arena import Arena
from latticework.runtime.model.quantize.base import Kind, Parts
from latticework.runtime.model.quantize.four_bit import FourBit


def _pack(library: Library, arena: Arena) -> Callable[[Tensor], Tensor]:
    return lambda words: pack_tiles(library, words, arena.empty)


class NativeForm:
    """What such forms have in common. product: for operations that multiply by themselves."""

    product: Product


class NativePlain(NativeForm):
    """A `Form` of bfloat16 weights, as `Plain` but for the order in which products are added. Where there are tiles."""

    kind: Kind = "plain"
    pads = False

    def __init__(self, library: Library, arena: Arena, parts: Parts, bias: Tensor | None) -> None:
        weight = parts["weight"]
        self._library = library
        self._packed, self._outputs = pack_bfloat16(weight, _pack(library, arena)), len(weight)
        self._bias = bias
        self.product = Product.of(BFLOAT16, len(weight), weight.shape[1], self._packed, bias=bias)

    def __call__(self, x: Tensor) -> Tensor:  # [T, inputs] -> [T, outputs]
        return bfloat16_matmul(self._library, x, self._packed, self._outputs, self._bias)


class NativeInt8(NativeForm):
    """A `Form` of the parts of `Int8`: the same integers, scaled at once. A row with NaN or infinity gives NaN."""

    kind: Kind = "int8"
    pads = False

    def __init__(self, library: Library, arena: Arena, parts: Parts, bias: Tensor | None) -> None:
        self._library = library
        self._weight = Int8Packed(parts["codes"], parts["scales"], _pack(library, arena))
        self._bias = bias
        weight = self._weight
        self.product = Product.of(INT8, weight.outputs, weight.inputs, weight.codes, weight.scales, weight.sums, bias)

    def __call__(self, x: Tensor) -> Tensor:  # [T, inputs] -> [T, outputs]
        return int8_matmul(self._library, x, self._weight, self._bias)


def native_int4_parts(weight: FourBit) -> Parts:
    """The codes as the library reads them."""
    packed = pack_int4(weight.codes, weight.scales, weight.zeros)
    return {"packed": packed, "outputs": torch.tensor(len(weight.codes))}


class NativeInt4(NativeForm):
    """A `Form` of 4-bit codes, for rows in 12 bits. A row with NaN or infinity gives NaN."""

    kind: Kind = "int4"
    pads = False

    def __init__(self, library: Library, arena: Arena, parts: Parts, bias: Tensor | None) -> None:
        self._library = library
        self._packed = arena.place(parts["packed"])
        self._outputs = int(parts["outputs"])
        self._bias = bias
        self.product = Product.of(INT4, self._outputs, self._packed.shape[1] * GROUP, self._packed, bias=bias)

    def __call__(self, x: Tensor) -> Tensor:  # [T, inputs] -> [T, outputs]
        return int4_matmul(self._library, x, self._packed, self._outputs, self._bias)
