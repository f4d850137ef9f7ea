"""Memory for packed weights, in large pages where the system has them.

A step reads all weights once, in pages of 4 KiB tens of thousands of them: looking up where each lies takes a fifth of
the time. Large pages hold 2 MiB, and so several matrices. This file knows no form.
"""

from __future__ import annotations

import contextlib
import math
import mmap

import torch
from torch import Tensor

from latticework.lang.errors import ModelError

_PAGE = 2 << 20
_CHUNK = 64 << 20  # of addresses; memory is taken page by page
_LINE = 64  # bytes: a load that lies in two lines of the cache takes twice as long


class Arena:
    """Gives out pieces of chunks one after the other. A chunk lives as long as any tensor in it."""

    def __init__(self) -> None:
        self._rest = torch.empty(0, dtype=torch.uint8)  # of the newest chunk

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """From the start of a cache line on. Raises ModelError where memory is too small."""
        size = math.prod(shape) * dtype.itemsize
        lines = size + -size % _LINE
        if lines > len(self._rest):
            self._rest = _chunk(max(lines, _CHUNK))
        piece, self._rest = self._rest[:size], self._rest[lines:]
        return piece.view(dtype).view(shape)

    def place(self, tensor: Tensor) -> Tensor:
        """A copy of a contiguous tensor. Raises as `empty` does."""
        return self.empty(tuple(tensor.shape), tensor.dtype).copy_(tensor)


def _chunk(size: int) -> Tensor:
    """[size] bytes from the start of a large page on."""
    try:
        memory = mmap.mmap(-1, size + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, ValueError) as error:
        raise ModelError(f"{size >> 20} MiB of packed weights do not fit into memory: {error}") from None
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a Linux without
            memory.madvise(mmap.MADV_HUGEPAGE)
    chunk = torch.frombuffer(memory, dtype=torch.uint8)
    start = -chunk.data_ptr() % _PAGE
    return chunk[start : start + size]
