"""Philox4x32-10: random numbers as a pure function of (seed, position).

A counter-based generator (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011;
the Random123 library), so a token's draw depends on no earlier one. This file knows numbers only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))  # golden ratio, sqrt(3) - 1
_LOW = np.uint64(0xFFFFFFFF)
_WORD = np.uint64(32)
_ROUNDS = 10

Words = NDArray[np.uint64]  # [R], each a 32-bit word


def philox4x32(counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]) -> tuple[Words, ...]:
    """Ten rounds over R counters at once: four words [R] in, four out."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        left, right = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (right >> _WORD) ^ c1 ^ k0, right & _LOW, (left >> _WORD) ^ c3 ^ k1, left & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def uniform(seeds: ArrayLike, positions: ArrayLike) -> NDArray[np.float64]:
    """One number in [0, 1) for each (seed, position): uint64 [R], non-negative int below 2**32 [R] -> float64 [R].

    key = the seed's two words, counter = (position, 0, 0, 0), u = ((x0 << 32 | x1) >> 11) * 2**-53.
    """
    seed = np.asarray(seeds, dtype=np.uint64)
    position = np.asarray(positions, dtype=np.uint64)
    zero = np.zeros_like(position)
    x0, x1, _, _ = philox4x32((position & _LOW, zero, zero, zero), (seed & _LOW, seed >> _WORD))
    return ((x0 << _WORD | x1) >> np.uint64(11)).astype(np.float64) * 2.0**-53
