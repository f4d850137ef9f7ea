"""A run as text and as a file. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import msgspec

from benchmarks.gpu.goals import Goal, floor
from benchmarks.gpu.rows import (
    AnyRow,
    Check,
    Constrained,
    Decode,
    Failed,
    KernelTime,
    LeftOut,
    Limits,
    Machine,
    Prefill,
    StepParts,
)

NOT_MEASURED = "interpreter, not a measurement"


def as_document(rows: Sequence[AnyRow], goals: Iterable[Goal], about: dict[str, Any]) -> dict[str, Any]:
    """Rows by kind, each with what is derived from it."""
    kinds = (Limits, Check, KernelTime, Decode, Prefill, Constrained, StepParts, LeftOut, Failed)
    machine = next((row for row in rows if isinstance(row, Machine)), None)
    found: dict[str, Any] = {
        **about,
        "machine": None if machine is None else msgspec.to_builtins(machine),
        "goals": [asdict(goal) | {"met": goal.is_met} for goal in goals],
    }
    limits = next((row for row in rows if isinstance(row, Limits)), None)
    for kind in kinds:
        found[kind.__name__] = [_filled(row, limits) for row in rows if isinstance(row, kind)]
    return found


def _filled(row: AnyRow, limits: Limits | None) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(row)
    del plain["type"]
    if limits is not None and isinstance(row, KernelTime | Decode):
        plain["share_of_limit"] = floor(limits, row.bytes, row.flops) / _seconds(row)
    return plain


def _seconds(row: KernelTime | Decode) -> float:
    return row.step if isinstance(row, Decode) else row.seconds


def lines(rows: Sequence[AnyRow], goals: Iterable[Goal]) -> Iterator[str]:
    """The table."""
    machine = next((row for row in rows if isinstance(row, Machine)), None)
    limits = next((row for row in rows if isinstance(row, Limits)), None)
    if machine is not None:
        note = f": {NOT_MEASURED}" if machine.interpreted else ""
        yield f"{machine.name}{note}; " + ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    if limits is not None:
        yield f"limits: copy {limits.copy / 1e9:.3g} GB/s, bfloat16 matmul {limits.matmul / 1e12:.3g} TFLOP/s"
    yield from _checks([row for row in rows if isinstance(row, Check)])
    yield from _kernels([row for row in rows if isinstance(row, KernelTime)], limits)
    yield from _models(rows, limits)
    yield from _steps(rows)
    yield from ("", f"{'goal':70} {'wanted':7} {'found':>12}")
    yield from map(str, goals)
    for row in rows:
        if isinstance(row, LeftOut):
            yield f"left out: {row.what} ({row.part}): {row.why}"
        elif isinstance(row, Failed):
            yield f"FAILED: {row.what} ({row.part}): {row.error}"
    if machine is not None and machine.interpreted:
        yield f"{NOT_MEASURED}: this run shows that everything runs, and nothing about speed"


def _checks(rows: list[Check]) -> Iterator[str]:
    wrong = [row for row in rows if not row.is_right]
    yield f"correctness: {len(rows) - len(wrong)} of {len(rows)} results as their twins in float64"
    for row in wrong:
        yield f"  WRONG: {row.kernel}, {row.shape}, {row.dtype}: error {row.error}, allowed {row.tolerance:g}"


def _kernels(rows: list[KernelTime], limits: Limits | None) -> Iterator[str]:
    if not rows:
        return
    yield from ("", f"{'kernel':16} {'shape':34} {'µs':>10} {'GB/s':>8} {'TFLOP/s':>8} {'of limit':>8}  others, µs")
    for row in rows:
        reached = "" if limits is None else f"{floor(limits, row.bytes, row.flops) / row.seconds:.0%}"
        others = ", ".join(f"{name} {1e6 * seconds:.1f}" for name, seconds in row.rivals.items())
        rates = f"{row.bytes / row.seconds / 1e9:8.1f} {row.flops / row.seconds / 1e12:8.2f}"
        mark = "*" if row.launched else " "
        yield f"{row.kernel:16} {row.shape:34} {1e6 * row.seconds:10.1f}{mark}{rates} {reached:>8}  {others}"
    if any(row.launched for row in rows):
        yield "* launched one by one: not captured in a graph"


def _models(rows: Sequence[AnyRow], limits: Limits | None) -> Iterator[str]:
    decodes = [row for row in rows if isinstance(row, Decode)]
    if decodes:
        yield from (
            "",
            f"{'decode':14} {'by':14} {'batch':>6} {'context':>8} {'tokens/s':>10} {'ms/step':>9} {'of limit':>8}",
        )
    for one in sorted(decodes, key=lambda row: (row.model, row.batch, row.system)):
        reached = "" if limits is None else f"{floor(limits, one.bytes, one.flops) / one.step:.0%}"
        rate = f"{one.tokens_per_second:10.1f} {1e3 * one.step:9.3f}"
        yield f"{one.model:14} {one.system:14} {one.batch:6d} {one.context:8d} {rate} {reached:>8}"
    for prompt in (row for row in rows if isinstance(row, Prefill)):
        reached = "" if limits is None else f", {prompt.flops / prompt.seconds / limits.matmul:.0%} of the matmul rate"
        rate = f"{prompt.tokens / prompt.seconds:.0f} tokens/s"
        yield f"prefill, {prompt.model}, {prompt.system}: {prompt.tokens} tokens at {rate}{reached}"


def _steps(rows: Sequence[AnyRow]) -> Iterator[str]:
    for row in rows:
        if isinstance(row, Constrained):
            times = f"free {1e3 * row.free:.3f} ms, constrained {1e3 * row.constrained:.3f} ms"
            times += f", {row.by_host} tokens of it drawn by the host"
            yield f"step of {row.model} at batch {row.batch}: {times}"
        elif isinstance(row, StepParts):
            kinds = sorted(row.kernels.items(), key=lambda pair: -pair[1])
            parts = [*kinds, ("between kernels", row.between), ("host gap", row.host)]
            told = ", ".join(f"{name} {1e3 * seconds:.3f}" for name, seconds in parts)
            yield f"a step of {row.model} at batch {row.batch} takes {1e3 * row.step:.3f} ms: {told}"
