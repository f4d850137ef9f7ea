"""From logits to tokens, row by row, in one call for a whole batch:

    mask          only tokens whose bit is set remain, less the barred ones unless they are all
    temperature   0: the remaining token of highest logit. Else p = exp((x - max x) / temperature)
    top_k         the k highest logits remain
    top_p         going from the highest logit down, tokens remain until their p sum to top_p of all p or more
    min_p         tokens with p >= min_p * max p remain
    draw          going up in token ids, the first token at which the sum of p exceeds u * (sum of all p)

Equal logits: the lower id counts as higher. p and sums are float64; the rule adds in the order that it names.

In C++ a row is passed over twice, without a sort unless there is top_k or top_p, and with nothing stored but a sum for
each block of tokens. Its exp and its sums differ from the rule's by rounding, of which there is a bound: where what
decides is within that, the row is *undecided* and drawn by the twin. So both draw the same token, always; about one row
in a million is drawn twice.

status: 0 drawn; 1 a NaN among the logits; 2 the highest is infinite; 3 the mask allows no token; 4 all that it allows
have probability zero. The token is then -1. This file knows no sequences, stops or constraints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latticework.kernels.cpu.library import Library

DRAWN, NOT_A_NUMBER, INFINITE, NOTHING_ALLOWED, NOTHING_LIKELY, UNDECIDED = range(6)
FIRST_NUCLEUS = 256  # tokens sorted at first for top_p; eight times as many whenever they do not suffice

Logits: TypeAlias = NDArray[np.floating]  # float32 or float64
Floats: TypeAlias = NDArray[np.float64]
Ids: TypeAlias = NDArray[np.intp]
Found: TypeAlias = tuple[list[int], list[int]]
"""Tokens, and the status of each."""


class Draw(NamedTuple):
    """How one token is drawn. row: of the logits. u: in [0, 1). top_k: 0 or less for all. mask: int32 [ceil(V / 32)],
    bit t % 32 of word t // 32 set = token t allowed; None: all. barred: ids that come only where nothing else is
    left."""

    row: int
    temperature: float = 0.0
    u: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    mask: NDArray[np.int32] | None = None
    barred: Sequence[int] = ()


_DRAW = np.dtype(  # draw.cpp has the same
    [
        *((name, np.uint64) for name in ("logits", "mask", "barred")),
        ("barred_count", np.int64),
        *((name, np.float64) for name in ("temperature", "top_p", "min_p")),
        ("top_k", np.int64),
        ("u", np.float64),
    ]
)


def draw(library: Library, logits: Tensor, draws: Sequence[Draw]) -> Found:
    """logits: [N, V] on the CPU, each row contiguous; any number of draws from any of its rows."""
    tokens, statuses = draw_undecided(library, logits, draws)
    undecided = [index for index, status in enumerate(statuses) if status == UNDECIDED]
    if undecided:
        for index, token, status in zip(
            undecided, *draw_reference(logits, [draws[index] for index in undecided]), strict=True
        ):
            tokens[index], statuses[index] = token, status
    return tokens, statuses


def draw_undecided(library: Library, logits: Tensor, draws: Sequence[Draw]) -> Found:
    """The same, without the twin's help: with a status of 5 where that is needed."""
    size = logits.shape[1]
    assert logits.stride(1) == 1 or size == 1, "rows are not contiguous"
    first, step = logits.data_ptr(), logits.stride(0) * logits.itemsize
    barred = _all_barred(draws, size)
    at = barred.ctypes.data
    columns = []
    for one in draws:
        mask = 0 if one.mask is None else one.mask.ctypes.data
        count = len(one.barred)
        top_k = max(0, one.top_k)
        columns.append((first + one.row * step, mask, at, count, one.temperature, one.top_p, one.min_p, top_k, one.u))
        at += count * barred.itemsize
    told = np.array(columns, dtype=_DRAW)
    found = np.empty((2, len(draws)), dtype=np.int64)
    library.draw[logits.dtype](
        told.ctypes.data, len(draws), size, found.ctypes.data, found[1:].ctypes.data, library.threads
    )
    tokens, statuses = found.tolist()
    return tokens, statuses


