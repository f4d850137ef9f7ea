"""A weight in 4 bits: 16 steps for every group of 32 neighbours in a row.

    w[n, 32 g + i] = (codes[n, 32 g + i] - 8) * scales[n, g] + zeros[n, g]

What GGUF's Q4_0 (zeros are 0) and Q4_1 hold becomes this without loss. This file knows how such a weight is made and
read back, and not how it is multiplied with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 32
_MIDDLE, _HIGHEST = 8, 15


@dataclass(frozen=True, slots=True)
class FourBit:
    """codes: [outputs, inputs] uint8, 0 to 15. scales, zeros: [outputs, inputs / 32] float32."""

    codes: Tensor
    scales: Tensor
    zeros: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.codes.shape

    def dense(self) -> Tensor:
        """The values, [outputs, inputs] float32."""
        steps = self.codes.unflatten(1, (-1, GROUP)).to(torch.float32) - _MIDDLE
        return torch.addcmul(self.zeros.unsqueeze(2), steps, self.scales.unsqueeze(2)).flatten(1)

    def in_bfloat16(self) -> FourBit:
        """With scales and zeros rounded to bfloat16, as the kernel has them."""
        scales, zeros = (part.to(torch.bfloat16).to(torch.float32) for part in (self.scales, self.zeros))
        return FourBit(self.codes, scales, zeros)

    def reordered(self, rows: Tensor) -> FourBit:
        """rows: [outputs] int64, which row comes where."""
        return FourBit(self.codes[rows], self.scales[rows], self.zeros[rows])

    @staticmethod
    def joined(parts: Sequence[FourBit]) -> FourBit:
        """One below the other."""
        return FourBit(
            torch.cat([part.codes for part in parts]),
            torch.cat([part.scales for part in parts]),
            torch.cat([part.zeros for part in parts]),
        )

    @staticmethod
    def rounded(weight: Tensor) -> FourBit:
        """The nearest of 16 steps from each group's lowest to its highest value. weight: [outputs, inputs], inputs a
        multiple of 32."""
        groups = weight.to(torch.float32).unflatten(1, (-1, GROUP))
        low, high = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
        scales = (high - low) / _HIGHEST
        steps = (groups - low) / scales.clamp_min(torch.finfo(torch.float32).tiny)
        codes = steps.round_().clamp_(0, _HIGHEST).to(torch.uint8)
        zeros = low + _MIDDLE * scales
        return FourBit(codes.flatten(1), scales.squeeze(2), zeros.squeeze(2))
