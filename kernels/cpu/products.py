"""What C++ knows of a weight in one form, where a team of threads multiplies with it: see products.h."""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_void_p

from torch import Tensor

BFLOAT16, INT8, INT4 = range(3)
_TILE, _GROUP, _SHARED = 16, 32, 16  # rows; inputs of 4-bit codes that share a scale, and bytes that they share


class Product(ctypes.Structure):
    """kind: one of the above. packed, scales, sums: as the form's own file tells. The tensors it was made of live as
    long as it does."""

    _fields_ = [
        ("kind", c_int64),
        *((name, c_void_p) for name in ("packed", "scales", "sums", "bias")),
        *((name, c_int64) for name in ("outputs", "inputs")),
    ]

    tensors: dict[str, Tensor | None]

    @classmethod
    def of(
        cls,
        kind: int,
        outputs: int,
        inputs: int,
        packed: Tensor,
        scales: Tensor | None = None,
        sums: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Product:
        tensors = {"packed": packed, "scales": scales, "sums": sums, "bias": bias}
        addresses = {name: None if tensor is None else tensor.data_ptr() for name, tensor in tensors.items()}
        made = cls(kind=kind, outputs=outputs, inputs=inputs, **addresses)
        made.tensors = tensors
        return made


def laid_bytes(rows: int, inputs: int) -> int:
    """Room for so many rows of up to so many inputs, in any form."""
    return -(-rows // _TILE) * _TILE * -(-inputs // 64) * 64 * 2


def shared_bytes(rows: int, inputs: int) -> int:
    """Room for what numbers of these rows share."""
    return -(-rows // _TILE) * _TILE * -(-inputs // _GROUP) * _SHARED
