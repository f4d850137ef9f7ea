"""Weights as tile registers read them: blocks of 16 outputs and 16 words turned, a word being neighbours of 32 bits.

    packed[column, depth, half, word, output] = words[32 column + 16 half + output, 16 depth + word]

A word is two inputs of bfloat16, or four of int8. Beyond the ends there are zeros.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from latticework.kernels.cpu.library import Library

COLUMN, SIDE = 32, 16

Empty = Callable[[tuple[int, ...], torch.dtype], Tensor]
"""Memory of a shape and type, contiguous."""


def pack_tiles(library: Library, words: Tensor, empty: Empty) -> Tensor:
    """words: [outputs, words] int32, contiguous -> [columns, depth, 2, 16, 16] int32, from `empty`."""
    outputs, count = words.shape
    packed = empty((-(-outputs // COLUMN), -(-count // SIDE), 2, SIDE, SIDE), torch.int32)
    library.pack_tiles(words.data_ptr(), packed.data_ptr(), outputs, count, library.threads)
    return packed


def pack_tiles_reference(words: Tensor) -> Tensor:
    outputs, count = words.shape
    whole = pad(words, (0, -count % SIDE, 0, -outputs % COLUMN))
    return whole.view(-1, 2, SIDE, whole.shape[1] // SIDE, SIDE).permute(0, 3, 1, 4, 2).contiguous()
