"""From logits to tokens: a pure function of (logits, sampling parameters, mask, seed, position), row by row.

    penalties     repetition, frequency, presence; then the bias (see penalties.py)
    mask, temperature, top_k, top_p, min_p, draw
                  in this order, as kernels/cpu/draw.py states them, with u = Philox(seed, position)

Everything from temperature on is float64 on the CPU. Rows are worked on one by one, in C++ where there is a library,
else in numpy, and both draw the same token: nothing of one row can reach another. This file knows no sequences, stops
or constraints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latticework.kernels.cpu import draw as kernel
from latticework.kernels.cpu.draw import Draw, Logits, largest, to_numpy
from latticework.kernels.cpu.library import Library
from latticework.lang.ir import Sampling
from latticework.runtime.request import TokenInfo
from latticework.runtime.sample.penalties import Ids, is_penalised, penalised
from latticework.runtime.sample.philox import uniform

_ERRORS = {
    kernel.NOT_A_NUMBER: "model produced NaN",
    kernel.INFINITE: "model produced infinite logits",
    kernel.NOTHING_ALLOWED: "the constraint allows no token",
    kernel.NOTHING_LIKELY: "every token the constraint allows has probability zero",
}


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


def sample(
    logits: Tensor, rows: Sequence[Row], places: Sequence[int] | None = None, library: Library | None = None
) -> Drawn:
    """logits: [N, V], any float type, on any device. places: which of the N each row draws from, each in its turn where
    None. library: draws with it, from logits on the CPU. Never raises for bad numbers: see `Drawn.errors`."""
    assert places is not None or logits.shape[0] == len(rows), (logits.shape, len(rows))
    chosen = range(len(rows)) if places is None else places
    drawn = Drawn([-1] * len(rows), [None] * len(rows))
    uniforms = _uniforms(rows, library)
    plain: list[tuple[int, Draw]] = []  # with the row's index
    for r, (row, place, u) in enumerate(zip(rows, chosen, uniforms, strict=True)):
        if is_penalised(row.sampling):
            changed = penalised(to_numpy(logits[place]), row.sampling, row.before, row.output)
            _take(drawn, torch.from_numpy(changed)[None], [(r, _draw(row, 0, u))], library)
        else:
            plain.append((r, _draw(row, place, u)))
    _take(drawn, logits, plain, library)
    for r, (row, place) in enumerate(zip(rows, chosen, strict=True)):
        if row.sampling.logprobs is not None and r not in drawn.errors:
            drawn.logprobs[r] = log_probabilities(to_numpy(logits[place]), drawn.tokens[r], row.sampling.logprobs)
    return drawn


def _draw(row: Row, place: int, u: float) -> Draw:
    sampling = row.sampling
    return Draw(
        place, sampling.temperature, u, sampling.top_k, sampling.top_p, sampling.min_p, row.mask, tuple(row.barred)
    )


def _take(drawn: Drawn, logits: Tensor, draws: list[tuple[int, Draw]], library: Library | None) -> None:
    """Draws some of the rows."""
    told = [draw for _, draw in draws]
    tokens, statuses = kernel.draw_reference(logits, told) if library is None else kernel.draw(library, logits, told)
    for (r, _), token, status in zip(draws, tokens, statuses, strict=True):
        drawn.tokens[r] = token
        if status != kernel.DRAWN:
            drawn.errors[r] = _ERRORS[status]


def _uniforms(rows: Sequence[Row], library: Library | None) -> list[float]:
    """u of every row that draws, 0 elsewhere."""
    drawing = [r for r, row in enumerate(rows) if not row.sampling.greedy]
    result = [0.0] * len(rows)
    if drawing:
        seeds = [seed for r in drawing if (seed := rows[r].sampling.seed) is not None]
        assert len(seeds) == len(drawing), "a sampled row without a seed"
        positions = [rows[r].position for r in drawing]
        if library is None:
            found = uniform(np.array(seeds, dtype=np.uint64), positions)
        else:
            found = kernel.uniforms(library, seeds, positions)
        for r, u in zip(drawing, found.tolist(), strict=True):
            result[r] = u
    return result


def log_probabilities(logits: Logits, token: int, count: int) -> TokenInfo:
    """Raw model log-probabilities over logits [V]: the token's, and the `count` highest, best first."""
    x = logits.astype(np.float64)
    peak = x.max()
    normaliser = peak + np.log(np.exp(x - peak).sum())
    best = largest(logits, count) if count else np.arange(0)
    best = best[np.argsort(-x[best], kind="stable")]
    return TokenInfo(float(x[token] - normaliser), tuple((int(other), float(x[other] - normaliser)) for other in best))
