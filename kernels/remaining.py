"""Which tokens of a row remain, without sorting it: parts of the kernel in sample.py.

A mask's bits say which may come. Of those, the lowest logit that remains (by number for top-k, by the sum of p for
top-p) is found by its bits, four at a time from the highest: floats compare as integers do once negative ones are
flipped. This is radix selection; for sums of probabilities the idea is that of FlashInfer's sampling kernels (Ye et al.
2025), which search for a threshold too. Of tokens with exactly that logit the first few remain.

In all of them: x is the row of logits, words its mask, read where MASKED and has_mask, weights its p.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def allowed_bits(
    words: tl.tensor, has_mask: tl.tensor, token: tl.tensor, there: tl.tensor, MASKED: tl.constexpr
) -> tl.tensor:
    """Which of the tokens that are there may come."""
    if MASKED:
        word = tl.where(has_mask, tl.load(words + token // 32, mask=there, other=0), -1)
        return there & (((word >> (token % 32)) & 1) == 1)
    else:
        return there


@triton.jit
def ordered(logit: tl.tensor) -> tl.tensor:
    """float32 -> int32 that compares as the floats do; both zeros are one."""
    bits = tl.where(logit == 0.0, 0.0, logit).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def lowest_kept(
    x: tl.tensor,
    words: tl.tensor,
    has_mask: tl.tensor,
    weights: tl.tensor,
    wanted: tl.tensor,
    vocabulary: tl.tensor,
    MASKED: tl.constexpr,
    BY_MASS: tl.constexpr,
    SEARCHED: tl.constexpr,
) -> tl.tensor:
    """The highest key (see `ordered`) such that tokens with it or a higher one are `wanted` in number, or in the sum of
    their p. The lowest key of all where they never are."""
    lane = tl.arange(0, SEARCHED)
    digit = tl.arange(0, 16)
    key = -2147483648
    for step in tl.static_range(8):
        candidate = key + (digit << (28 - 4 * step))  # ascending: what is above them falls
        if BY_MASS:
            sums = tl.zeros([SEARCHED, 16], tl.float64)
        else:
            sums = tl.zeros([SEARCHED, 16], tl.int32)
        for first in tl.range(0, vocabulary, SEARCHED):
            token = first + lane
            there = token < vocabulary
            mine = ordered(tl.load(x + token, mask=there, other=float("-inf")).to(tl.float32))
            if BY_MASS:
                weight = tl.load(weights + token, mask=there, other=0.0)
            else:
                weight = tl.where(allowed_bits(words, has_mask, token, there, MASKED), 1, 0)
            sums += tl.where(mine[:, None] >= candidate[None, :], weight[:, None], 0)
        enough = tl.sum(sums, 0).to(tl.float64) >= wanted
        digits = tl.maximum(tl.sum(tl.where(enough, 1, 0), 0) - 1, 0)
        key = key + (digits << (28 - 4 * step))
    return key


@triton.jit
def compare(
    x: tl.tensor,
    words: tl.tensor,
    has_mask: tl.tensor,
    weights: tl.tensor,
    key: tl.tensor,
    vocabulary: tl.tensor,
    MASKED: tl.constexpr,
    BY_MASS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """The number, or the sum of p, of tokens above the key; and the p of one that has the key."""
    lane = tl.arange(0, BLOCK)
    sums = tl.zeros([BLOCK], tl.float64)
    equal = tl.zeros([BLOCK], tl.float64)
    for first in tl.range(0, vocabulary, BLOCK):
        token = first + lane
        there = token < vocabulary
        mine = ordered(tl.load(x + token, mask=there, other=float("-inf")).to(tl.float32))
        weight = tl.load(weights + token, mask=there, other=0.0)
        equal = tl.maximum(equal, tl.where(mine == key, weight, 0.0))
        if not BY_MASS:
            weight = tl.where(allowed_bits(words, has_mask, token, there, MASKED), 1.0, 0.0)
        sums += tl.where(mine > key, weight, 0.0)
    return tl.sum(sums, 0), tl.max(equal, 0)


@triton.jit
def drop_below(
    x: tl.tensor, weights: tl.tensor, key: tl.tensor, ties: tl.tensor, vocabulary: tl.tensor, BLOCK: tl.constexpr
) -> tl.tensor:
    """Keeps p of tokens above the key and of the first `ties` that have it; others become 0. Returns the sum."""
    lane = tl.arange(0, BLOCK)
    sums = tl.zeros([BLOCK], tl.float64)
    passed = 0
    for first in tl.range(0, vocabulary, BLOCK):
        token = first + lane
        there = token < vocabulary
        mine = ordered(tl.load(x + token, mask=there, other=float("-inf")).to(tl.float32))
        weight = tl.load(weights + token, mask=there, other=0.0)
        equal = tl.where((mine == key) & (weight > 0.0), 1, 0)
        rank = passed + tl.cumsum(equal, 0)  # from 1
        kept = (mine > key) | ((equal == 1) & (rank.to(tl.float64) <= ties))
        weight = tl.where(kept, weight, 0.0)
        tl.store(weights + token, weight, mask=there)
        sums += weight
        passed += tl.sum(equal, 0)
    tl.debug_barrier()
    return tl.sum(sums, 0)
