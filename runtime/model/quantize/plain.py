"""A weight in the model's own type, laid out once as oneDNN's matmul reads it.

Unpacked, every call would lay it out again, or read it in an order that wastes most of the memory's bandwidth. Where
oneDNN does not multiply a type on this processor, the weight stays as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from latticework.runtime.model.quantize.base import Kind, Parts


def plain_parts(weight: Tensor, dtype: torch.dtype) -> Parts:
    """weight: [outputs, inputs], any float type."""
    return {"weight": weight.to(dtype)}


class Plain:
    """A `Form` whose products are those of the type, rounding included."""

    kind: Kind = "plain"

    def __init__(self, parts: Parts, bias: Tensor | None) -> None:
        weight = parts["weight"]
        self._bias = bias
        self._is_packed = _can_pack(weight)
        self.pads = weight.dtype.itemsize == 2  # oneDNN compiles a kernel for each number of rows
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self._is_packed else weight

    def __call__(self, x: Tensor) -> Tensor:  # [T, inputs] -> [T, outputs]
        if self._is_packed:
            found: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
            return found
        return functional.linear(x, self._weight, self._bias)


def _can_pack(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return weight.dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
