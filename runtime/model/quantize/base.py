"""The contract of a form: one way in which a weight is held and multiplied with.

A weight may have several forms, of which the number of rows chooses one (see `by_rows.py`). What a form is made of
are plain tensors, so that it can be kept on disk (see `store.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, TypeAlias

from torch import Tensor

Kind: TypeAlias = Literal["plain", "int8", "int4"]
Quantization: TypeAlias = Literal["none", "int8", "int4", "auto"]

Parts: TypeAlias = Mapping[str, Tensor]
"""The tensors of a form by name, as they are kept on disk."""


class Form(Protocol):
    """A weight [outputs, inputs] that rows are multiplied with."""

    @property
    def kind(self) -> Kind: ...

    @property
    def pads(self) -> bool:
        """Whether a few more rows that are nobody's are cheaper than many different numbers of rows."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """x: [T, inputs], T >= 1 -> x @ weight.T + bias, [T, outputs], in the type of x."""
        ...
