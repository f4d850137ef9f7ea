"""What is asked of a GPU, and what a run found of it. Arithmetic on rows; no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from benchmarks.gpu.rows import AnyRow, Constrained, Decode, KernelTime, Limits, Machine, Prefill, StepParts

OURS = "latticework"
WITHOUT_CASCADE = "without cascade"
Found = TypeVar("Found", Decode, Prefill)


@dataclass(frozen=True)
class Goal:
    """found: None if it was not measured. judged: it was measured on a device."""

    name: str
    wanted: float
    at_least: bool
    found: float | None
    judged: bool = True

    @property
    def is_met(self) -> bool | None:
        """None: nobody knows."""
        if self.found is None or not self.judged:
            return None
        return self.found >= self.wanted if self.at_least else self.found <= self.wanted

    def __str__(self) -> str:
        found = "not measured" if self.found is None else f"{self.found:.3f}"
        verdict = {None: "not judged" if not self.judged else "", True: "met", False: "NOT MET"}[self.is_met]
        return f"{self.name:70} {'≥' if self.at_least else '≤'} {self.wanted:<5g} {found:>12}  {verdict}".rstrip()


@dataclass(frozen=True)
class Subjects:
    """What goals are about. model: by name; decode, cascade: kernels' shapes; batches: those of single goals."""

    model: str
    decode: str
    cascade: str
    alone: int
    together: int


def floor(limits: Limits, moved: int, computed: int) -> float:
    """Seconds below which no version gets: at the measured rates, whichever takes longer."""
    return max(moved / limits.copy, computed / limits.matmul)


def goals(rows: Sequence[AnyRow], about: Subjects) -> list[Goal]:
    """All of them, found or not. Of the limits that each part measures, the first are taken."""
    limits = next((row for row in rows if isinstance(row, Limits)), None)
    judged = not any(isinstance(row, Machine) and row.interpreted for row in rows)
    found = (*_of_kernels(rows, limits, about), *_of_the_model(rows, limits, about), *_of_steps(rows))
    return [replace(goal, judged=judged) for goal in found]


def _of_kernels(rows: Sequence[AnyRow], limits: Limits | None, about: Subjects) -> Iterator[Goal]:
    decode = _kernel(rows, "paged_decode", about.decode)
    share = None if decode is None or limits is None else decode.bytes / decode.seconds / limits.copy
    yield Goal(f"decode attention, {about.decode}: share of the measured copy bandwidth", 0.85, True, share)
    cascade = _kernel(rows, "cascade_decode", about.cascade)
    alone = None if cascade is None else cascade.rivals.get(WITHOUT_CASCADE)
    times = None if cascade is None or alone is None else alone / cascade.seconds
    yield Goal(f"attention, {about.cascade}: times as fast with cascade", 5.0, True, times)


def _of_the_model(rows: Sequence[AnyRow], limits: Limits | None, about: Subjects) -> Iterator[Goal]:
    steps = {row.batch: row for row in _ours(rows, Decode) if row.model == about.model}
    for batch, wanted in ((about.alone, 0.85), (about.together, 0.70)):
        step = steps.get(batch)
        share = None if step is None or limits is None else step.bytes / limits.copy / step.step
        yield Goal(f"{about.model}, decode at batch {batch}: share of the bandwidth floor", wanted, True, share)
    prompt = next((row for row in _ours(rows, Prefill) if row.model == about.model), None)
    share = None if prompt is None or limits is None else prompt.flops / prompt.seconds / limits.matmul
    yield Goal(f"{about.model}, prefill: share of the measured matmul rate", 0.60, True, share)


def _of_steps(rows: Sequence[AnyRow]) -> Iterator[Goal]:
    """Of every model and batch that was measured, as none is named."""
    constrained = [row for row in rows if isinstance(row, Constrained)]
    for one in constrained:
        name = f"{one.model}, batch {one.batch}: constrained step over free step"
        yield Goal(name, 1.02, False, one.constrained / one.free)
    if not constrained:
        yield Goal("constrained step over free step", 1.02, False, None)
    steps = [row for row in rows if isinstance(row, StepParts)]
    for step in steps:
        yield Goal(f"{step.model}, batch {step.batch}: host gap of a step", 0.03, False, step.host / step.step)
    if not steps:
        yield Goal("host gap of a step", 0.03, False, None)


def _kernel(rows: Iterable[AnyRow], kernel: str, shape: str) -> KernelTime | None:
    times = (row for row in rows if isinstance(row, KernelTime))
    return next((row for row in times if (row.kernel, row.shape) == (kernel, shape)), None)


def _ours(rows: Iterable[AnyRow], kind: type[Found]) -> list[Found]:
    return [row for row in rows if isinstance(row, kind) and row.system == OURS]
