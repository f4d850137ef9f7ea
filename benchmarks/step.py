"""Where a step's time goes: `python -m benchmarks.step --json FILE`.

Whole engines, one with torch's operations and one with the C++ ones, take turns on the same work: steps in which every
sequence decodes, by batch and context, with contexts of their own and with a shared one; and prompts, 512 tokens a
step. `matmuls` is the model's matrix products alone, on as many rows, measured in the same turn: no step is shorter.
Medians of the turns; numbers are of this machine, printed with it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from benchmarks.hardware import conditions
from latticework.lang.ir import Sampling
from latticework.runtime.config import EngineConfig
from latticework.runtime.engine import Engine
from latticework.runtime.model.decoder import Decoder, Layer
from latticework.runtime.model.quantize.base import Quantization
from latticework.runtime.model.runner import ModelRunner
from latticework.runtime.request import GenSegment, Request, TextSegment

Kernels = Literal["off", "on"]
KERNELS: tuple[Kernels, ...] = ("off", "on")
PROMPT_STEP = 512  # prompt tokens in one step
OWN_TOKENS = 35  # of a sequence whose other tokens are shared
VOCABULARY = 40_000  # token ids that every model here has
PYTHON = ("schedule", "build", "mask", "settle")


@dataclass(frozen=True)
class Work:
    """batch sequences at `context` tokens that decode, or prompts of so many tokens; shared: all but their last."""

    kind: Literal["decode", "prompt"]
    batch: int
    context: int
    shared: bool = False
    temperature: float = 0.0

    def __str__(self) -> str:
        name = f"{self.kind} {self.batch} x {self.context}" + (" shared" if self.shared else "")
        return name + (f" t={self.temperature:g}" if self.temperature else "")


@dataclass(frozen=True)
class StepTime:
    """Milliseconds of a step and its parts. between: layers without their matrix products; python: scheduling, the
    batch's arrays, settling; rest: what the parts do not tell of."""

    step: float
    matmuls: float
    between: float
    attention: float
    sample: float
    python: float
    rest: float


class Bench:
    """One engine and its requests."""

    def __init__(self, kernels: Kernels, given: argparse.Namespace) -> None:
        config = EngineConfig(
            model=given.model,
            dtype=given.dtype,
            quantization=given.quantization,
            cpu_kernels=kernels,
            threads=given.threads,
            max_running=max(given.batches),
            kv_tokens=max(given.batches) * (max(given.contexts) + 512) + 2048,
            chunk_tokens=PROMPT_STEP,
            drafts="off",
            profile=True,
        )
        self.engine = Engine.load(config)
        assert isinstance(self.engine.runner, ModelRunner)
        assert isinstance(self.engine.runner.model, Decoder), "matrix products are known for native families"
        self.model = self.engine.runner.model
        self._ids = itertools.count()

    def begin(self, work: Work) -> None:
        """Submits the work, and lets it come to the steps that are measured."""
        rng = random.Random(5)
        common = [rng.randrange(VOCABULARY) for _ in range(work.context - OWN_TOKENS)] if work.shared else []
        for number in range(work.batch):
            own = [rng.randrange(VOCABULARY) for _ in range(work.context - len(common))]
            sampling = Sampling(max_tokens=400, temperature=work.temperature, seed=number, ignore_eos=True)
            chain = (TextSegment((*common, *own)), GenSegment(sampling))
            assert self.engine.submit("bench", Request(next(self._ids), chain)) is None
        if work.kind == "decode":
            while len(self.engine.scheduler.running) < work.batch or self.engine.scheduler.decoding < work.batch:
                self.engine.step()

    def end(self) -> None:
        self.engine.drop("bench")
        self.engine.step()
        self.engine.flush_cache()

    def steps(self, count: int) -> Iterator[StepTime]:
        """Measured steps."""
        for _ in range(count):
            before, began = dict(self.engine.profile.seconds), time.perf_counter()
            self.engine.step()
            step = time.perf_counter() - began
            parts = {name: seconds - before[name] for name, seconds in self.engine.profile.seconds.items()}
            yield self._told(step, parts)

    def _told(self, step: float, parts: dict[str, float]) -> StepTime:
        """matmuls is filled in by the caller; until then `between` is all of the layers and the head."""
        known = sum(parts.values())
        return StepTime(
            step=step * 1e3,
            matmuls=0.0,
            between=(parts["layers"] + parts["head"]) * 1e3,
            attention=parts["attention"] * 1e3,
            sample=parts["sample"] * 1e3,
            python=sum(parts[name] for name in PYTHON) * 1e3,
            rest=(step - known) * 1e3,
        )

    @torch.inference_mode()
    def matmuls(self, rows: int, logits: int) -> float:
        """Milliseconds of the model's matrix products on so many rows of noise, the head on `logits` of them."""
        first = self.model.layers[0]
        assert isinstance(first, Layer)
        dtype = self.model.embed.dtype
        hidden = torch.randn(rows, self.model.spec.hidden_size, dtype=dtype)
        attended = torch.randn(rows, first.heads * first.head_dim, dtype=dtype)
        gated = torch.randn(rows, self.model.spec.intermediate_size, dtype=dtype)
        began = time.perf_counter()
        for layer in self.model.layers:
            assert isinstance(layer, Layer)
            layer.qkv(hidden)
            layer.output(attended)
            layer.mlp.gate_up(hidden)
            layer.mlp.down(gated)
        self.model.logits(hidden[:logits])
        return (time.perf_counter() - began) * 1e3


