"""What can be told of a GPU without one: `python -m benchmarks.gpu.estimates --json FILE`.

Two things, neither of them a measurement. Reports of the compiler: what the code of every kernel in the timed shapes
needs on sm_80 and sm_90. Estimates: the least time of each kernel and model step by datasheet rates, which no run gets
below and most do not reach.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.cases import timed
from benchmarks.gpu.launches import META, Launch, launches_of
from benchmarks.gpu.models import FULL
from benchmarks.gpu.shapes import LLAMA_8B, QWEN3_06B, Shape
from benchmarks.gpu.work import Work
from benchmarks.hardware import conditions
from tests.kernels.ahead_of_time import compile_for

CAPABILITIES = (80, 90)
NOTE = "estimates and compiler reports: nothing here ran on a GPU, no time is a measurement"
RESULTS = Path(__file__).parent.parent / "results"
REGISTERS = 65536  # of a multiprocessor
SHARED = {80: 164 * 1024, 90: 228 * 1024}  # bytes of one
MOST_WARPS, MOST_BLOCKS, RESERVED = 64, 32, 1024  # RESERVED: shared memory that each block takes besides its own


@dataclass(frozen=True)
class Card:
    """By its vendor's datasheet, dense bfloat16."""

    name: str
    bytes_per_second: float
    flops_per_second: float

    def seconds(self, moved: int, computed: int) -> float:
        """The least."""
        return max(moved / self.bytes_per_second, computed / self.flops_per_second)


CARDS = (
    Card("A100 SXM 80GB", 2.039e12, 312e12),
    Card("H100 SXM", 3.35e12, 989e12),
    Card("H200 SXM", 4.8e12, 989e12),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/triton-aot-DATE.json")
    given = parser.parse_args()
    about = conditions()
    reports = list(compiled(works()))
    document = {
        **about,
        "triton": _triton_version(),
        "note": NOTE,
        "compiled": reports,
        "kernel_estimates": list(kernel_estimates(works())),
        "model_estimates": [one for shape in (LLAMA_8B, QWEN3_06B) for one in model_estimates(shape)],
    }
    path = given.json or RESULTS / f"triton-aot-{about['date']}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for one in reports:
        needs = f"{one['registers']:4d} registers, {one['spills']} spills, {one['shared']:7d} B shared"
        print(f"sm_{one['capability']} {one['kernel']:16} {needs}, {one['warps_resident']:2d} warps: {one['used_by']}")
    print(f"{NOTE}\nwritten: {path}")


def works() -> Iterator[tuple[str, Work]]:
    """What a run on a GPU times, without memory for its numbers."""
    for case in timed(tiny=False):
        yield str(case), case.make(META, torch.bfloat16)


def compiled(named: Iterator[tuple[str, Work]]) -> Iterator[dict[str, Any]]:
    """Each kernel's code once for every way in which it is compiled, with one of those who use it."""
    made = list(named)
    for capability in CAPABILITIES:
        seen: set[tuple[Any, ...]] = set()
        for name, work in made:
            for launch in launches_of(work.run, capability):
                if launch.key not in seen:
                    seen.add(launch.key)
                    yield {"used_by": name} | report(launch, capability)


def report(launch: Launch, capability: int) -> dict[str, Any]:
    found = compile_for(capability, launch.kernel, launch.arguments, launch.options)
    warps = int(launch.options.get("num_warps", 4))
    return {
        "kernel": launch.kernel.__name__,
        "capability": capability,
        "registers": found.registers,
        "spills": found.spills,
        "stack": found.stack,
        "shared": found.shared,
        "reads_16_bytes": found.reads_16_bytes,
        "tensor_cores": found.tensor_cores,
        "warps_resident": resident_warps(found.registers, found.shared, warps, capability),
        "options": {name: value for name, value in launch.options.items() if isinstance(value, int | str)},
    }


def resident_warps(registers: int, shared: int, warps: int, capability: int) -> int:
    """How many of a kernel's warps a multiprocessor holds at once. registers: of a thread; shared: bytes of a block of
    so many warps."""
    by_registers = REGISTERS // (-(-registers // 8) * 8 * 32 * warps)
    by_shared = SHARED[capability] // (shared + RESERVED)
    return warps * min(by_registers, by_shared, MOST_WARPS // warps, MOST_BLOCKS)


def kernel_estimates(named: Iterator[tuple[str, Work]]) -> Iterator[dict[str, Any]]:
    for name, work in named:
        least = {card.name: card.seconds(work.bytes, work.flops) for card in CARDS}
        yield {"work": name, "bytes": work.bytes, "flops": work.flops, "estimated_least_seconds": least}


def model_estimates(shape: Shape) -> Iterator[dict[str, Any]]:
    context = FULL.prompt + 32
    for batch in sorted(FULL.batches):
        moved, computed = shape.step_bytes(batch, context), shape.step_flops(batch, context)
        most = {card.name: batch / card.seconds(moved, computed) for card in CARDS}
        work = f"{shape.name}, decode at batch {batch}, {context} tokens each"
        yield {"work": work, "bytes": moved, "flops": computed, "estimated_most_tokens_per_second": most}
    moved, computed = shape.step_bytes(1, 0), shape.prompt_flops(FULL.long)
    most = {card.name: FULL.long / card.seconds(moved, computed) for card in CARDS}
    work = f"{shape.name}, a prompt of {FULL.long} tokens"
    yield {"work": work, "bytes": moved, "flops": computed, "estimated_most_tokens_per_second": most}


def _triton_version() -> str:
    import triton

    return str(triton.__version__)


if __name__ == "__main__":
    main()
