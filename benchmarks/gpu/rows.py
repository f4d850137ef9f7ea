"""What a run of `benchmarks.gpu` finds, row by row. Parts write rows to a file as they come, a line of JSON each, so
what a part has measured is there even if it is ended. Seconds, bytes and operations; no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import msgspec


class Machine(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What everything ran on. interpreted: Triton's interpreter and a CPU's clock, so no time is a measurement."""

    name: str
    interpreted: bool
    memory: int  # bytes; 0 if there is no device
    capability: int  # 90 for compute capability 9.0
    packages: dict[str, str]


class Limits(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The device's own, measured in the same run: a large copy, read and written bytes counted, and a large product
    of random bfloat16 matrices."""

    copy: float  # bytes a second
    matmul: float  # operations a second


class Check(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A kernel beside its twin on float64 copies of its inputs. error: the norm of the difference over the norm, or for
    kernels that decide (tokens, masks, states) the share of different decisions; None: not a number."""

    kernel: str
    shape: str
    dtype: str
    error: float | None
    tolerance: float

    @property
    def is_right(self) -> bool:
        return self.error is not None and self.error <= self.tolerance


class KernelTime(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Median time of one call, and the least that it has to move and to compute. rivals: seconds of others that give
    the same, by name. launched: the time is of single launches, as the call could not be captured in a graph."""

    kernel: str
    shape: str
    seconds: float
    bytes: int
    flops: int
    rivals: dict[str, float]
    launched: bool


class Decode(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Steps in which `batch` sequences draw a token each, at `context` tokens. bytes, flops: the least of a step.
    rounds: tokens a second of each turn."""

    system: str
    model: str
    batch: int
    context: int
    tokens_per_second: float
    rounds: list[float]
    bytes: int
    flops: int

    @property
    def step(self) -> float:
        return self.batch / self.tokens_per_second


class Prefill(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A prompt of so many tokens, from its submission to its first token. flops: the least of it."""

    system: str
    model: str
    tokens: int
    seconds: float
    flops: int


class Constrained(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Seconds of a decode step without and with a constraint, medians of turns. by_host: tokens of the constrained
    ones that were not drawn on the device."""

    model: str
    batch: int
    free: float
    constrained: float
    by_host: int


class StepParts(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Where a decode step's time goes, in seconds a step. step: measured without the profiler. kernels: by kind, sums
    of kernels' durations. between: the device waits inside one launch (a graph), host: it waits for the next launch.
    python: what the host does meanwhile, by part."""

    model: str
    batch: int
    step: float
    kernels: dict[str, float]
    between: float
    host: float
    python: dict[str, float]


class LeftOut(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What was not measured, and why. Nothing is left out without such a row."""

    part: str
    what: str
    why: str


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What ended with an error."""

    part: str
    what: str
    error: str


AnyRow: TypeAlias = (
    Machine | Limits | Check | KernelTime | Decode | Prefill | Constrained | StepParts | LeftOut | Failed
)


class RowFile:
    """Where one part writes its rows."""

    def __init__(self, path: Path, part: str) -> None:
        self._path = path
        self._part = part

    def write(self, row: AnyRow) -> None:
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(row) + b"\n")

    def leave_out(self, what: str, why: str) -> None:
        self.write(LeftOut(part=self._part, what=what, why=why))

    def fail(self, what: str, error: BaseException) -> None:
        text = f"{type(error).__name__}: {error}".strip()
        self.write(Failed(part=self._part, what=what, error=text[:2000]))


def read_rows(path: Path) -> list[AnyRow]:
    """A last line that was cut off, by the end of the process that wrote it, is not counted."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [msgspec.json.decode(line, type=AnyRow) for line in lines]
