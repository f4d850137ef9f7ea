"""How fast the device at hand copies and multiplies: what everything else is a share of."""

from __future__ import annotations

import torch

from benchmarks.gpu.device import Device
from benchmarks.gpu.rows import Limits


def limits(device: Device) -> Limits:
    """Random numbers: products of zeros can be faster than any real ones."""
    numbers, size = (1 << 16, 64) if device.machine().interpreted else (1 << 30, 8192)
    source = torch.randn(numbers, dtype=torch.bfloat16, device=device.torch_device)
    target = torch.empty_like(source)
    copy = device.time(lambda: target.copy_(source), 0.5)
    left, right = (torch.randn(size, size, dtype=torch.bfloat16, device=device.torch_device) for _ in range(2))
    out = torch.empty_like(left)
    matmul = device.time(lambda: torch.mm(left, right, out=out), 0.5)
    moved = 2 * numbers * source.element_size()
    return Limits(copy=moved / copy.seconds, matmul=2 * size**3 / matmul.seconds)
