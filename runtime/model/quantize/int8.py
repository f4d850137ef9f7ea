"""A weight in 8 bits, multiplied with rows in two halves of 8 bits: dynamic int8 x int8, twice.

    w[n, k] ~ codes[n, k] * scales[n]           scales[n] = max_k |w[n, k]| / 127
    x[t, k] ~ steps[t, k] * s[t]                s[t]      = max_k |x[t, k]| / (127 * 128), found anew for every row
    steps   = 128 * high + low                  high in -127 .. 127, low in -64 .. 64
    y[t, n] = (128 * sum_k high * codes + sum_k low * codes) * scales[n] * s[t]

One half would do for most rows, but the inputs of some matrices hold single numbers a hundred times as large as the
rest, of which 8 bits leave nothing: in SmolLM2 that costs 3 % of perplexity, two halves cost nothing that shows. Both
are rows of one product, and as long as rows are few, twice as many take hardly longer.

The sums are of integers, exact, so a row's result is the same bits whatever other rows are multiplied with it and in
whatever order the processor adds. (Scales by row and by channel: LLM.int8(), Dettmers et al., 2022, which leaves its
outliers in float16 instead.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from latticework.runtime.model.quantize.base import Kind, Parts

_STEPS = 127.0
_HALF = 128.0  # of a step of the high half, in steps of the low one
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
        found = torch.add(found[len(x) :], found[: len(x)], alpha=_HALF).mul_(scales)
        return (found if self._bias is None else found.add_(self._bias)).to(x.dtype)


def row_halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """x: [T, inputs] -> int8 [2 T, inputs], the high halves before the low ones, and float32 scales [T, 1], so that
    x ~ (128 * high + low) * scales."""
    wide = x.to(torch.float32)  # once: torch is slow where types are mixed
    scales = wide.abs().amax(1, keepdim=True).clamp_min_(_SMALLEST).div_(_STEPS * _HALF)
    steps = (wide / scales).round_()
    high = (steps * (1 / _HALF)).round_()
    halves = torch.empty((2 * len(x), x.shape[1]), dtype=torch.int8)
    halves[len(x) :].copy_(steps.sub_(high, alpha=_HALF))
    halves[: len(x)].copy_(high)
    return halves, scales
