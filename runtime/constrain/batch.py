"""The masks of many sequences at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from latticework.lang.errors import InvalidArgument
from latticework.runtime.constrain.base import Matcher


def fill_masks(
    matchers: Sequence[Matcher], rows: NDArray[np.int32], remaining: Sequence[int | None] | None = None
) -> None:
    """Overwrites each row with the tokens that its matcher allows next: `fill_mask` for a batch.

    rows: int32[B, W], in the order of the B matchers, which may be of different automata over vocabularies of one
    width. remaining: for each the tokens left, or None; None: no budgets. Raises InvalidArgument, and touches no row,
    where the numbers do not fit.
    """
    if rows.ndim != 2 or rows.dtype != np.int32:
        raise InvalidArgument(
            f"rows is {rows.dtype}{list(rows.shape)}", field="rows", hint="int32[B, W], a row for each matcher"
        )
    if len(rows) != len(matchers):
        raise InvalidArgument(f"{len(rows)} rows for {len(matchers)} matchers", field="rows")
    if remaining is not None and len(remaining) != len(matchers):
        raise InvalidArgument(f"{len(remaining)} budgets for {len(matchers)} matchers", field="remaining")
    budgets = [None] * len(matchers) if remaining is None else remaining
    for matcher, row, budget in zip(matchers, rows, budgets, strict=True):
        matcher.fill_mask(row, budget)


__all__ = ["fill_masks"]
