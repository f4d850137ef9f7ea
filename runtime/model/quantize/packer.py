"""The contract of what makes the forms of a model's weights: one for a CPU (`packing.py`), one for a GPU."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from latticework.runtime.model.quantize.base import Form, Quantization
from latticework.runtime.model.quantize.by_rows import ByRows
from latticework.runtime.model.quantize.four_bit import FourBit
from latticework.runtime.model.quantize.packing import Keep


class Packer(Protocol):
    """dtype: the model's."""

    quantization: Quantization
    dtype: torch.dtype

    @property
    def source_dtype(self) -> torch.dtype:
        """In which weights are collected before they are packed."""
        ...

    @property
    def wants_four_bits(self) -> bool:
        """Whether a file's own 4 bits are of use as they are."""
        ...

    def pack(
        self, name: str, source: Tensor | FourBit, bias: Tensor | None, is_head: bool, keep: Keep | None = None
    ) -> Form | ByRows:
        """source: [outputs, inputs]. keep: told what every form is made of."""
        ...
