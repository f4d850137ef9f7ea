"""x[i], x[i + half] = x[i] cos[i] - x[i + half] sin[i], x[i + half] cos[i + half] + x[i] sin[i + half], for every head.

Rotary position embedding (Su et al., 2021) with halves rotated as transformers does; half of the rotary dimensions,
which are a head's first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latticework.kernels.cpu.library import Library


def rotate(library: Library, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x: [T, heads, head_dim], each token's heads contiguous; cos, sin: [T, 1, rotary_dim], contiguous. Changes x, and
    returns it."""
    tokens, heads, head_dim = x.shape
    assert x.stride()[1:] == (head_dim, 1)
    library.rotate[x.dtype](
        x.data_ptr(),
        x.stride(0),
        cos.data_ptr(),
        sin.data_ptr(),
        tokens,
        heads,
        head_dim,
        cos.shape[-1],
        library.threads,
    )
    return x


def rotate_reference(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The same, leaving x as it is."""
    turning = cos.shape[-1]
    if turning < x.shape[-1]:
        return torch.cat((rotate_reference(x[..., :turning], cos, sin), x[..., turning:]), dim=-1)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
