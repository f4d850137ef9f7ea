"""The forms of a GPU's weights: those of torch, and in fewer bits those of the Triton kernels.

    quantization   a file's own 4 bits    other weights      the head, unless in 4 bits itself
    none           plain                  plain              plain
    int8           int8                   int8               int8
    int4           int4                   int4, rounded      int8
    auto           int4                   int8               int8

One form serves all rows: a kernel reads codes and multiplies with what they stand for, whatever the number of rows. A
matrix is quantised where it will be used, a few thousand rows at once, as soon as it is there. This file knows no file
format and no model; formulas are in `kernels/int8_matmul.py` and `kernels/int4_matmul.py`.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from latticework.kernels.int4_matmul import Int4Weight, int4_matmul
from latticework.kernels.int8_matmul import Int8Weight, int8_matmul
from latticework.kernels.paged import DTYPES
from latticework.lang.errors import InvalidArgument
from latticework.runtime.model.quantize.base import Form, Kind, Quantization
from latticework.runtime.model.quantize.four_bit import GROUP, FourBit
from latticework.runtime.model.quantize.packing import Keep
from latticework.runtime.model.quantize.plain import Plain, plain_parts

log = logging.getLogger("latticework.model")

ROWS = 4096  # quantised at once: steps in between are in float32


class DevicePacking:
    """A `Packer` of weights that lie where they are used: on a GPU, or on a CPU for Triton's interpreter."""

    def __init__(self, quantization: Quantization, dtype: torch.dtype) -> None:
        """Raises InvalidArgument for a type that the kernels do not multiply."""
        if quantization != "none" and dtype not in DTYPES:
            raise InvalidArgument(
                f"quantization is {quantization!r} with dtype {dtype}; int8_matmul and int4_matmul take "
                f"{', '.join(map(str, DTYPES))}",
                field="quantization",
                hint="leave out dtype, or take quantization='none'",
            )
        self.quantization: Quantization = quantization
        self.dtype = dtype

    @property
    def source_dtype(self) -> torch.dtype:
        """Weights are rounded once."""
        return self.dtype if self.quantization == "none" else torch.float32

    @property
    def wants_four_bits(self) -> bool:
        return self.quantization in ("int4", "auto")

    def pack(
        self, name: str, source: Tensor | FourBit, bias: Tensor | None, is_head: bool, keep: Keep | None = None
    ) -> Form:
        """source: [outputs, inputs]. keep is not told anything: making these forms again is as fast as reading them."""
        kind = self._kind(name, source, is_head)
        if kind == "int4":
            return DeviceInt4(int4_as_stored(source) if isinstance(source, FourBit) else int4_of(source), bias)
        dense = source.dense() if isinstance(source, FourBit) else source
        if kind == "int8":
            return DeviceInt8(int8_of(dense), bias)
        return Plain(plain_parts(dense, self.dtype), bias)

    def _kind(self, name: str, source: Tensor | FourBit, is_head: bool) -> Kind:
        if self.quantization == "none":
            return "plain"
        is_stored = isinstance(source, FourBit)
        if self.quantization == "int8" or not (is_stored if is_head or self.quantization == "auto" else True):
            return "int8"
        if source.shape[1] % GROUP:
            log.warning("%s has rows of %d: 4 bits take multiples of %d, so it gets 8", name, source.shape[1], GROUP)
            return "int8"
        return "int4"


class DeviceInt8:
    """A `Form`: 8 bits and a scale a row."""

    kind: Kind = "int8"
    pads = False

    def __init__(self, weight: Int8Weight, bias: Tensor | None) -> None:
        self.weight = weight
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:  # [T, inputs] -> [T, outputs]
        found = int8_matmul(x, self.weight)
        return found if self._bias is None else found.add_(self._bias)


class DeviceInt4:
    """A `Form`: 4 bits, a scale and a minimum for every 32 of a row."""

    kind: Kind = "int4"
    pads = False

    def __init__(self, weight: Int4Weight, bias: Tensor | None) -> None:
        self.weight = weight
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:  # [T, inputs] -> [T, outputs]
        found = int4_matmul(x, self.weight)
        return found if self._bias is None else found.add_(self._bias)


def int8_of(weight: Tensor) -> Int8Weight:
    """weight: [outputs, inputs], to the nearest of 255 steps a row."""
    parts = [Int8Weight.quantise(rows) for rows in weight.split(ROWS)]
    return Int8Weight(torch.cat([part.codes for part in parts]), torch.cat([part.scales for part in parts]))


def int4_of(weight: Tensor) -> Int4Weight:
    """weight: [outputs, inputs], to the nearest of 16 steps a group."""
    return int4_as_stored(FourBit.joined([FourBit.rounded(rows) for rows in weight.split(ROWS)]))


def int4_as_stored(weight: FourBit) -> Int4Weight:
    """The same steps in the kernel's order: byte i of a group holds code i and, in its high half, code i + 16. Scales
    and minima are half-precision, as GGUF has them."""
    codes = weight.codes.unflatten(1, (-1, GROUP))
    packed = codes[:, :, : GROUP // 2] | (codes[:, :, GROUP // 2 :] << 4)
    minima = None
    if bool(weight.zeros.any()):  # none in Q4_0
        minima = (weight.zeros - 8 * weight.scales).half()
    return Int4Weight(packed.flatten(1).contiguous(), weight.scales.half(), minima)
