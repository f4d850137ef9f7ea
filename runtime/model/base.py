"""The contract of a model that the runner steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor, nn

from latticework.runtime.attention.base import Turning
from latticework.runtime.model.spec import ModelSpec

Attend: TypeAlias = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q [T, heads, head_dim], k, v [T, kv_heads, head_dim]) -> [T, heads, head_dim]."""


@dataclass(frozen=True, slots=True)
class QkvAttend:
    """An `Attend` that also takes q, k and v in one, before norms and rotary positions: see `QkvBackend`."""

    heads: Attend
    qkv: Callable[[int, Tensor, Turning], Tensor]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.heads(layer, q, k, v)


class Model(Protocol):
    """A decoder over T tokens of any number of sequences, end to end. Tokens meet only in `attend`."""

    @property
    def spec(self) -> ModelSpec: ...

    def __call__(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """tokens, positions: [T] int64 -> [T, hidden], normed."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [R, hidden] -> [R, V]."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    @property
    def pads(self) -> bool:
        """Whether a few more rows that are nobody's are cheaper than many different numbers of rows."""
        ...

    def held(self) -> dict[str, int]:
        """How many matrices are held in which forms, for people to read."""
        ...
