"""Philox4x32-10 against Random123's published vectors and a scalar twin."""

import numpy as np
import pytest

from latticework.runtime.sample.philox import philox4x32, uniform

# Random123, tests/kat_vectors, "philox4x32 10": counter, key, output
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def words(*numbers: int) -> tuple[np.ndarray, ...]:
    return tuple(np.array([number], dtype=np.uint64) for number in numbers)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_the_published_vectors_are_met(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    c0, c1, c2, c3 = words(*counter)
    k0, k1 = words(*key)
    assert tuple(int(word[0]) for word in philox4x32((c0, c1, c2, c3), (k0, k1))) == expected


def scalar_uniform(seed: int, position: int) -> float:
    c = [position, 0, 0, 0]
    k = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        left, right = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(right >> 32) ^ c[1] ^ k[0], right & 0xFFFFFFFF, (left >> 32) ^ c[3] ^ k[1], left & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return ((c[0] << 32 | c[1]) >> 11) * 2.0**-53


def test_each_draw_depends_on_its_own_seed_and_position_alone() -> None:
    seeds = [0, 1, (1 << 64) - 1, 0x0123456789ABCDEF, 1 << 32]
    positions = [0, 1, 7, (1 << 32) - 1, 1 << 20]
    pairs = [(seed, position) for seed in seeds for position in positions]
    together = uniform(np.array([s for s, _ in pairs], dtype=np.uint64), [p for _, p in pairs])
    for (seed, position), u in zip(pairs, together.tolist(), strict=True):
        assert u == scalar_uniform(seed, position)
        assert u == uniform(np.array([seed], dtype=np.uint64), [position])[0]
        assert 0.0 <= u < 1.0
    assert len(set(together.tolist())) == len(pairs)


def test_draws_are_spread_evenly() -> None:
    u = uniform(np.full(4096, 42, dtype=np.uint64), np.arange(4096))
    counts, _ = np.histogram(u, bins=16, range=(0.0, 1.0))
    assert counts.min() > 190
    assert counts.max() < 325
