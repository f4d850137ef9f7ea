"""A weight in 4 bits, multiplied with rows as they are: for a few rows, where reading weights is all the time.

The kernel is torch's `_weight_int4pack_mm_for_cpu`, which widens codes in registers and adds in float32. Only in
bfloat16 is it vectorised, so rows are rounded to that, and so are the scales (see `FourBit.in_bfloat16`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from latticework.runtime.model.quantize.base import Kind, Parts
from latticework.runtime.model.quantize.four_bit import GROUP, FourBit

_OUTPUTS = 16  # the kernel takes multiples of it: rows of zeros are added


def int4_parts(weight: FourBit) -> Parts:
    """The codes as the kernel of this processor reads them."""
    weight = weight.in_bfloat16()
    added = (0, 0, 0, -len(weight.codes) % _OUTPUTS)
    codes = pad(weight.codes, added).to(torch.int32)
    scales = torch.stack((pad(weight.scales, added).T, pad(weight.zeros, added).T), dim=2)  # [groups, outputs, 2]
    return {
        "codes": torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1),
        "scales": scales.to(torch.bfloat16).contiguous(),
        "outputs": torch.tensor(len(weight.codes)),
    }


class Int4:
    """A `Form` of packed 4-bit codes."""

    kind: Kind = "int4"
    pads = False

    def __init__(self, parts: Parts, bias: Tensor | None) -> None:
        self._codes, self._scales = parts["codes"], parts["scales"]
        self._outputs = int(parts["outputs"])
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:  # [T, inputs] -> [T, outputs]
        found: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.to(torch.bfloat16), self._codes, GROUP, self._scales
        )
        if found.shape[1] != self._outputs:
            found = found[:, : self._outputs].contiguous()
        found = found.to(x.dtype)
        return found if self._bias is None else found.add_(self._bias)
