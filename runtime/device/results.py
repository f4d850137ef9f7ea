"""What a step has drawn, brought to the host: at once, or by a copy that nobody waits for until it is needed.

    PinnedResults   on CUDA: into page-locked memory, behind the step, with an event that tells of its end
    CopiedResults   elsewhere: the step is over when its launch returns; the next one draws into the same place

This file knows no sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latticework.runtime.device.buffers import Drawn


@dataclass(frozen=True, slots=True)
class Told:
    """`Drawn` as arrays. ids and numbers: [N], and the likeliest: [N, K]."""

    tokens: NDArray[np.int64]
    status: NDArray[np.int32]
    logprobs: NDArray[np.float64]
    likeliest: NDArray[np.int64]
    theirs: NDArray[np.float64]


class Results(Protocol):
    """Of one step."""

    def wait(self) -> Told:
        """Returns when the step is over. Raises what went wrong on the device."""
        ...


class CopiedResults:
    def __init__(self, drawn: Drawn) -> None:
        self._told = _told([tensor.clone() for tensor in drawn.tensors()])

    def wait(self) -> Told:
        return self._told


class PinnedResults:
    """into: page-locked tensors like those of `drawn`, nobody else's until `wait` has returned."""

    def __init__(self, drawn: Drawn, into: Drawn) -> None:
        for tensor, target in zip(drawn.tensors(), into.tensors(), strict=True):
            target.copy_(tensor, non_blocking=True)
        self._into = into
        self._event = torch.cuda.Event()
        self._event.record()

    def wait(self) -> Told:
        self._event.synchronize()
        return _told([tensor.clone() for tensor in self._into.tensors()])


class Reader:
    """Makes the results of steps that follow each other, two under way at most."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self._turn = 0
        self._pinned: list[Drawn] = []
        if device.type == "cuda":
            self._pinned = [
                Drawn(*(tensor.pin_memory() for tensor in Drawn.empty(rows, torch.device("cpu")).tensors()))
                for _ in range(2)
            ]

    def read(self, drawn: Drawn) -> Results:
        """To be called right behind the step's launch."""
        if not self._pinned:
            return CopiedResults(drawn)
        self._turn = 1 - self._turn
        return PinnedResults(drawn, self._pinned[self._turn])


def _told(tensors: list[Tensor]) -> Told:
    return Told(*(tensor.numpy() for tensor in tensors))
