"""The built library's functions, by operation and dtype. Knows pointers and numbers; what they mean is in each
operation's file."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable
from ctypes import CDLL
from pathlib import Path
from typing import Any

import torch

DTYPES = {torch.float64: "float64", torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
POINTER, INTEGER, NUMBER = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
_ARGUMENTS = {
    "paged_attention": (POINTER, POINTER),
    "rms_norm": (POINTER, POINTER, POINTER, POINTER, POINTER, INTEGER, INTEGER, NUMBER, NUMBER, INTEGER),
    "rotate": (POINTER, INTEGER, POINTER, POINTER, INTEGER, INTEGER, INTEGER, INTEGER, INTEGER),
    "gate": (POINTER, POINTER, INTEGER, INTEGER, INTEGER, INTEGER),
    "int4_matmul": (*[POINTER] * 6, *[INTEGER] * 5),
    "int8_matmul": (*[POINTER] * 8, *[INTEGER] * 5),
    "draw": (POINTER, INTEGER, INTEGER, POINTER, POINTER, INTEGER),
}


class Library:
    """One loaded library; it stays loaded as long as the process. Raises OSError for a file that is none.

    threads: how many each operation may use, torch's own number when the library is loaded.
    """

    def __init__(self, path: Path) -> None:
        loaded = CDLL(str(path))
        self.path = path
        self.threads = torch.get_num_threads()
        self.paged_attention = _by_dtype(loaded, "paged_attention")
        self.rms_norm = _by_dtype(loaded, "rms_norm")
        self.rotate = _by_dtype(loaded, "rotate")
        self.gate = _by_dtype(loaded, "gate")
        self.int4_matmul = _by_dtype(loaded, "int4_matmul", but=torch.float64)
        self.int8_matmul = _by_dtype(loaded, "int8_matmul", but=torch.float64)
        self.decoder_layers = loaded.decoder_layers
        self.decoder_layers.argtypes, self.decoder_layers.restype = [POINTER, POINTER], None
        self.draw = _by_dtype(loaded, "draw")
        self.uniforms = loaded.uniforms
        self.uniforms.argtypes, self.uniforms.restype = [POINTER, POINTER, POINTER, INTEGER], None
        self.plan_attention = loaded.plan_attention
        self.plan_attention.argtypes = [POINTER, POINTER, INTEGER, POINTER, POINTER, INTEGER, POINTER, POINTER]
        self.plan_attention.restype = None
        self.pack_tiles = loaded.pack_tiles
        self.pack_tiles.argtypes, self.pack_tiles.restype = [POINTER, POINTER, INTEGER, INTEGER, INTEGER], None
        self.bfloat16_matmul = loaded.bfloat16_matmul
        self.bfloat16_matmul.argtypes, self.bfloat16_matmul.restype = [*[POINTER] * 5, *[INTEGER] * 4], None
        for fact in (loaded.vector_bytes, loaded.has_tiles, loaded.has_byte_products):
            fact.restype = INTEGER
        self.vector_bytes: int = loaded.vector_bytes()
        self.uses_tiles = bool(loaded.has_tiles())  # matrix registers (AMX)
        self.multiplies_bytes = bool(loaded.has_byte_products())  # int8_matmul and int4_matmul compute (AVX-512 VNNI)

    def without_tiles(self) -> Library:
        """The same for a processor that lacks matrix registers."""
        plain = copy.copy(self)
        plain.uses_tiles = False
        return plain


def _by_dtype(loaded: CDLL, operation: str, but: torch.dtype | None = None) -> dict[torch.dtype, Callable[..., Any]]:
    functions = {}
    for dtype, name in DTYPES.items():
        if dtype == but:
            continue
        function = getattr(loaded, f"{operation}_{name}")
        function.argtypes, function.restype = list(_ARGUMENTS[operation]), None
        functions[dtype] = function
    return functions
