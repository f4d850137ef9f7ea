"""One decode step on the device, from the tokens of its rows to the next ones: nothing waits for the host.

    layers, head        the model over the rows' tokens, KV through their page tables
    logprobs            of the logits as they are
    penalties, bias     kernels/penalise.py
    allowed tokens      of the automata's states, within the budgets (affordable.py), less the barred ones (barred.py)
    draw                kernels/sample.py: the CPU's rule, the same uniform numbers
    on                  states walk the drawn tokens' bytes; tokens, places and counts become those of the next step

Every tensor stays where it is and every size is known to the host, so the step can be captured in a CUDA graph. This
file knows tensors; whose rows they are it does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from latticework.kernels.affordable import Automata, affordable
from latticework.kernels.automaton import TokenBytes, advance
from latticework.kernels.barred import bar
from latticework.kernels.logprobs import logprobs
from latticework.kernels.penalise import Changes, penalise
from latticework.kernels.sample import Draws, sample
from latticework.runtime.attention.base import KVCache, Turning
from latticework.runtime.device.buffers import Drawn, Rows
from latticework.runtime.device.sizes import Shape
from latticework.runtime.model.base import Model, QkvAttend


class DecodeAttention(Protocol):
    """What a step needs of an attention backend: see `TritonAttention`."""

    def decoding(self, slots: Tensor, page_table: Tensor, lengths: Tensor, prefixes: Any = None) -> Any: ...

    def forward(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kv: KVCache, plan: Any) -> Tensor: ...

    def forward_qkv(self, layer: int, qkv: Tensor, turning: Turning, kv: KVCache, plan: Any) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What every step is made of. allowed: int32 [N, W], a step's own; where: int32 [N], 0 to N - 1."""

    model: Model
    attention: DecodeAttention
    kv: KVCache
    automata: Automata
    vocabulary: TokenBytes
    rows: Rows
    drawn: Drawn
    allowed: Tensor
    where: Tensor


@torch.inference_mode()
def decode(parts: Parts, shape: Shape, prefixes: Any = None) -> None:
    """One step of the first `shape.rows` rows. prefixes: of them, for attention that reads those once."""
    rows = parts.rows.first(shape.rows, shape.pages)
    logits = _logits(parts, rows, prefixes)
    raw = logits
    if shape.changes:
        logits = logits.clone()
        penalise(logits, Changes(rows.changed, rows.times, rows.bias, rows.repetition, rows.frequency, rows.presence))
    tokens, status = sample(logits, _draws(parts, shape, rows, logits.shape[1]))
    is_live = rows.live > 0
    tokens = tokens.masked_fill(~is_live, -1)
    if shape.masks:
        advance(rows.states, tokens, parts.automata.transitions, parts.vocabulary)
    if shape.logprobs >= 0:
        own, likeliest, theirs = logprobs(raw, tokens, shape.logprobs)
        parts.drawn.logprobs[: shape.rows].copy_(own)
        parts.drawn.likeliest[: shape.rows, : shape.logprobs].copy_(likeliest)
        parts.drawn.theirs[: shape.rows, : shape.logprobs].copy_(theirs)
    parts.drawn.tokens[: shape.rows].copy_(tokens)
    parts.drawn.status[: shape.rows].copy_(status.masked_fill(~is_live, 0))
    if shape.changes:
        _count(rows, tokens)
    _go_on(rows, tokens)


def _logits(parts: Parts, rows: Rows, prefixes: Any) -> Tensor:
    """[n, V], float32, or float64 from a float64 model."""
    kv = parts.kv
    pages = rows.page_table.gather(1, (rows.positions // kv.page_size)[:, None])[:, 0]
    slots = pages.long() * kv.page_size + rows.positions % kv.page_size
    plan = parts.attention.decoding(slots, rows.page_table, rows.lengths, prefixes)

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return parts.attention.forward(layer, q, k, v, kv, plan)

    def attend_qkv(layer: int, qkv: Tensor, turning: Turning) -> Tensor:
        return parts.attention.forward_qkv(layer, qkv, turning, kv, plan)

    hidden = parts.model(rows.tokens, rows.positions, QkvAttend(attend, attend_qkv))
    logits = parts.model.logits(hidden)
    return logits if logits.dtype == torch.float64 else logits.float()


def _draws(parts: Parts, shape: Shape, rows: Rows, vocabulary: int) -> Draws:
    allowed, where = None, None
    if shape.masks or shape.bars:
        allowed, where = parts.allowed[: shape.rows], parts.where[: shape.rows]
        affordable(rows.states, rows.remaining, parts.automata, parts.vocabulary, allowed)
        if shape.bars:
            bar(allowed, rows.barred, rows.until, rows.draws, vocabulary)
    return Draws(rows.temperature, rows.top_k, rows.top_p, rows.min_p, rows.seeds, rows.draws, allowed, where)


def _count(rows: Rows, tokens: Tensor) -> None:
    """Adds the drawn tokens [n], -1 for none, to the lists of those whose logits change."""
    is_drawn = (tokens >= 0) & (rows.listed >= 0)
    found = (rows.changed == tokens[:, None]) & is_drawn[:, None]
    rows.times.copy_(torch.where(found, rows.times.clamp(min=0) + 1, rows.times))
    is_new = is_drawn & ~found.any(1)
    place = rows.listed.clamp(min=0, max=rows.changed.shape[1] - 1)[:, None]
    for tensor, value in ((rows.changed, tokens), (rows.times, torch.ones_like(rows.times[:, 0]))):
        kept = tensor.gather(1, place)[:, 0]
        tensor.scatter_(1, place, torch.where(is_new, value, kept)[:, None])
    rows.listed.add_(is_new)


def _go_on(rows: Rows, tokens: Tensor) -> None:
    """A row that has drawn nothing goes on with token 0: whatever comes of it is nobody's."""
    rows.tokens.copy_(tokens.clamp(min=0))
    for tensor, step in (
        (rows.positions, rows.live),
        (rows.lengths, rows.live),
        (rows.draws, rows.live),
        (rows.remaining, -rows.live),
    ):
        tensor.add_(step)
