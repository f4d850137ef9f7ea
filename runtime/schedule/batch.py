"""Everything one model step needs, complete when built.

The scheduler builds it, the runner reads it. numpy only: nothing here knows torch.

    tokens     t0 t1 t2 | u0 | v0 v1        the new tokens of B sequences, end to end
    starts     0          3    4       6    where each sequence's new tokens begin
    lengths    9          120  2            KV length of each sequence once this step's tokens are in
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Batch:
    """B sequences with T new tokens in all, R rows of logits.

    Position i of a sequence lives in page page_table[b, i // page_size] at offset i % page_size.
    """

    tokens: NDArray[np.int64]  # [T]
    positions: NDArray[np.int64]  # [T]
    slots: NDArray[np.int64]  # [T], page * page_size + offset: where this token's KV is written
    starts: NDArray[np.int64]  # [B + 1]
    lengths: NDArray[np.int64]  # [B]
    page_table: NDArray[np.int32]  # [B, P], unused entries 0
    logit_rows: NDArray[np.int64]  # [R], indices into T, ascending

    @property
    def is_decode(self) -> bool:
        """One new token for every sequence."""
        return len(self.tokens) == len(self.lengths)


@dataclass(frozen=True, slots=True)
class Entry:
    """One sequence's part of a batch: its new tokens, where they go, and how many of the last get logits."""

    tokens: list[int]
    start: int  # position of tokens[0]
    pages: list[int]  # cover every position up to start + len(tokens)
    logits: int


def build_batch(entries: list[Entry], page_size: int) -> Batch:
    """The batch of `entries`, in their order; logit rows follow that order too."""
    counts = np.array([len(entry.tokens) for entry in entries], dtype=np.int64)
    starts = np.zeros(len(entries) + 1, dtype=np.int64)
    np.cumsum(counts, out=starts[1:])
    first = np.array([entry.start for entry in entries], dtype=np.int64)
    positions = np.arange(starts[-1]) + np.repeat(first - starts[:-1], counts)
    table = np.zeros((len(entries), max(len(entry.pages) for entry in entries)), dtype=np.int32)
    for row, entry in enumerate(entries):
        table[row, : len(entry.pages)] = entry.pages
    owner = np.repeat(np.arange(len(entries)), counts)
    slots = table[owner, positions // page_size].astype(np.int64) * page_size + positions % page_size
    rows = [np.arange(end - entry.logits, end) for entry, end in zip(entries, starts[1:], strict=True)]
    return Batch(
        tokens=np.concatenate([np.asarray(entry.tokens, dtype=np.int64) for entry in entries]),
        positions=positions,
        slots=slots,
        starts=starts,
        lengths=first + counts,
        page_table=table,
        logit_rows=np.concatenate(rows).astype(np.int64),
    )
