"""Tokens that may come only where nothing else is left: taken out of a step's rows of allowed tokens, in place.

    kept    = rows[r] without the tokens barred[r, e] whose until[r, e] is beyond positions[r]
    rows[r] = kept where it has a token, else as it was

End tokens before a text has its least length, and where ends are ignored, are barred so: runtime/sample/sampler.py
states the rule. This file knows no reasons."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from latticework.kernels.choice import twins_chosen

NAME = "bar"


def bar(rows: Tensor, barred: Tensor, until: Tensor, positions: Tensor, vocabulary: int) -> None:
    """rows: int32 [R, ceil(V / 32)], changed; barred: int64 [R, E], ids below V, padded with -1; until: int64 [R, E];
    positions: int64 [R]. Raises TypeError, naming the argument."""
    _check(rows, barred, until, positions, vocabulary)
    if twins_chosen():
        return bar_reference(rows, barred, until, positions, vocabulary)
    if len(rows) and barred.shape[1]:
        bar_kernel[(len(rows),)](
            rows, barred, until, positions, vocabulary, rows.shape[1], barred.shape[1], **bar_options(vocabulary)
        )


def bar_reference(rows: Tensor, barred: Tensor, until: Tensor, positions: Tensor, vocabulary: int) -> None:
    """The same in plain torch, one token at a time."""
    last = (1 << vocabulary % 32) - 1 if vocabulary % 32 else -1
    for r in range(len(rows)):
        kept = rows[r].clone()
        for token in barred[r, (barred[r] >= 0) & (until[r] > positions[r])].tolist():
            kept[token // 32] &= ~(1 << token % 32) if token % 32 < 31 else 0x7FFFFFFF
        known = kept.clone()
        known[-1] &= last
        if bool(known.any()):
            rows[r] = kept


def _check(rows: Tensor, barred: Tensor, until: Tensor, positions: Tensor, vocabulary: int) -> None:
    count, words = len(rows), triton.cdiv(vocabulary, 32)
    for name, tensor, shape, dtype in (
        ("rows", rows, (count, words), torch.int32),
        ("barred", barred, (count, barred.shape[-1]), torch.int64),
        ("until", until, barred.shape, torch.int64),
        ("positions", positions, (count,), torch.int64),
    ):
        if tensor.dtype != dtype or tensor.shape != shape or not tensor.is_contiguous():
            raise TypeError(
                f"{NAME}: {name} {tuple(tensor.shape)} {tensor.dtype}; expected {dtype} {tuple(shape)}, contiguous"
            )


def bar_options(vocabulary: int) -> dict[str, int]:
    """How the kernel is compiled: a program holds a whole row, 16 KiB for 128k tokens."""
    return {"WORDS": triton.next_power_of_2(triton.cdiv(vocabulary, 32)), "num_warps": 8}


@triton.jit
def bar_kernel(
    rows: tl.tensor,  # [R, W]
    barred: tl.tensor,  # [R, E]
    until: tl.tensor,  # [R, E]
    positions: tl.tensor,  # [R]
    vocabulary: tl.tensor,  # V
    words: tl.tensor,  # W
    count: tl.tensor,  # E
    WORDS: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    word = tl.arange(0, WORDS)
    there = word < words
    kept = tl.load(rows + row * words + word, mask=there, other=0)
    position = tl.load(positions + row)
    for entry in tl.range(0, count):
        token = tl.load(barred + row * count + entry)
        is_barred = (token >= 0) & (position < tl.load(until + row * count + entry))
        known = tl.maximum(token, 0).to(tl.int32)
        bit = tl.where(is_barred & (word == known // 32), 1, 0) << (known % 32)
        kept = kept & ~bit
    beyond = vocabulary % 32  # bits of the last word that are tokens; 0: all
    last = tl.where((word == words - 1) & (beyond > 0), (1 << beyond) - 1, -1)
    if tl.max(tl.where((kept & last) != 0, 1, 0), 0) == 1:
        tl.store(rows + row * words + word, kept, mask=there)
