"""y = x / sqrt(mean(x^2) + eps) * (offset + weight), over the last dimension; or of a sum that is wanted, too.

Root mean square layer normalisation (Zhang and Sennrich, 2019). The mean and all products are float32 or better and
rounded once.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from latticework.kernels.cpu.library import Library


def rms_norm(library: Library, x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """x: [..., size]; weight: [size], contiguous -> x's shape, contiguous."""
    x = x.contiguous()
    out = torch.empty_like(x)
    size = len(weight)
    library.rms_norm[x.dtype](
        x.data_ptr(),
        None,
        weight.data_ptr(),
        None,
        out.data_ptr(),
        x.numel() // size,
        size,
        eps,
        offset,
        library.threads,
    )
    return out


def add_rms_norm(
    library: Library, x: Tensor, part: Tensor, weight: Tensor, eps: float, offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    """x, part: [T, size] -> x + part, as x's type, and its norm."""
    x, part = x.contiguous(), part.contiguous()
    total, out = torch.empty_like(x), torch.empty_like(x)
    rows, size = x.shape
    library.rms_norm[x.dtype](
        x.data_ptr(),
        part.data_ptr(),
        weight.data_ptr(),
        total.data_ptr(),
        out.data_ptr(),
        rows,
        size,
        eps,
        offset,
        library.threads,
    )
    return total, out


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    if not offset:
        return functional.rms_norm(x, (x.shape[-1],), weight, eps)
    work = torch.promote_types(x.dtype, torch.float32)
    return functional.rms_norm(x.to(work), (x.shape[-1],), weight.to(work) + offset, eps).to(x.dtype)


def add_rms_norm_reference(
    x: Tensor, part: Tensor, weight: Tensor, eps: float, offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    total = x + part
    return total, rms_norm_reference(total, weight, eps, offset)
