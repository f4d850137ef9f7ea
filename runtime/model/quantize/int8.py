"""A weight in 8 bits, multiplied with rows in 8 bits: dynamic int8 x int8.

    w[n, k] ~ codes[n, k] * scales[n]           scales[n] = max_k |w[n, k]| / 127
    x[t, k] ~ round(x[t, k] / s[t]) * s[t]      s[t]      = max_k |x[t, k]| / 127, found anew for every row
    y[t, n] = (sum over k of integer products, exact) * scales[n] * s[t]

The sum is one of integers, so a row's result is the same bits whatever other rows are multiplied with it and in
whatever order the processor adds. (Per-row activations and per-channel weights as in LLM.int8(), Dettmers et al.,
2022, without its outliers.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from latticework.runtime.model.quantize.base import Kind, Parts

_STEPS = 127.0
_SMALLEST = 1e-30  # the scale of a row of zeros: 0 / 1e-30 is 0


def int8_parts(weight: Tensor) -> Parts:
    """weight: [outputs, inputs], any float type."""
    wide = weight.to(torch.float32)
    scales = wide.abs().amax(1).clamp_min_(_SMALLEST).div_(_STEPS)
    codes = (wide / scales.unsqueeze(1)).round_().to(torch.int8)
    return {"codes": codes, "scales": scales}


class Int8:
    """A `Form` of int8 codes. A row with NaN or infinity gives NaN."""

    kind: Kind = "int8"

    def __init__(self, parts: Parts, bias: Tensor | None) -> None:
        codes = parts["codes"]
        self._scales = parts["scales"]
        self._zero_points = torch.zeros(len(codes), dtype=torch.int64)
        self._codes: Tensor = torch.ops.onednn.qlinear_prepack(codes, None)
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:  # [T, inputs] -> [T, outputs]
        steps, scales = row_codes(x)
        found: Tensor = torch.ops.onednn.qlinear_pointwise(
            steps,
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
        found = found.mul_(scales)
        return (found if self._bias is None else found.add_(self._bias)).to(x.dtype)


def row_codes(x: Tensor) -> tuple[Tensor, Tensor]:
    """x: [T, inputs] -> int8 codes [T, inputs] and float32 scales [T, 1], so that x ~ codes * scales."""
    wide = x.to(torch.float32)  # once: torch is slow where types are mixed
    scales = wide.abs().amax(1, keepdim=True).clamp_min_(_SMALLEST).div_(_STEPS)
    return (wide / scales).round_().to(torch.int8), scales
