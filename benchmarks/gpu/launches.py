"""Which kernels a call would launch, and how they would be compiled, without a device: tensors on torch's meta device.

What stands here of Triton is how it reads arguments: pointers that are multiples of 16 bytes, numbers that are
multiples of 16, and ones, which become constants; neither where a kernel says that a number changes too often for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from latticework.kernels import choice

META = torch.device("meta")
TYPES = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.int32: "i32",
    torch.int64: "i64",
}


@dataclass(frozen=True)
class Launch:
    """kernel: the function that @triton.jit made. arguments: Triton's types by name, ":16" behind those that are
    multiples of 16. options: constants, and how it is compiled."""

    kernel: Any
    arguments: dict[str, str]
    options: dict[str, Any]

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for launches that run the same code."""
        return (self.kernel.__name__, *sorted(self.arguments.items()), *sorted(map(repr, self.options.items())))


def launches_of(run: Callable[[], object], capability: int) -> list[Launch]:
    """Those that a call on meta tensors would make on this architecture. Nothing runs."""
    with _recording() as launches, _as_if_on(capability):
        run()
    return launches


@contextmanager
def _recording() -> Iterator[list[Launch]]:
    """Every launch of a kernel is noted instead."""
    launches: list[Launch] = []

    def note(kernel: Any, *given: Any, grid: Any, warmup: bool, **options: Any) -> None:
        launches.append(_read(kernel, given, options))

    before = triton.JITFunction.run
    triton.JITFunction.run = note
    try:
        yield launches
    finally:
        triton.JITFunction.run = before


@contextmanager
def _as_if_on(capability: int) -> Iterator[None]:
    """Kernels get the options of this architecture where there is no device."""
    before = choice.INTERPRETED_AS
    choice.INTERPRETED_AS = capability
    choice.capability_of.cache_clear()
    try:
        yield
    finally:
        choice.INTERPRETED_AS = before
        choice.capability_of.cache_clear()


def _read(kernel: Any, given: tuple[Any, ...], options: dict[str, Any]) -> Launch:
    values = dict(zip(kernel.arg_names, given, strict=False)) | {
        name: options[name] for name in kernel.arg_names if name in options
    }
    constants = {name: value for name, value in options.items() if name not in kernel.arg_names}
    arguments: dict[str, str] = {}
    for name, parameter in zip(kernel.arg_names, kernel.params, strict=True):
        value = values[name]
        specialised = not parameter.do_not_specialize
        if parameter.is_constexpr or (specialised and isinstance(value, int) and value == 1):
            constants[name] = value
        else:
            arguments[name] = _type(value, specialised)
    return Launch(kernel, arguments, constants)


def _type(value: Any, specialised: bool) -> str:
    if isinstance(value, Tensor):
        return f"*{TYPES[value.dtype]}:16"
    if isinstance(value, float):
        return "fp32"
    kind = "i32" if -(2**31) <= value < 2**31 else "i64"
    return f"{kind}:16" if specialised and value % 16 == 0 else kind
