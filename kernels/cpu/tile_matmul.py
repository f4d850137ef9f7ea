"""Rows of bfloat16 times a weight of bfloat16, in the matrix registers of AMX.

    y[t, n] = sum_k x[t, k] w[n, k] + bias[n]       products exact, summed in float32 in the order of k, two by two

A row's result is the same bits whatever other rows are multiplied with it. Each column of 32 outputs is read from
memory once, and threads take columns as they come to be free: one that is held up holds up nobody for long.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_void_p

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from latticework.kernels.cpu.library import Library

_BLOCK, _PAIRS = 16, 16  # outputs of a tile, and pairs of its inputs


class TileWeight(ctypes.Structure):
    """What C++ knows of a packed weight."""

    _fields_ = [
        *((name, c_void_p) for name in ("tiles", "bias")),
        *((name, c_int64) for name in ("outputs", "inputs", "gap")),
    ]


class TilePacked:
    """A weight as the library reads it: [columns, inputs / 32, 2 blocks, 16 pairs, 16 outputs, 2].

    A column's two blocks are neighbours; or, halved, outputs of the first half and those of the second that belong to
    them: the gate and the rest of an MLP.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, halved: bool = False) -> None:
        """weight: [outputs, inputs] bfloat16, see `packs`; bias: [outputs] bfloat16."""
        assert packs(weight, halved), "a weight that does not fit into tiles"
        self.outputs, self.inputs = weight.shape
        pairs = pad(weight, (0, 0, 0, -self.outputs % (2 * _BLOCK))).contiguous().view(torch.int32)
        depth = self.inputs // (2 * _PAIRS)
        if halved:  # [2 halves, column, output, d, pair]
            blocks = pairs.view(2, -1, _BLOCK, depth, _PAIRS).permute(1, 3, 0, 4, 2)
        else:  # [column, block, output, d, pair]
            blocks = pairs.view(-1, 2, _BLOCK, depth, _PAIRS).permute(0, 3, 1, 4, 2)
        self._tiles = blocks.contiguous()
        self._bias = bias
        self.is_halved = halved
        self.described = TileWeight(
            self._tiles.data_ptr(),
            None if bias is None else bias.data_ptr(),
            self.outputs,
            self.inputs,
            self.outputs // 2 if halved else _BLOCK,
        )


def packs(weight: Tensor, halved: bool = False) -> bool:
    """Whether a weight fits into tiles."""
    outputs, inputs = weight.shape
    return weight.dtype == torch.bfloat16 and inputs % 32 == 0 and not (halved and outputs % 32)


def tile_matmul(library: Library, x: Tensor, weight: TilePacked) -> Tensor:
    """x: [T, inputs] bfloat16 -> [T, outputs] bfloat16."""
    x = x.contiguous()
    out = torch.empty((len(x), weight.outputs), dtype=torch.bfloat16)
    library.tile_matmul(x.data_ptr(), ctypes.addressof(weight.described), out.data_ptr(), len(x), library.threads)
    return out


def tile_matmul_reference(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """weight: [outputs, inputs], as it was before it was packed; summed in float32 or better."""
    found = linear(x.float(), weight.float(), None if bias is None else bias.float())
    return found.to(x.dtype)
