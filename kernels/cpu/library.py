"""The built library's functions, by operation and dtype. Knows pointers and numbers; what they mean is in each
operation's file."""

from __future__ import annotations

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
        self.draw = _by_dtype(loaded, "draw")
        self.uniforms = loaded.uniforms
        self.uniforms.argtypes, self.uniforms.restype = [POINTER, POINTER, POINTER, INTEGER], None
        self.plan_attention = loaded.plan_attention
        self.plan_attention.argtypes = [POINTER, POINTER, INTEGER, POINTER, POINTER, INTEGER, POINTER, POINTER]
        self.plan_attention.restype = None
        loaded.vector_bytes.restype = loaded.has_tiles.restype = INTEGER
        self.vector_bytes: int = loaded.vector_bytes()
        self.uses_tiles = bool(loaded.has_tiles())  # matrix registers (AMX)


def _by_dtype(loaded: CDLL, operation: str) -> dict[torch.dtype, Callable[..., Any]]:
    functions = {}
    for dtype, name in DTYPES.items():
        function = getattr(loaded, f"{operation}_{name}")
        function.argtypes, function.restype = list(_ARGUMENTS[operation]), None
        functions[dtype] = function
    return functions