def _all_barred(draws: Sequence[Draw], size: int) -> NDArray[np.int64]:
    """The barred tokens of all draws, end to end. Raises IndexError for one that does not exist."""
    barred = np.array([token for one in draws for token in one.barred], dtype=np.int64)
    if len(barred) and not 0 <= barred.min() <= barred.max() < size:
        wrong = next(token for token in barred.tolist() if not 0 <= token < size)
        raise IndexError(f"barred token {wrong} of {size}")
    return barred


def uniforms(library: Library, seeds: Sequence[int], positions: Sequence[int]) -> Floats:
    """u = Philox(key = seed, counter = position) of each: runtime/sample/philox.py states it and is the twin."""
    told = np.array(seeds, dtype=np.uint64), np.array(positions, dtype=np.int64)
    out = np.empty(len(seeds))
    library.uniforms(told[0].ctypes.data, told[1].ctypes.data, out.ctypes.data, len(seeds))
    return out


# ------------------------------------------------------------ the twin, in numpy


def draw_reference(logits: Tensor, draws: Sequence[Draw]) -> Found:
    """On any device, for any float type."""
    tokens, statuses = [], []
    for one in draws:
        token, status = _draw(to_numpy(logits[one.row]), one)
        tokens.append(token)
        statuses.append(status)
    return tokens, statuses


def to_numpy(logits: Tensor) -> Logits:
    """Logits in main memory, as float32 or, where they are, float64."""
    kept = logits.dtype if logits.dtype in (torch.float32, torch.float64) else torch.float32
    return logits.detach().to(device="cpu", dtype=kept).contiguous().numpy()


def _draw(logits: Logits, how: Draw) -> tuple[int, int]:
    """One token from logits [V], and the status."""
    peak = logits.max()  # NaN if there is one
    if not np.isfinite(peak):
        return -1, NOT_A_NUMBER if np.isnan(peak) else INFINITE
    ids = None if how.mask is None else allowed_ids(how.mask, len(logits))  # None: all of them
    if how.barred:
        ids = _without(ids, how.barred, len(logits))
    remaining = logits if ids is None else logits[ids]
    if len(remaining) == 0:
        return -1, NOTHING_ALLOWED
    best = int(remaining.argmax())  # the first of equals
    if remaining[best] == -np.inf:
        return -1, NOTHING_LIKELY
    if how.temperature != 0.0:
        return _draw_at_random(remaining, ids, how), DRAWN
    return best if ids is None else int(ids[best]), DRAWN


def _draw_at_random(x: Logits, ids: Ids | None, how: Draw) -> int:
    """One of `ids`, ascending, whose logits are x."""
    if 0 < how.top_k < len(x):
        kept = largest(x, how.top_k)
        x, ids = x[kept], _take(ids, kept)
    with np.errstate(over="ignore"):  # a tiny temperature: -inf is what is meant
        p = np.exp((x.astype(np.float64) - float(x.max())) / how.temperature)  # the highest is exactly 1
    if how.top_p < 1.0:
        kept = _nucleus(x, p, how.top_p)
        p, ids = p[kept], _take(ids, kept)
    if how.min_p > 0.0:
        kept = np.flatnonzero(p >= how.min_p)
        p, ids = p[kept], _take(ids, kept)
    place = _invert(np.cumsum(p), how.u)
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


def _take(ids: Ids | None, kept: Ids) -> Ids:
    return kept if ids is None else ids[kept]


def _nucleus(x: Logits, p: Floats, top_p: float) -> Ids:
    """Where the fewest highest numbers are whose p sum to top_p of all p, ascending.

    Sorts only as many of the highest as turn out to be needed; sums run from the highest down either way."""
    wanted = top_p * np.cumsum(p)[-1]
    count = FIRST_NUCLEUS
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
