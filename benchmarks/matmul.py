"""What a model's matrices alone cost: `python -m benchmarks.matmul --json FILE`.

Milliseconds for one pass through all matrices of the layers, and for the head, by format and number of rows: what no
step can be faster than. All of a model's own weights are used, one after the other as in a step, so they come from
memory; formats take turns, and what is told is the median. Where a format has two forms of a weight, both are measured,
and the format as it chooses.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.hardware import conditions
from latticework.runtime.model.cpu_kernels import load_kernels
from latticework.runtime.model.layers import Linear
from latticework.runtime.model.load import load_model, torch_dtype
from latticework.runtime.model.locate import find_model
from latticework.runtime.model.quantize.base import Quantization
from latticework.runtime.model.quantize.by_rows import ByRows
from latticework.runtime.model.threads import use_threads

ROWS = (1, 2, 4, 8, 16, 32, 64, 256)
REPEATS = 7
SETTINGS: tuple[tuple[str, Quantization], ...] = (
    ("float32", "none"),
    ("bfloat16", "none"),
    ("bfloat16", "int8"),
    ("bfloat16", "int4"),
    ("bfloat16", "auto"),
)

Call = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Pass:
    """All matrices of one model in one format: (inputs, how to multiply with it)."""

    dtype: torch.dtype
    layers: list[tuple[int, Call]]
    head: tuple[int, Call]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    use_threads(arguments.threads)
    passes = load(arguments.model)
    found = measure(passes, arguments.rows, arguments.repeats)
    show(found, arguments.rows)
    if arguments.json:
        report = conditions() | {
            "model": arguments.model,
            "threads": torch.get_num_threads(),
            "repeats": arguments.repeats,
            "milliseconds": found,
        }
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def load(name: str) -> dict[str, Pass]:
    """The model in every format, and in every form of formats that have two."""
    card, library = find_model(name), load_kernels("auto")
    found: dict[str, Pass] = {}
    for dtype, quantization in SETTINGS:
        linears = [
            linear for _, linear in load_model(card, dtype, quantization=quantization, library=library).linears()
        ]
        kind = torch_dtype(dtype)
        title = dtype if quantization == "none" else quantization
        found[title] = _pass(kind, linears, lambda linear: linear)
        if any(isinstance(linear.packed, ByRows) for linear in linears):
            found[f"{title}, few rows"] = _pass(kind, linears, _few)
            found[f"{title}, many rows"] = _pass(kind, linears, _many)
    return found


def _pass(dtype: torch.dtype, linears: list[Linear], choose: Callable[[Linear], Call]) -> Pass:
    *layers, head = [(linear.inputs, choose(linear)) for linear in linears]
    return Pass(dtype, layers, head)


def _few(linear: Linear) -> Call:
    return linear.packed.few if isinstance(linear.packed, ByRows) else linear


def _many(linear: Linear) -> Call:
    return linear.packed.many if isinstance(linear.packed, ByRows) else linear


@torch.inference_mode()
def measure(passes: dict[str, Pass], rows: list[int], repeats: int) -> dict[str, dict[str, dict[str, float]]]:
    """{format: {rows: {"layers": ms, "head": ms}}}"""
    found: dict[str, dict[str, dict[str, float]]] = {title: {} for title in passes}
    for count in rows:
        taken: dict[str, list[tuple[float, float]]] = {title: [] for title in passes}
        for _ in range(repeats + 1):
            for title, one in passes.items():
                taken[title].append((_time(one.layers, count, one.dtype), _time([one.head], count, one.dtype)))
        for title, times in taken.items():
            layers, head = zip(*times[1:], strict=True)  # the first calls make kernels
            found[title][str(count)] = {
                "layers": round(1000 * statistics.median(layers), 3),
                "head": round(1000 * statistics.median(head), 3),
            }
    return found


def _time(matrices: list[tuple[int, Call]], rows: int, dtype: torch.dtype) -> float:
    inputs = {size: torch.randn(rows, size, dtype=torch.float32).to(dtype) for size, _ in matrices}
    start = time.perf_counter()
    for size, multiply in matrices:
        multiply(inputs[size])
    return time.perf_counter() - start


def show(found: dict[str, dict[str, dict[str, float]]], rows: list[int]) -> None:
    print(f"{'ms: layers + head':18}" + "".join(f"{count:>16}" for count in rows))
    for title, by_rows in found.items():
        cells = (by_rows[str(count)] for count in rows)
        print(f"{title:18}" + "".join(f"{cell['layers']:>9.2f} +{cell['head']:>5.2f}" for cell in cells))


if __name__ == "__main__":
    main()
