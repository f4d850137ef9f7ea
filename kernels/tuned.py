"""How kernels are compiled: blocks, warps and stages, by kernel, architecture, bits of a number and padded width.

A launch's options never depend on what else is in the batch, so neither do a sequence's bits. `python -m
latticework.kernels.tune` measures candidates on a GPU and writes the table anew. Architectures that are not in
MEASURED_ON were never measured: their rows were chosen by what the compiler reports (registers, spills, shared memory).
"""

from __future__ import annotations

import triton

Options = dict[str, int]
Row = tuple[int, int, int]
"""Architecture, bits of a number, width. A row serves newer architectures and smaller widths without one of their own.
Widths: a head's, for attention; for matrix products how many rows x has, 16 for up to 16 and 64 for more."""

MEASURED_ON: dict[int, str] = {}

TABLE: dict[str, dict[Row, Options]] = {
    "int4_matmul": {
        (80, 16, 16): {"ROWS": 16, "COLUMNS": 64, "DEPTH": 128, "num_warps": 4, "num_stages": 3},
        (80, 16, 64): {"ROWS": 64, "COLUMNS": 64, "DEPTH": 64, "num_warps": 4, "num_stages": 3},
        (80, 32, 16): {"ROWS": 16, "COLUMNS": 64, "DEPTH": 32, "num_warps": 8, "num_stages": 2},
        (80, 32, 64): {"ROWS": 64, "COLUMNS": 64, "DEPTH": 32, "num_warps": 8, "num_stages": 2},
    },
    "int8_matmul": {
        (80, 16, 16): {"ROWS": 16, "COLUMNS": 32, "DEPTH": 128, "num_warps": 4, "num_stages": 3},
        (80, 16, 64): {"ROWS": 64, "COLUMNS": 64, "DEPTH": 64, "num_warps": 4, "num_stages": 3},
        (80, 32, 16): {"ROWS": 16, "COLUMNS": 64, "DEPTH": 32, "num_warps": 8, "num_stages": 2},
        (80, 32, 64): {"ROWS": 64, "COLUMNS": 64, "DEPTH": 32, "num_warps": 8, "num_stages": 2},
    },
    "paged_decode": {
        (80, 16, 64): {"BLOCK": 64, "num_warps": 4, "num_stages": 3},
        (80, 16, 256): {"BLOCK": 32, "num_warps": 4, "num_stages": 3},
        (80, 32, 128): {"BLOCK": 32, "num_warps": 8, "num_stages": 3},
        (80, 32, 256): {"BLOCK": 16, "num_warps": 8, "num_stages": 3},
    },
    "paged_extend": {
        (80, 16, 64): {"ROWS": 64, "BLOCK": 64, "num_warps": 4, "num_stages": 3},
        (80, 16, 128): {"ROWS": 128, "BLOCK": 64, "num_warps": 8, "num_stages": 2},
        (80, 16, 256): {"ROWS": 64, "BLOCK": 32, "num_warps": 8, "num_stages": 2},
        (80, 32, 64): {"ROWS": 32, "BLOCK": 32, "num_warps": 8, "num_stages": 2},
        (80, 32, 128): {"ROWS": 32, "BLOCK": 16, "num_warps": 8, "num_stages": 2},
        (80, 32, 256): {"ROWS": 16, "BLOCK": 16, "num_warps": 8, "num_stages": 1},
        (90, 16, 64): {"ROWS": 128, "BLOCK": 128, "num_warps": 8, "num_stages": 2},
        (90, 16, 128): {"ROWS": 128, "BLOCK": 64, "num_warps": 8, "num_stages": 2},
        (90, 16, 256): {"ROWS": 64, "BLOCK": 64, "num_warps": 8, "num_stages": 2},
    },
}


def tuned(kernel: str, capability: int, bits: int, width: int) -> Options:
    """The options of the newest architecture up to `capability` whose rows hold `width`, padded, of `bits` each."""
    rows = TABLE[kernel]
    padded = pad(width)
    fitting = [row for row in rows if row[0] <= capability and row[1] == bits and row[2] >= padded]
    if not fitting:
        raise ValueError(f"{kernel}: no program for {bits}-bit numbers of width {width} on sm_{capability}")
    return rows[min(fitting, key=lambda row: (-row[0], row[2]))]


def pad(width: int) -> int:
    """To a power of two, and to what tensor cores multiply at least."""
    return max(16, triton.next_power_of_2(width))
