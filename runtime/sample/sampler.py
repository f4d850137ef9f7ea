"""From logits to tokens: a pure function of (logits, sampling parameters, mask, seed, position), row by row.

The rule, in this order:

    penalties     repetition, frequency, presence; then the bias (see penalties.py)
    mask          only tokens whose bit is set remain, less the barred ones unless they are all
    temperature   0: the remaining token of highest logit. Else p ~ exp((logit - max) / temperature)
    top_k         the k highest logits remain
    top_p         renormalise; going from the highest logit down, tokens remain until their p sum to top_p or more
    min_p         renormalise; tokens with p >= min_p * max p remain
    draw          going up in token ids, the first token at which the sum of p exceeds u * (sum of all p),
                  with u = Philox(seed, position)

Equal logits: the lower id counts as higher. Everything from temperature on is float64 on the CPU. Rows are worked
on one by one in numpy: a row fits the cache of a core, and nothing of one row can reach another. This file knows
no sequences, stops or constraints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latticework.lang.ir import Sampling
from latticework.runtime.request import TokenInfo
from latticework.runtime.sample.penalties import Ids, Logits, penalised
from latticework.runtime.sample.philox import uniform

_FIRST_NUCLEUS = 256  # tokens sorted at first for top_p; eight times as many whenever they do not suffice

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Row:
    """How one row of logits is drawn from. `position` counts the output tokens of the segment from 0.

    before: tokens of the text before the segment, each once, where there is a repetition penalty. output: tokens of
    the segment. barred: tokens that may come only where nothing else is left."""

    sampling: Sampling
    position: int
    mask: NDArray[np.int32] | None = None  # [W], W = ceil(V / 32); bit t % 32 of word t // 32 set = token t allowed
    before: Ids | None = None
    output: Sequence[int] = ()
    barred: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Drawn:
    """One token a row. errors: what was wrong with a row; its token is -1 and it has no logprobs."""

    tokens: list[int]
    logprobs: list[TokenInfo | None]
    errors: dict[int, str] = field(default_factory=dict)


def sample(logits: Tensor, rows: Sequence[Row]) -> Drawn:
    """logits: [R, V], any float type, on any device. Never raises for bad numbers: see `Drawn.errors`."""
    assert logits.shape[0] == len(rows), (logits.shape, len(rows))
    values = to_numpy(logits)  # [R, V]
    drawn = Drawn([-1] * len(rows), [None] * len(rows))
    if not rows:
        return drawn
    peaks = values.max(axis=1)  # NaN if the row holds one
    for r in np.flatnonzero(~np.isfinite(peaks)).tolist():
        drawn.errors[r] = "model produced NaN" if np.isnan(peaks[r]) else "model produced infinite logits"
    uniforms = _uniforms(rows)
    for r, row in enumerate(rows):
        if r in drawn.errors:
            continue
        try:
            token = _draw(values[r], row, float(uniforms[r]))
        except _EmptyRow as error:
            drawn.errors[r] = str(error)
            continue
        drawn.tokens[r] = token
        if row.sampling.logprobs is not None:
            drawn.logprobs[r] = log_probabilities(values[r], token, row.sampling.logprobs)
    return drawn


class _EmptyRow(Exception):
    pass


def to_numpy(logits: Tensor) -> Logits:
    """[R, V] in main memory, as float32 or, where they are, float64."""
    kept = logits.dtype if logits.dtype in (torch.float32, torch.float64) else torch.float32
    return logits.detach().to(device="cpu", dtype=kept).contiguous().numpy()


def _uniforms(rows: Sequence[Row]) -> Floats:
    """u of every row that draws, 0 elsewhere: [R]."""
    drawing = [r for r, row in enumerate(rows) if not row.sampling.greedy]
    result = np.zeros(len(rows))
    if drawing:
        seeds = [rows[r].sampling.seed for r in drawing]
        assert None not in seeds, "a sampled row without a seed"
        result[drawing] = uniform(np.array(seeds, dtype=np.uint64), [rows[r].position for r in drawing])
    return result


def _draw(logits: Logits, row: Row, u: float) -> int:
    """One token from logits [V]."""
    logits = penalised(logits, row.sampling, row.before, row.output)
    ids = None if row.mask is None else allowed_ids(row.mask, len(logits))  # None: all of them
    if row.barred:
        ids = _without(ids, row.barred, len(logits))
    remaining = logits if ids is None else logits[ids]
    if len(remaining) == 0:
        raise _EmptyRow("the constraint allows no token")
    best = int(remaining.argmax())  # the first of equals
    if remaining[best] == -np.inf:
        raise _EmptyRow("every token the constraint allows has probability zero")
    if row.sampling.greedy:
        return best if ids is None else int(ids[best])
    return _draw_at_random(remaining, ids, row.sampling, u)


def _draw_at_random(x: Logits, ids: Ids | None, sampling: Sampling, u: float) -> int:
    """One of `ids`, ascending, whose logits are x."""
    if 0 < sampling.top_k < len(x):
        kept = largest(x, sampling.top_k)
        x, ids = x[kept], _take(ids, kept)
    with np.errstate(over="ignore"):  # a tiny temperature: -inf is what is meant
        p = np.exp((x.astype(np.float64) - float(x.max())) / sampling.temperature)  # the highest is exactly 1
    if sampling.top_p < 1.0:
        kept = _nucleus(x, p, sampling.top_p)
        p, ids = p[kept], _take(ids, kept)
    if sampling.min_p > 0.0:
        kept = np.flatnonzero(p >= sampling.min_p)
        p, ids = p[kept], _take(ids, kept)
    place = _invert(np.cumsum(p), u)
    return place if ids is None else int(ids[place])


def allowed_ids(mask: NDArray[np.int32], vocabulary: int) -> Ids:
    """The token ids whose bits are set in a packed row [W], ascending."""
    bits = np.unpackbits(mask.astype("<i4", copy=False).view(np.uint8), count=vocabulary, bitorder="little")
    return np.flatnonzero(bits.view(np.bool_))


def _without(ids: Ids | None, barred: Sequence[int], vocabulary: int) -> Ids | None:
    """`ids` less the barred ones; as they were if none would be left."""
    kept = np.full(vocabulary, ids is None)
    if ids is not None:
        kept[ids] = True
    kept[list(barred)] = False
    return np.flatnonzero(kept) if kept.any() else ids


def largest(x: Logits, count: int) -> Ids:
    """Where the `count` highest numbers of x [n] are, ascending; of equals the first."""
    if count >= len(x):
        return np.arange(len(x))
    threshold = np.partition(x, len(x) - count)[len(x) - count]
    above = np.flatnonzero(x > threshold)
    equal = np.flatnonzero(x == threshold)[: count - len(above)]
    return np.sort(np.concatenate((above, equal)))


def log_probabilities(logits: Logits, token: int, count: int) -> TokenInfo:
    """Raw model log-probabilities over logits [V]: the token's, and the `count` highest, best first."""
    x = logits.astype(np.float64)
    peak = x.max()
    normaliser = peak + np.log(np.exp(x - peak).sum())
    best = largest(logits, count) if count else np.arange(0)
    best = best[np.argsort(-x[best], kind="stable")]
    return TokenInfo(float(x[token] - normaliser), tuple((int(other), float(x[other] - normaliser)) for other in best))


def _take(ids: Ids | None, kept: Ids) -> Ids:
    return kept if ids is None else ids[kept]


def _nucleus(x: Logits, p: Floats, top_p: float) -> Ids:
    """Where the fewest highest numbers are whose p sum to top_p of all p, ascending.

    Sorts only as many of the highest as turn out to be needed; sums run from the highest down either way."""
    wanted = top_p * np.cumsum(p)[-1]
    count = _FIRST_NUCLEUS
    while True:
        kept = largest(x, count)
        order = kept[np.argsort(-x[kept], kind="stable")]
        needed = int(np.searchsorted(np.cumsum(p[order]), wanted, side="left")) + 1
        if needed <= len(order):
            return np.sort(order[:needed])
        if len(order) == len(x):  # rounding left the sum a hair short
            return kept
        count *= 8


def _invert(sums: Floats, u: float) -> int:
    """The first place whose running sum exceeds u of the total; never one of probability zero."""
    total = sums[-1]
    place = int(np.searchsorted(sums, u * total, side="right"))
    if place == len(sums):  # u * total rounded up to total
        place = int(np.searchsorted(sums, total, side="left"))
    return place
