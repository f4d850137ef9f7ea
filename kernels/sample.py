"""From logits to tokens, one program a row, by the rule that runtime/sample/sampler.py states for the CPU:

    mask          only tokens whose bit is set in row states[r] of `masks` remain; a state of -1 has no mask
    temperature   0: the remaining token of highest logit. Else p = exp((x - max x) / temperature)
    top_k         the k highest logits remain
    top_p         going from the highest logit down, tokens remain until their p sum to top_p of all p or more
    min_p         tokens with p >= min_p · max p remain
    draw          going up in token ids, the first token at which the sum of p exceeds u · (sum of all p),
                  u = Philox(seed, position)

Equal logits: the lower id counts as higher. p and sums are float64, as on the CPU, added in another order: tokens
differ only where u falls within rounding of an edge. Nothing is sorted: see remaining.py.

status: 0 drawn; 1 a NaN among the logits; 2 the highest is infinite; 3 the mask allows no token; 4 all that it allows
have probability zero. The token is then -1. This file knows no sequences, stops or constraints.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from latticework.kernels.choice import twins_chosen
from latticework.kernels.paged import DTYPES, check_rows, takes
from latticework.kernels.philox import uniform, uniform_reference
from latticework.kernels.remaining import allowed_bits, compare, drop_below, lowest_kept

NAME = "sample"
BLOCK = 4096  # tokens a program looks at at once
SEARCHED = 256  # and while it looks for the lowest logit that remains: they are compared with 16 numbers
DRAWN, NOT_A_NUMBER, INFINITE, NOTHING_ALLOWED, NOTHING_LIKELY = range(5)


@dataclass(frozen=True, slots=True)
class Draws:
    """How each of R rows is drawn from.

    temperature, top_p, min_p: float64 [R]; top_k: int32 [R], 0 for all; seeds: int64 [R], their 64 bits; positions:
    int64 [R]. masks: int32 [S, ceil(V / 32)], bit t % 32 of word t // 32 set = token t allowed; states: int32 [R].
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    seeds: Tensor
    positions: Tensor
    masks: Tensor | None = None
    states: Tensor | None = None


