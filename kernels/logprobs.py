"""Log-probabilities of a row of logits: of one token, and the highest few.

    logprob(t) = x[t] - max x - log(Σ exp(x - max x))

The highest are found one after the other, each the next below the last in (logit, then lower id first): for the few
that anybody asks for (20 at most through the API) passes over a row that stays in the cache are cheaper than sorting
it. float64 inside. This file knows no requests."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from latticework.kernels.choice import twins_chosen
from latticework.kernels.paged import DTYPES, check_rows, takes

NAME = "logprobs"
BLOCK = 4096


def logprobs(logits: Tensor, tokens: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """logits: [R, V]; tokens: int64 [R], or -1 -> (float64 [R]: the token's, NaN for -1; int64 [R, count]: the
    likeliest tokens, best first, of equals the lower id first; float64 [R, count]: theirs). Rows of NaN give NaN and
    -1. Raises TypeError or ValueError, naming the argument."""
    check_tokens(logits, tokens, count)
    if twins_chosen():
        return logprobs_reference(logits, tokens, count)
    rows, vocabulary = logits.shape
    own = torch.empty(rows, dtype=torch.float64, device=logits.device)
    likeliest = torch.empty(rows, count, dtype=torch.int64, device=logits.device)
    theirs = torch.empty(rows, count, dtype=torch.float64, device=logits.device)
    if rows:
        logprob_kernel[(rows,)](
            logits, tokens, own, likeliest, theirs, vocabulary, count, logits.stride(0), **logprob_options(vocabulary)
        )
    return own, likeliest, theirs


def logprobs_reference(logits: Tensor, tokens: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same in plain torch."""
    table = torch.log_softmax(logits.double(), -1)
    own = table.gather(1, tokens.clamp(min=0)[:, None])[:, 0]
    order = torch.sort(logits.double(), dim=-1, descending=True, stable=True).indices[:, :count]
    broken = table.isnan().any(1)
    own = own.masked_fill((tokens < 0) | broken, torch.nan)
    return own, order.masked_fill(broken[:, None], -1), table.gather(1, order).masked_fill(broken[:, None], torch.nan)


def check_tokens(logits: Tensor, tokens: Tensor, count: int) -> None:
    if not takes(logits.dtype):
        raise TypeError(f"{NAME}: dtype {logits.dtype}; supported are {', '.join(map(str, DTYPES))}")
    if logits.dim() != 2 or not 0 <= count <= logits.shape[1]:
        raise ValueError(f"{NAME}: logits {tuple(logits.shape)}, count {count}; expected [R, V] and 0 to V")
    if tokens.dtype != torch.int64 or tokens.shape != logits.shape[:1] or not tokens.is_contiguous():
        raise TypeError(f"{NAME}: tokens {tuple(tokens.shape)} {tokens.dtype}; expected int64 [{len(logits)}]")
    check_rows(NAME, logits=logits)


def logprob_options(vocabulary: int) -> dict[str, int]:
    """How the kernel is compiled."""
    return {"BLOCK": min(BLOCK, max(64, triton.next_power_of_2(vocabulary))), "num_warps": 16}


@triton.jit
def logprob_kernel(
    logits: tl.tensor,  # [R, V]
    tokens: tl.tensor,  # [R]
    own: tl.tensor,  # [R]
    likeliest: tl.tensor,  # [R, count]
    theirs: tl.tensor,  # [R, count]
    vocabulary: tl.tensor,
    count: tl.tensor,
    logits_row: tl.tensor,  # stride in elements
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    x = logits + row * logits_row
    lane = tl.arange(0, BLOCK)
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    broken = tl.zeros([BLOCK], tl.int32)
    for first in tl.range(0, vocabulary, BLOCK):
        logit = tl.load(x + first + lane, mask=first + lane < vocabulary, other=float("-inf")).to(tl.float32)
        best = tl.where(logit > best, logit, best)
        broken = tl.where(logit != logit, 1, broken)
    peak = tl.max(best, 0).to(tl.float64)
    is_broken = (tl.max(broken, 0) == 1) | (peak == float("inf")) | (peak == float("-inf"))
    peak = tl.where(is_broken, 0.0, peak)
    sums = tl.zeros([BLOCK], tl.float64)
    for first in tl.range(0, vocabulary, BLOCK):
        logit = tl.load(x + first + lane, mask=first + lane < vocabulary, other=float("-inf")).to(tl.float64)
        sums += tl.exp(tl.where(is_broken, 0.0, logit) - peak)
    normaliser = peak + tl.log(tl.sum(sums, 0))

    token = tl.load(tokens + row)
    logprob = tl.load(x + tl.maximum(token, 0)).to(tl.float64) - normaliser
    tl.store(own + row, tl.where((token < 0) | is_broken, float("nan"), logprob))

    above = float("inf")  # the one found last: the next is below it, or as high with a higher id
    above_token = -1
    for place in tl.range(0, count):
        best = tl.full([BLOCK], float("-inf"), tl.float32)
        best_token = tl.full([BLOCK], 2**30, tl.int32)
        for first in tl.range(0, vocabulary, BLOCK):
            other = first + lane
            there = other < vocabulary
            logit = tl.load(x + other, mask=there, other=float("-inf")).to(tl.float32)
            left = there & ((logit < above) | ((logit == above) & (other > above_token)))
            better = left & ((logit > best) | (best_token == 2**30))
            best = tl.where(better, logit, best)
            best_token = tl.where(better, other, best_token)
        above = tl.max(best, 0)
        above_token = tl.min(tl.where((best == above) & (best_token < 2**30), best_token, 2**30), 0)
        at = row * count + place
        tl.store(likeliest + at, tl.where(is_broken, -1, above_token).to(tl.int64))
        tl.store(theirs + at, tl.where(is_broken, float("nan"), above.to(tl.float64) - normaliser))
