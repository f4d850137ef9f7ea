"""Two forms of one weight, of which the number of rows chooses.

In fewer bits a weight is read in less time, which is all the time that one row takes; but what is done to its codes
or to the rows costs more with every row. From which number of rows on the other form is faster, `crossing.py` finds.
"""

from __future__ import annotations

from torch import Tensor

from latticework.runtime.model.quantize.base import Form

FEW_ROWS = 4
"""Rows up to which the first form is taken where nothing was measured."""


class ByRows:
    """`few` serves up to `limit` rows, `many` serves more."""

    def __init__(self, few: Form, many: Form, limit: int = FEW_ROWS) -> None:
        self.few, self.many, self.limit = few, many, limit

    @property
    def kind(self) -> str:
        return f"{self.few.kind} to {self.limit} rows, {self.many.kind}"

    @property
    def pads(self) -> bool:
        return self.few.pads or self.many.pads

    def __call__(self, x: Tensor) -> Tensor:  # [T, inputs] -> [T, outputs]
        return self.few(x) if len(x) <= self.limit else self.many(x)
