"""A weight in 8 bits, multiplied with rows in two halves of 8 bits: the formula is in `kernels/cpu/int8_matmul.py`.

One half would do for most rows, but the inputs of some matrices hold single numbers a hundred times as large as the
rest, of which 8 bits leave nothing: in SmolLM2 that costs 3 % of perplexity, two halves cost nothing that shows. Both
are rows of one product, and as long as rows are few, twice as many take hardly longer.

This file computes with torch's product of int8 matrices; see `native.py` for ours. (Scales by row and by channel:
LLM.int8(), Dettmers et al., 2022, which leaves its outliers in float16 instead.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from latticework.kernels.cpu.int8_matmul import HALF, SMALLEST, STEPS, row_halves
from latticework.runtime.model.quantize.base import Kind, Parts


def int8_parts(weight: Tensor) -> Parts:
    """weight: [outputs, inputs], any float type."""
    wide = weight.to(torch.float32)
    scales = wide.abs().amax(1).clamp_min_(SMALLEST).div_(STEPS)
    codes = (wide / scales.unsqueeze(1)).round_().to(torch.int8)
    return {"codes": codes, "scales": scales}


class Int8:
    """A `Form` of int8 codes. A row with NaN or infinity gives NaN."""

    kind: Kind = "int8"
    pads = True  # oneDNN, too, compiles for each number of rows

    def __init__(self, parts: Parts, bias: Tensor | None) -> None:
        codes = parts["codes"]
        self._scales = parts["scales"]
        self._zero_points = torch.zeros(len(codes), dtype=torch.int64)
        self._codes: Tensor = torch.ops.onednn.qlinear_prepack(codes, None)
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:  # [T, inputs] -> [T, outputs]
        halves, scales = row_halves(x)
        found: Tensor = torch.ops.onednn.qlinear_pointwise(
            halves,
            1.0,  # rows have scales of their own, so that none depends on another
            0,
            self._codes,
            self._scales,
            self._zero_points,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        found = torch.add(found[len(x) :], found[: len(x)], alpha=HALF).mul_(scales)
        return (found if self._bias is None else found.add_(self._bias)).to(x.dtype)
