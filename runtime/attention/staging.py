"""A step's index arrays onto a device: packed into one buffer, sent in one copy that nobody waits for.

    host, pinned   | tokens | positions | rows ..|    filled while the device still computes the step before
                          one copy, in its stream
    device         | tokens | positions | rows ..|    views of it are what kernels read

Buffers are kept from step to step, two of each in turn. One is filled again when the device has read it, which it has
long before that; on the device a copy comes after the kernels of the step that read the same bytes, as both are in one
stream. This file knows arrays, and nothing of what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ALIGNED = 64  # bytes: kernels are compiled for pointers that are multiples of 16
_FIRST_SIZE = 1 << 16  # bytes; doubled whenever a step needs more


class Staging(Protocol):
    """How numpy arrays get to where a model computes."""

    def put(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
        """The arrays as tensors there, by name, of the same shapes and types. They may be written over by the second
        `put` after this one."""
        ...


def make_staging(device: torch.device) -> Staging:
    return InPlace() if device.type == "cpu" else Buffered(device)


class InPlace:
    """A `Staging` for a CPU: the arrays' own memory."""

    def put(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


class Buffered:
    """A `Staging` for a GPU. Owner of its buffers; one thread, one stream."""

    def __init__(self, device: torch.device, size: int = _FIRST_SIZE, pinned: bool = True) -> None:
        """size: bytes to begin with. pinned: False where there is no CUDA: in tests."""
        self._device, self._pinned = device, pinned
        self._buffers = [self._make(size) for _ in range(2)]
        self._next = 0

    def put(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
        places: list[int] = []
        end = 0
        for array in arrays.values():
            places.append(end)
            end += -(-array.nbytes // ALIGNED) * ALIGNED
        buffer = self._buffer(end)
        buffer.wait()
        for place, array in zip(places, arrays.values(), strict=True):
            target = buffer.numbers[place : place + array.nbytes].view(array.dtype).reshape(array.shape)
            np.copyto(target, array)
        buffer.send(end)
        return {name: buffer.of(place, array) for place, (name, array) in zip(places, arrays.items(), strict=True)}

    def _buffer(self, size: int) -> _Buffer:
        """The next in turn, at least so large."""
        index, self._next = self._next, 1 - self._next
        have = len(self._buffers[index].numbers)
        if size > have:
            self._buffers[index] = self._make(max(size, 2 * have))
        return self._buffers[index]

    def _make(self, size: int) -> _Buffer:
        return _Buffer(self._device, size, self._pinned)


class _Buffer:
    """The same bytes on both sides."""

    def __init__(self, device: torch.device, size: int, pinned: bool) -> None:
        self._host = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        self._there = torch.empty(size, dtype=torch.uint8, device=device)
        self._read = torch.cuda.Event() if pinned else None
        self.numbers: NDArray[np.uint8] = self._host.numpy()

    def wait(self) -> None:
        """Until the device has read what was sent last."""
        if self._read is not None:
            self._read.synchronize()

    def send(self, size: int) -> None:
        self._there[:size].copy_(self._host[:size], non_blocking=True)
        if self._read is not None:
            self._read.record()

    def of(self, place: int, array: NDArray[Any]) -> Tensor:
        """What was sent from `place` on, as a tensor like `array`."""
        kind = torch.from_numpy(np.empty(0, array.dtype)).dtype
        return self._there[place : place + array.nbytes].view(kind).view(array.shape)
