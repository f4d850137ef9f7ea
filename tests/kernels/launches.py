"""Launches that are compiled as the runtime makes them and not run, on a machine without a GPU.

A double of Triton's driver says that there is a GPU, and every launch stops after compilation; tensors lie on the CPU.
What comes out is memory as it was, so only what has been compiled tells anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction


class Driver:
    """What compiling asks a driver."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Launches:
    """programs: the compiled ones of each kernel, by its name. launched: how often each was launched."""

    def __init__(self) -> None:
        self.programs: dict[str, list[Any]] = {}
        self.launched: dict[str, int] = {}

    def add(self, name: str, program: Any) -> None:
        self.launched[name] = self.launched.get(name, 0) + 1
        known = self.programs.setdefault(name, [])
        if all(program is not other for other in known):
            known.append(program)

    @property
    def counts(self) -> Mapping[str, int]:
        """How many programs each kernel was compiled to."""
        return {name: len(programs) for name, programs in self.programs.items()}


def record_launches(monkeypatch: pytest.MonkeyPatch, capability: int = 90) -> Launches:
    """From now on to the end of the test."""
    launches = Launches()
    run = JITFunction.run

    def compile_only(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        assert all(size > 0 for size in grid), (kernel.__name__, grid)
        program = run(kernel, *arguments, grid=grid, warmup=True, **options)
        launches.add(kernel.__name__, program)
        return program

    monkeypatch.setattr(JITFunction, "run", compile_only)
    monkeypatch.setattr(driver, "_active", Driver(capability))
    return launches