def measure(benches: dict[Kernels, Bench], work: Work, repeats: int, steps: int) -> dict[Kernels, StepTime]:
    """Turns of each engine; medians over all of their steps."""
    turn: Callable[[Bench, Work, int], list[StepTime]] = decode_turn if work.kind == "decode" else prompt_turn
    found: dict[Kernels, list[StepTime]] = {kernels: [] for kernels in benches}
    products: list[float] = []
    rows = work.batch if work.kind == "decode" else min(PROMPT_STEP, work.context)
    if work.kind == "decode":
        for bench in benches.values():
            bench.begin(work)
    for repeat in range(repeats + 1):
        for kernels, bench in benches.items():
            times = turn(bench, work, steps)
            if repeat:  # the first one warms up
                found[kernels] += times
        products += [benches["on"].matmuls(rows, work.batch) for _ in range(steps)]
    if work.kind == "decode":
        for bench in benches.values():
            bench.end()
    alone = statistics.median(products)
    return {kernels: median(times, alone) for kernels, times in found.items()}


def decode_turn(bench: Bench, work: Work, steps: int) -> list[StepTime]:
    return list(bench.steps(steps))


def prompt_turn(bench: Bench, work: Work, steps: int) -> list[StepTime]:
    """The last step of the prompts, which has everything before it as context."""
    times = []
    for _ in range(max(1, steps // 4)):
        bench.begin(work)
        times.append(list(bench.steps(-(-work.batch * work.context // PROMPT_STEP)))[-1])
        bench.end()
    return times


def median(times: list[StepTime], matmuls: float) -> StepTime:
    middle = {name: statistics.median(getattr(one, name) for one in times) for name in asdict(times[0])}
    return StepTime(**middle | {"matmuls": matmuls, "between": middle["between"] - matmuls})


def works(given: argparse.Namespace) -> Iterator[Work]:
    for batch, context in itertools.product(given.batches, given.contexts):
        yield Work("decode", batch, context)
    most, longest = max(given.batches), max(given.contexts)
    yield Work("decode", most, longest, shared=True)
    yield Work("decode", most, min(given.contexts), temperature=0.8)
    for context in (PROMPT_STEP, 2 * PROMPT_STEP):
        yield Work("prompt", 1, context)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quantization", choices=get_args(Quantization), default="none")
    parser.add_argument("--threads", type=int, help="default: the cores allowed")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 1000])
    parser.add_argument("--repeats", type=int, default=3, help="turns of each engine")
    parser.add_argument("--steps", type=int, default=8, help="steps in a turn")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    given = parser.parse_args()
    about = conditions() | {"load_before": f"{os.getloadavg()[0]:.2f}"}
    benches = {kernels: Bench(kernels, given) for kernels in KERNELS}
    about |= {
        "model": given.model,
        "dtype": benches["on"].engine.dtype,
        "quantization": given.quantization,
        "threads": str(torch.get_num_threads()),
    }
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    columns = list(StepTime.__dataclass_fields__)
    print(f"{'milliseconds':28s} {'kernels':7s} " + " ".join(f"{name:>9s}" for name in columns) + "  off/on")
    results: list[dict[str, Any]] = []
    for work in works(given):
        found = measure(benches, work, given.repeats, given.steps)
        ratio = found["off"].step / found["on"].step
        for kernels, times in found.items():
            told = " ".join(f"{getattr(times, name):9.2f}" for name in columns)
            print(f"{work!s:28s} {kernels:7s} {told}" + (f"  {ratio:6.2f}" if kernels == "on" else ""), flush=True)
        results.append({"work": asdict(work), "ratio": ratio, "off": asdict(found["off"]), "on": asdict(found["on"])})
    if given.json:
        given.json.write_text(json.dumps(about | {"steps": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
