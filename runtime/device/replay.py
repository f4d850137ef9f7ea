"""A step over static tensors that can be done again and again: captured as a CUDA graph, or called anew.

    CapturedGraph   what the function launched when it was captured, launched at once: no Python, no gaps
    Called          the function itself, on the same tensors: where there is no CUDA, and with cuda_graphs off

Both do the same to the same tensors, so whatever decides what is replayed, and when, is tested without a GPU. This file
knows no step.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from torch.cuda import _POOL_HANDLE

Step = Callable[[], None]
"""Reads and writes tensors that stay where they are; waits for nothing on the device."""


class Replay(Protocol):
    """One step, ready to be done."""

    def replay(self) -> None: ...


class Called:
    """The step as Python."""

    def __init__(self, step: Step) -> None:
        self._step = step

    def replay(self) -> None:
        self._step()


class CapturedGraph:
    """The step as a CUDA graph. Owner of the graph; its memory is shared with others of the same pool, one of which
    runs at a time.

    kept: undoes what trying the step out does; it is tried first, as kernels are compiled and libraries set up then.
    Raises what the step raises, and RuntimeError where it cannot be captured.
    """

    def __init__(self, step: Step, kept: Callable[[], AbstractContextManager[None]], pool: _POOL_HANDLE) -> None:
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside), kept():
            step()
        torch.cuda.current_stream().wait_stream(beside)
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            step()

    def replay(self) -> None:
        self._graph.replay()
