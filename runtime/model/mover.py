"""Weights from files onto a device, one at a time: the host never holds more than a window of them.

    mapped file -> pinned buffer 0 -> device        while the device copies out of one buffer,
                -> pinned buffer 1 -> device        the host fills the other

A copy out of memory that is not pinned goes through a buffer of the driver's, and the host waits for every piece of it;
with two of our own, reading the file and copying overlap. This file knows bytes, and no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from latticework.runtime.model.quantize.four_bit import FourBit
from latticework.runtime.model.weights import Weight

WINDOW = 32 << 20  # bytes of a buffer
_WORTH_IT = 1 << 20  # smaller tensors take no longer without


class Mover:
    """Owner of the buffers, which go with it."""

    def __init__(self, device: torch.device, window: int = WINDOW, pinned: bool = True) -> None:
        """pinned: False where there is no CUDA: in tests."""
        self._device = device
        self._buffers = [torch.empty(window, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]
        self._left = [torch.cuda.Event() if pinned else None for _ in self._buffers]  # when the device has read them
        self._next = 0

    def move(self, tensor: Tensor) -> Tensor:
        """The tensor on the device, of the same type and shape."""
        if tensor.device.type != "cpu":  # made there
            return tensor
        if tensor.nbytes < _WORTH_IT:
            return tensor.to(self._device)
        source = tensor.contiguous().view(-1).view(torch.uint8)
        found = torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device)
        self._copy(source, found.view(-1).view(torch.uint8))
        return found

    def _copy(self, source: Tensor, target: Tensor) -> None:
        """uint8 [N] each."""
        window = len(self._buffers[0])
        for start in range(0, len(source), window):
            buffer, left = self._buffers[self._next], self._left[self._next]
            self._next = 1 - self._next
            if left is not None:
                left.synchronize()
            part = buffer[: min(window, len(source) - start)]
            part.copy_(source[start : start + len(part)])
            target[start : start + len(part)].copy_(part, non_blocking=True)
            if left is not None:
                left.record()


def moved(weights: Iterable[tuple[str, Weight]], mover: Mover) -> Iterator[tuple[str, Weight]]:
    """Each of them on the mover's device."""
    for name, weight in weights:
        if isinstance(weight, FourBit):
            yield name, FourBit(mover.move(weight.codes), mover.move(weight.scales), mover.move(weight.zeros))
        else:
            yield name, mover.move(weight)
