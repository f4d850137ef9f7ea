"""Everything one model step needs, complete when built.

The scheduler builds it, the runner reads it. numpy only: nothing here knows torch.

    tokens     t0 t1 t2 | u0 | v0 v1        the new tokens of B sequences, end to end
    starts     0          3    4       6    where each sequence's new tokens begin
    lengths    9          120  2            KV length of each sequence once this step's tokens are in
    copies     t1 -> slot of the second     sequences that have the same tokens compute them once: the KV goes to both
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


def _no_copies() -> NDArray[np.int64]:
    return np.zeros((2, 0), dtype=np.int64)


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
    copies: NDArray[np.int64] = field(default_factory=_no_copies)  # [2, C]: the KV of this token goes to this slot, too

    @property
    def is_decode(self) -> bool:
        """One new token for every sequence."""
        return len(self.tokens) == len(self.lengths)


@dataclass(frozen=True, slots=True)
class Entry:
    """One sequence's part of a batch: its new tokens, where they go, and how many of the last get logits.

    source: an entry before it that computes, or copies itself, the `copied` tokens right before `start`."""

    tokens: list[int]
    start: int  # position of tokens[0]
    pages: list[int]  # cover every position up to start + len(tokens)
    logits: int
    source: Entry | None = None
    copied: int = 0


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
        copies=_copies(entries, starts, table, page_size),
    )


def _copies(
    entries: list[Entry], starts: NDArray[np.int64], table: NDArray[np.int32], page_size: int
) -> NDArray[np.int64]:
    """What entries have from others: rows of T, and the slots they go to, too: [2, C]."""
    begins = {id(entry): int(start) for entry, start in zip(entries, starts[:-1], strict=True)}
    found = [_no_copies()]
    for row, entry in enumerate(entries):
        if entry.source is not None:
            positions = np.arange(entry.start - entry.copied, entry.start)
            slots = table[row, positions // page_size].astype(np.int64) * page_size + positions % page_size
            found.append(np.stack([_rows(entry.source, begins, int(positions[0]), entry.start), slots]))
    return np.concatenate(found, axis=1)


def _rows(entry: Entry, begins: dict[int, int], first: int, end: int) -> NDArray[np.int64]:
    """Which of T compute positions first..end of an entry, be they its own or copied."""
    own = min(max(first, entry.start), end)
    rows = begins[id(entry)] - entry.start + np.arange(own, end)
    if first >= own:
        return rows
    assert entry.source is not None, "copied from an entry that does not have it"
    return np.concatenate([_rows(entry.source, begins, first, own), rows])
