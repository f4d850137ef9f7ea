"""The decode steps of one engine on one device: buffers, tables of automata, and the captured steps over them.

A step is captured once for each `Shape`, when it is first needed; the plain ones of all sizes when the engine starts.
One that reads shared prefixes once is not captured: who shares what differs from step to step. This file knows
numbers of rows; whose they are is decoder.py's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from latticework.kernels.affordable import Automata
from latticework.kernels.automaton import TokenBytes, mask_rows
from latticework.runtime.attention.base import KVCache
from latticework.runtime.constrain.tabulate import Table
from latticework.runtime.constrain.vocabulary import Vocabulary
from latticework.runtime.device.buffers import Drawn, Rows
from latticework.runtime.device.replay import Called, CapturedGraph, Replay
from latticework.runtime.device.results import Reader, Results
from latticework.runtime.device.row import Row
from latticework.runtime.device.sizes import Shape, covering, page_sizes, row_sizes
from latticework.runtime.device.step import DecodeAttention, Parts, decode
from latticework.runtime.model.base import Model


class SharingAttention(DecodeAttention, Protocol):
    def prefixes(
        self,
        page_table: NDArray[np.int32],
        lengths: NDArray[np.int64],
        page_size: int,
        rows: NDArray[np.int64],
        count: int,
        device: torch.device,
    ) -> Any:
        """Prefixes worth reading once, of the sequences in `rows` of a step of `count`. None: there are none."""
        ...


class DecodeSteps:
    """Owner of the buffers, the tables and the graphs. Not thread-safe: steps follow each other.

    kv: its last page is the scratch page, of rows that are nobody's. rows: most sequences of a step; pages: of the
    longest sequence; table_bytes: for tables of automata. captures: steps become CUDA graphs.
    """

    def __init__(
        self,
        model: Model,
        attention: SharingAttention,
        kv: KVCache,
        vocabulary: Vocabulary,
        rows: int,
        pages: int,
        table_bytes: int,
        captures: bool,
    ) -> None:
        device = kv.keys[0].device
        self.scratch = kv.keys[0].shape[0] - 1
        self.page_size = kv.page_size
        self.rows, self.pages = rows, pages
        self.captured = 0
        self.replayed = 0
        self.launched = 0
        self._end_row = torch.from_numpy(vocabulary.end_row).to(device)
        self.states = max(1, table_bytes // (4 * (256 + vocabulary.words + 2)))
        self._parts = Parts(
            model,
            attention,
            kv,
            _no_automata(self.states, vocabulary.words, device),
            TokenBytes.of(list(vocabulary.tokens), device),
            Rows.empty(rows, pages, self.scratch, device),
            Drawn.empty(rows, device),
            torch.zeros(rows, vocabulary.words, dtype=torch.int32, device=device),
            torch.arange(rows, dtype=torch.int32, device=device),
        )
        self._attention = attention
        self._reader = Reader(rows, device)
        self._row_sizes, self._page_sizes = row_sizes(rows), page_sizes(pages, kv.page_size)
        self._pool = torch.cuda.graph_pool_handle() if captures else None
        self._replays: dict[Shape, Replay] = {}
        if captures:
            for size in reversed(self._row_sizes):  # the largest first: others use its memory
                self._prepared(Shape(size, self._page_sizes[0]))

    # ------------------------------------------------------------ tables

    def put_table(self, table: Table, base: int) -> None:
        """An automaton's states become number `base` and those after it."""
        automata, device = self._parts.automata, self._end_row.device
        onward = np.where(table.transitions < 0, -1, table.transitions + base).astype(np.int32)
        own = slice(base, base + len(onward))
        automata.transitions[own] = torch.from_numpy(onward).to(device)
        automata.costs[own] = torch.from_numpy(table.costs).to(device)
        automata.need[own] = torch.from_numpy(table.need()).to(device)
        alone = torch.from_numpy(table.transitions).to(device)
        rows = mask_rows(alone, self._parts.vocabulary)
        accepts = torch.from_numpy(table.accepts).to(device)
        automata.masks[own] = torch.where(accepts[:, None], rows | self._end_row, rows)

    # ------------------------------------------------------------ rows

    def write(self, places: Sequence[int], rows: Sequence[Row]) -> None:
        """These rows are what they are told."""
        if places:
            self._parts.rows.write(places, rows)

    def reset(self, places: Sequence[int]) -> None:
        """These rows are nobody's."""
        if places:
            self._parts.rows.write(places, [Row()] * len(places))
            self._parts.rows.forget_pages(places, self.scratch)

    def write_pages(self, cells: Sequence[tuple[int, int, int]]) -> None:
        """cells: (row, place, page)."""
        self._parts.rows.write_pages(cells)

    def move(self, source: int, target: int) -> None:
        """A row takes another's place."""
        self._parts.rows.move(source, target)

    # ------------------------------------------------------------ steps

    def launch(
        self, wanted: Shape, page_table: NDArray[np.int32], lengths: NDArray[np.int64], live: NDArray[np.int64]
    ) -> Results:
        """Does one step of at least so many rows and pages; returns before it is over, where the device can.

        page_table, lengths: of all rows, as the device has them; live: which of them are somebody's."""
        shape = replace(
            wanted, rows=covering(self._row_sizes, wanted.rows), pages=covering(self._page_sizes, wanted.pages)
        )
        prefixes = None
        if len(live) > 1:
            prefixes = self._attention.prefixes(
                page_table[live], lengths[live], self.page_size, live, shape.rows, self._end_row.device
            )
        self.launched += 1
        if prefixes is not None:
            decode(self._parts, shape, prefixes)
        else:
            self._prepared(shape).replay()
            self.replayed += 1
        return self._reader.read(self._parts.drawn)

    def _prepared(self, shape: Shape) -> Replay:
        found = self._replays.get(shape)
        if found is None:
            step = partial(decode, self._parts, shape)
            if self._pool is None:
                found = Called(step)
            else:
                found = CapturedGraph(step, self._parts.rows.kept, self._pool)
                self.captured += 1
            self._replays[shape] = found
        return found


def _no_automata(states: int, words: int, device: torch.device) -> Automata:
    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(states, *shape, dtype=torch.int32, device=device)

    return Automata(zeros(256), zeros(words), zeros(), zeros())