def sample(logits: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """logits: [R, V] -> tokens int64 [R], status int32 [R]. Raises TypeError or ValueError, naming the argument."""
    check_draws(logits, draws)
    if twins_chosen():
        return sample_reference(logits, draws)
    rows, vocabulary = logits.shape
    tokens = torch.full((rows,), -1, dtype=torch.int64, device=logits.device)
    status = torch.zeros(rows, dtype=torch.int32, device=logits.device)
    if rows == 0:
        return tokens, status
    p = torch.empty(rows, vocabulary, dtype=torch.float64, device=logits.device)
    masked = draws.masks is not None
    sample_kernel[(rows,)](
        logits, tokens, status, p, draws.temperature, draws.top_k, draws.top_p, draws.min_p, draws.seeds,
        draws.positions, draws.masks if masked else status, draws.states if masked else status,
        vocabulary, logits.stride(0), draws.masks.stride(0) if draws.masks is not None else 0,
        MASKED=masked, **sample_options(vocabulary),
    )  # fmt: skip
    return tokens, status


def sample_reference(logits: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """The same in plain torch, row by row, with a sort."""
    tokens = torch.full((len(logits),), -1, dtype=torch.int64, device=logits.device)
    status = torch.zeros(len(logits), dtype=torch.int32, device=logits.device)
    for r in range(len(logits)):
        tokens[r], status[r] = _draw(logits[r].double(), draws, r)
    return tokens, status


def _draw(x: Tensor, draws: Draws, r: int) -> tuple[int, int]:
    """x: float64 [V] -> token, status."""
    if bool(x.isnan().any()):
        return -1, NOT_A_NUMBER
    if bool(x.max().isinf()):
        return -1, INFINITE
    ids = torch.arange(len(x), device=x.device)
    if draws.masks is not None and draws.states is not None and int(draws.states[r]) >= 0:
        row = draws.masks[int(draws.states[r])]
        ids = ids[(row[ids // 32] >> (ids % 32)) & 1 > 0]
    x = x[ids]
    if len(ids) == 0:
        return -1, NOTHING_ALLOWED
    if float(x.max()) == -torch.inf:
        return -1, NOTHING_LIKELY
    temperature = float(draws.temperature[r])
    order = torch.sort(x, descending=True, stable=True).indices  # equal ones in the order of their ids
    if temperature == 0.0:
        return int(ids[order[0]]), DRAWN
    top_k = int(draws.top_k[r])
    if top_k > 0:
        order = order[:top_k]
    p = torch.exp((x[order] - x.max()) / temperature)
    if float(draws.top_p[r]) < 1.0:
        sums = p.cumsum(0)
        kept = int((sums < float(draws.top_p[r]) * sums[-1]).sum()) + 1
        order, p = order[:kept], p[:kept]
    likely = p >= float(draws.min_p[r])
    order, p = order[likely], p[likely]
    by_id = torch.argsort(order)
    order, sums = order[by_id], p[by_id].cumsum(0)
    place = int((sums <= uniform_reference(int(draws.seeds[r]), int(draws.positions[r])) * sums[-1]).sum())
    if place == len(sums):  # u of the sum was rounded up to the sum
        place = int((sums < sums[-1]).sum())
    return int(ids[order[place]]), DRAWN


def check_draws(logits: Tensor, draws: Draws) -> None:
    if not takes(logits.dtype):
        raise TypeError(f"{NAME}: dtype {logits.dtype}; supported are {', '.join(map(str, DTYPES))}")
    if logits.dim() != 2 or not 1 <= logits.shape[1] < 2**30:
        raise ValueError(f"{NAME}: logits {tuple(logits.shape)}; expected [R, V]")
    check_rows(NAME, logits=logits)
    rows, vocabulary = logits.shape
    for names, dtype in (
        (("temperature", "top_p", "min_p"), torch.float64),
        (("top_k",), torch.int32),
        (("seeds", "positions"), torch.int64),
    ):
        for name in names:
            check_column(name, getattr(draws, name), rows, dtype)
    if (draws.masks is None) != (draws.states is None):
        raise ValueError(f"{NAME}: masks and states go together; got one of them")
    if draws.masks is not None and draws.states is not None:
        check_column("states", draws.states, rows, torch.int32)
        words = triton.cdiv(vocabulary, 32)
        if draws.masks.dtype != torch.int32 or draws.masks.shape != (max(1, len(draws.masks)), words):
            raise ValueError(
                f"{NAME}: masks {tuple(draws.masks.shape)} {draws.masks.dtype}; expected int32 [S, {words}]"
            )
        check_rows(NAME, masks=draws.masks)


def check_column(name: str, column: Tensor, rows: int, dtype: torch.dtype) -> None:
    if column.dtype != dtype or column.shape != (rows,) or not column.is_contiguous():
        raise TypeError(f"{NAME}: {name} {tuple(column.shape)} {column.dtype}; expected {dtype} [{rows}], contiguous")


def sample_options(vocabulary: int) -> dict[str, int]:
    """How the kernel is compiled."""
    block = min(BLOCK, max(64, triton.next_power_of_2(vocabulary)))
    return {"BLOCK": block, "SEARCHED": min(SEARCHED, block), "num_warps": 16}


@triton.jit
def sample_kernel(
    logits: tl.tensor,  # [R, V]
    tokens: tl.tensor,  # [R]
    status: tl.tensor,  # [R]
    p: tl.tensor,  # float64 [R, V], for this kernel's own use
    temperature: tl.tensor,  # [R], and so on
    top_k: tl.tensor,
    top_p: tl.tensor,
    min_p: tl.tensor,
    seeds: tl.tensor,
    positions: tl.tensor,
    masks: tl.tensor,  # [S, W], read where MASKED
    states: tl.tensor,  # [R], read where MASKED
    vocabulary: tl.tensor,
    logits_row: tl.tensor,  # strides in elements
    masks_row: tl.tensor,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
    SEARCHED: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    x = logits + row * logits_row
    weights = p + row * vocabulary
    state = tl.load(states + row).to(tl.int64) if MASKED else row
    words = masks + tl.maximum(state, 0) * masks_row
    has_mask = state >= 0

    found, peak, best = look_over(x, words, has_mask, vocabulary, MASKED, BLOCK)
    heat = tl.load(temperature + row)
    tl.store(status + row, found)
    if found != 0:
        return
    if heat == 0.0:
        tl.store(tokens + row, best)
        return

    total = weigh(x, words, has_mask, weights, peak, heat, vocabulary, MASKED, BLOCK)
    highest = tl.load(top_k + row)
    if (highest > 0) & (highest < vocabulary):
        wanted = highest.to(tl.float64)
        key = lowest_kept(x, words, has_mask, weights, wanted, vocabulary, MASKED, False, SEARCHED)
        above, of_key = compare(x, words, has_mask, weights, key, vocabulary, MASKED, False, BLOCK)
        total = drop_below(x, weights, key, wanted - above, vocabulary, BLOCK)
    nucleus = tl.load(top_p + row)
    if nucleus < 1.0:
        wanted = nucleus * total
        key = lowest_kept(x, words, has_mask, weights, wanted, vocabulary, MASKED, True, SEARCHED)
        above, of_key = compare(x, words, has_mask, weights, key, vocabulary, MASKED, True, BLOCK)
        ties = tl.maximum(tl.ceil((wanted - above) / tl.where(of_key > 0.0, of_key, 1.0)), 1.0)
        total = drop_below(x, weights, key, ties, vocabulary, BLOCK)

    u = uniform(tl.load(seeds + row), tl.load(positions + row))
    tl.store(tokens + row, invert(weights, tl.load(min_p + row), u, vocabulary, BLOCK))


@triton.jit
def look_over(
    x: tl.tensor,
    words: tl.tensor,
    has_mask: tl.tensor,
    vocabulary: tl.tensor,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """status, the highest logit that is allowed, and the first token that has it."""
    lane = tl.arange(0, BLOCK)
    highest = tl.full([BLOCK], float("-inf"), tl.float32)  # of all
    best = tl.full([BLOCK], float("-inf"), tl.float32)  # of the allowed
    best_token = tl.full([BLOCK], 2**30, tl.int32)
    broken = tl.zeros([BLOCK], tl.int32)
    any_allowed = tl.zeros([BLOCK], tl.int32)
    for first in tl.range(0, vocabulary, BLOCK):
        token = first + lane
        there = token < vocabulary
        logit = tl.load(x + token, mask=there, other=float("-inf")).to(tl.float32)
        allowed = allowed_bits(words, has_mask, token, there, MASKED)
        broken = tl.where(logit != logit, 1, broken)
        highest = tl.where(logit > highest, logit, highest)
        any_allowed = tl.where(allowed, 1, any_allowed)
        better = allowed & (logit > best)
        best = tl.where(better, logit, best)
        best_token = tl.where(better, token, best_token)
    peak = tl.max(best, 0)
    top = tl.max(highest, 0)
    infinite = (top == float("inf")) | (top == float("-inf"))
    found = tl.where(peak == float("-inf"), 4, 0)
    found = tl.where(tl.max(any_allowed, 0) == 0, 3, found)
    found = tl.where(infinite, 2, found)
    found = tl.where(tl.max(broken, 0) == 1, 1, found)
    return found, peak, tl.min(tl.where(best == peak, best_token, 2**30), 0)


@triton.jit
def weigh(
    x: tl.tensor,
    words: tl.tensor,
    has_mask: tl.tensor,
    weights: tl.tensor,
    peak: tl.tensor,
    heat: tl.tensor,
    vocabulary: tl.tensor,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """Writes p, 0 for tokens that may not come, and returns its sum."""
    lane = tl.arange(0, BLOCK)
    sums = tl.zeros([BLOCK], tl.float64)
    for first in tl.range(0, vocabulary, BLOCK):
        token = first + lane
        there = token < vocabulary
        logit = tl.load(x + token, mask=there, other=float("-inf")).to(tl.float64)
        allowed = allowed_bits(words, has_mask, token, there, MASKED)
        weight = tl.where(allowed, tl.exp((logit - peak.to(tl.float64)) / heat), 0.0)
        tl.store(weights + token, weight, mask=there)
        sums += weight
    tl.debug_barrier()
    return tl.sum(sums, 0)


@triton.jit
def invert(weights: tl.tensor, least: tl.tensor, u: tl.tensor, vocabulary: tl.tensor, BLOCK: tl.constexpr) -> tl.tensor:
    """Going up in ids, the first token at which the sum of p exceeds u of the total, of those with p >= least."""
    lane = tl.arange(0, BLOCK)
    total = u * 0.0
    for first in tl.range(0, vocabulary, BLOCK):
        weight = tl.load(weights + first + lane, mask=first + lane < vocabulary, other=0.0)
        total += tl.sum(tl.where(weight >= least, weight, 0.0), 0)
    target = u * total
    before = u * 0.0  # the sum of the blocks that went by
    drawn = -1
    last = -1  # that could be drawn at all: u of the total may be rounded up to the total
    for first in tl.range(0, vocabulary, BLOCK):
        token = first + lane
        weight = tl.load(weights + token, mask=token < vocabulary, other=0.0)
        weight = tl.where(weight >= least, weight, 0.0)
        after = before + tl.sum(weight, 0)
        furthest = tl.max(tl.where(weight > 0.0, token, -1), 0)
        exceeds = (before + tl.cumsum(weight, 0) > target) & (weight > 0.0)
        here = tl.min(tl.where(exceeds, token, 2**30), 0)
        here = tl.where(here == 2**30, furthest, here)  # sums of a block differ by their rounding
        drawn = tl.where((drawn < 0) & (after > target), here, drawn)
        last = tl.maximum(last, furthest)
        before = after
    return tl.where(drawn < 0, last, drawn)
