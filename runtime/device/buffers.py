"""The tensors a decode step reads and writes, which stay where they are: a captured graph knows their addresses.

    row   tokens  positions  page_table        states …        drawn  status
    0     17      204        8 3 61 …          12              318    0          a sequence
    1     0       0          scratch scratch … FREE            -1     0          nobody's: padding

The rows of a step are the first n. This file knows shapes and how rows are written and moved; it computes no token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latticework.runtime.device.row import MOST_BARRED, MOST_CHANGED, MOST_LOGPROBS, UNBOUNDED, Row

_WIDE = {"barred": (-1, MOST_BARRED), "until": (0, MOST_BARRED)}
_LISTS = {"changed": (-1, MOST_CHANGED), "times": (0, MOST_CHANGED), "bias": (0, MOST_CHANGED)}


@dataclass(frozen=True, slots=True)
class Rows:
    """N rows, of sequences of at most P pages; E barred and C changed tokens each (row.py). See `Row` for each number;
    `kernels/` for what it does."""

    tokens: Tensor  # int64 [N]
    positions: Tensor  # int64 [N]
    lengths: Tensor  # int32 [N]
    live: Tensor  # int64 [N]
    page_table: Tensor  # int32 [N, P]
    temperature: Tensor  # float64 [N]
    top_k: Tensor  # int32 [N]
    top_p: Tensor  # float64 [N]
    min_p: Tensor  # float64 [N]
    seeds: Tensor  # int64 [N]
    draws: Tensor  # int64 [N]
    states: Tensor  # int32 [N]
    remaining: Tensor  # int32 [N]
    repetition: Tensor  # float64 [N]
    frequency: Tensor  # float64 [N]
    presence: Tensor  # float64 [N]
    listed: Tensor  # int64 [N]
    barred: Tensor  # int64 [N, E]
    until: Tensor  # int64 [N, E]
    changed: Tensor  # int64 [N, C]
    times: Tensor  # int32 [N, C]
    bias: Tensor  # float64 [N, C]

    @staticmethod
    def empty(count: int, pages: int, scratch: int, device: torch.device) -> Rows:
        """Rows that are nobody's. scratch: the page they write to."""

        def filled(value: float, dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.full((count, *shape), value, dtype=dtype, device=device)

        whole, short, number = torch.int64, torch.int32, torch.float64
        return Rows(
            tokens=filled(0, whole),
            positions=filled(0, whole),
            lengths=filled(0, short),
            live=filled(0, whole),
            page_table=filled(scratch, short, pages),
            temperature=filled(0, number),
            top_k=filled(0, short),
            top_p=filled(1, number),
            min_p=filled(0, number),
            seeds=filled(0, whole),
            draws=filled(0, whole),
            states=filled(-1, short),
            remaining=filled(UNBOUNDED, short),
            repetition=filled(1, number),
            frequency=filled(0, number),
            presence=filled(0, number),
            listed=filled(-1, whole),
            barred=filled(-1, whole, MOST_BARRED),
            until=filled(0, whole, MOST_BARRED),
            changed=filled(-1, whole, MOST_CHANGED),
            times=filled(0, short, MOST_CHANGED),
            bias=filled(0, number, MOST_CHANGED),
        )

    def first(self, count: int, pages: int) -> Rows:
        """The first `count` rows, of sequences of at most so many pages: the same memory."""
        cut = Rows(*(tensor[:count] for tensor in self._tensors()))
        return replace(cut, page_table=cut.page_table[:, :pages])

    def write(self, places: Sequence[int], rows: Sequence[Row]) -> None:
        """Everything of these rows but their pages."""
        where = self._moved(np.array(places, np.int64))
        for name, tensor in self._named():
            if name == "page_table":
                continue
            values = [getattr(row, name) for row in rows]
            if name not in _WIDE and name not in _LISTS:
                tensor.index_copy_(0, where, self._moved(np.array(values), tensor.dtype))
                continue
            nothing = (_WIDE | _LISTS)[name][0]
            if all(value is None for value in values):
                tensor.index_fill_(0, where, nothing)
                continue
            empty = np.full(tensor.shape[1], nothing)
            stacked = np.stack([empty if value is None else value for value in values])
            tensor.index_copy_(0, where, self._moved(stacked, tensor.dtype))

    def write_pages(self, cells: Sequence[tuple[int, int, int]]) -> None:
        """cells: (row, place, page)."""
        if cells:
            rows, places, pages = self._moved(np.array(cells, np.int64).T.copy())
            self.page_table[rows, places] = pages.int()

    def forget_pages(self, places: Sequence[int], scratch: int) -> None:
        """The pages of these rows are no longer theirs to write."""
        self.page_table.index_fill_(0, self._moved(np.array(places, np.int64)), scratch)

    def move(self, source: int, target: int) -> None:
        """A row takes another's place; `source` stays as it is."""
        for tensor in self._tensors():
            tensor[target] = tensor[source]

    @contextmanager
    def kept(self) -> Iterator[None]:
        """What is done to the rows inside is undone: for a step that is only tried out."""
        saved = [tensor.clone() for tensor in self._tensors()]
        try:
            yield
        finally:
            for tensor, before in zip(self._tensors(), saved, strict=True):
                tensor.copy_(before)

    def _named(self) -> list[tuple[str, Tensor]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self)]

    def _tensors(self) -> list[Tensor]:
        return [tensor for _, tensor in self._named()]

    def _moved(self, numbers: NDArray[np.generic], dtype: torch.dtype | None = None) -> Tensor:
        """On the device, without waiting for it."""
        tensor = torch.from_numpy(numbers)
        tensor = tensor if dtype is None else tensor.to(dtype)
        if self.tokens.device.type == "cuda":
            return tensor.pin_memory().to(self.tokens.device, non_blocking=True)
        return tensor


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a step has drawn: N rows.

    tokens: int64 [N], -1 where nothing was; status: int32 [N] (kernels/sample.py); logprobs: float64 [N], of the token;
    likeliest: int64 [N, K]; theirs: float64 [N, K]. The last three where they are asked for.
    """

    tokens: Tensor
    status: Tensor
    logprobs: Tensor
    likeliest: Tensor
    theirs: Tensor

    @staticmethod
    def empty(count: int, device: torch.device) -> Drawn:
        return Drawn(
            torch.full((count,), -1, dtype=torch.int64, device=device),
            torch.zeros(count, dtype=torch.int32, device=device),
            torch.zeros(count, dtype=torch.float64, device=device),
            torch.zeros(count, MOST_LOGPROBS, dtype=torch.int64, device=device),
            torch.zeros(count, MOST_LOGPROBS, dtype=torch.float64, device=device),
        )

    def tensors(self) -> tuple[Tensor, ...]:
        return self.tokens, self.status, self.logprobs, self.likeliest, self.theirs
