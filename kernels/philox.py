"""Uniform numbers as a pure function of (seed, position).

    (x0, x1, _, _) = Philox4x32-10(counter = (position, 0, 0, 0), key = (seed mod 2³², seed div 2³²))
    u = ((x0 · 2³² + x1) div 2¹¹) · 2⁻⁵³                                                            in [0, 1)

Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011. The same numbers as on the CPU, so a
token's draw is the same wherever it is drawn. This file knows numbers only.
"""

from __future__ import annotations

import triton
import triton.language as tl

_WORD = (1 << 32) - 1


def uniform_reference(seed: int, position: int) -> float:
    """seed: any 64 bits; position: 0 to 2³² - 1."""
    c0, c1, c2, c3 = position & _WORD, 0, 0, 0
    k0, k1 = seed & _WORD, (seed >> 32) & _WORD
    for _ in range(10):
        left, right = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (right >> 32) ^ c1 ^ k0, right & _WORD, (left >> 32) ^ c3 ^ k1, left & _WORD
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return float(((c0 << 32) | c1) >> 11) * 2.0**-53


@triton.jit
def uniform(seed: tl.tensor, position: tl.tensor) -> tl.tensor:
    """seed, position: int64 scalars or tiles -> float64. Words are kept in 64 bits, so products are exact."""
    c0 = position.to(tl.uint64) & 0xFFFFFFFF
    c1 = c0 ^ c0
    c2 = c1
    c3 = c1
    k0 = seed.to(tl.uint64) & 0xFFFFFFFF
    k1 = seed.to(tl.uint64) >> 32
    for _ in tl.static_range(10):
        left = c0 * 0xD2511F53
        right = c2 * 0xCD9E8D57
        c0 = (right >> 32) ^ c1 ^ k0
        c1 = right & 0xFFFFFFFF
        c2 = (left >> 32) ^ c3 ^ k1
        c3 = left & 0xFFFFFFFF
        k0 = (k0 + 0x9E3779B9) & 0xFFFFFFFF
        k1 = (k1 + 0xBB67AE85) & 0xFFFFFFFF
    bits = ((c0 << 32) | c1) >> 11
    return bits.to(tl.int64).to(tl.float64) * 1.1102230246251565e-16
