"""A kernel with inputs: what is checked against its twin and then timed beside others that do the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from latticework.kernels.paged import DTYPES

Maker = Callable[[torch.device, torch.dtype], "Work"]
NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
assert set(NAMES) == set(DTYPES)


@dataclass(frozen=True)
class Rival:
    """Another implementation. alike: it gives what the kernel gives, and is held to that."""

    run: Callable[[], Tensor]
    alike: bool = True


@dataclass(frozen=True)
class Work:
    """One call of a kernel.

    run: the call; it may change its inputs, but every call takes as long. exact: its twin on float64 copies of the
    inputs as they are now. bytes, flops: the least that has to be moved and computed: every input read and every output
    written once. decides: outputs are tokens, masks or states, which are right or wrong.
    """

    run: Callable[[], tuple[Tensor, ...]]
    exact: Callable[[], tuple[Tensor, ...]]
    bytes: int
    flops: int
    rivals: Mapping[str, Rival] = field(default_factory=dict)
    decides: bool = False


@dataclass(frozen=True)
class Case:
    """Named work, whose inputs are made when it is its turn. typed: it has numbers in the model's dtype; the others
    have logits, in float32, or none."""

    kernel: str
    shape: str
    make: Maker
    typed: bool = True

    def __str__(self) -> str:
        return f"{self.kernel}, {self.shape}"


def size_of(*tensors: Tensor) -> int:
    """Bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def in_double(*tensors: Tensor) -> list[Tensor]:
    """Copies; numbers that are not floating-point ones stay as they are."""
    return [tensor.double() if tensor.is_floating_point() else tensor.clone() for tensor in tensors]
