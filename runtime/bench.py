"""What `latticework bench` does: many prompts through `lw.Engine`, then how fast, and where the steps' time went.

A synthetic load to compare settings on one machine. It measures no HTTP; benchmarks/ in the repository does.
"""

from __future__ import annotations

import random
import statistics
import time
from dataclasses import dataclass

import msgspec
from rich.console import Console
from rich.table import Table

import latticework as lw
from latticework.lang.events import Usage
from latticework.runtime.config import EngineConfig
from latticework.runtime.environment import allowed_cores, cpu
from latticework.runtime.link.messages import HEARTBEAT_SECONDS, EngineStats
from latticework.runtime.terminal import LoadingBar

WORDS = (
    "the river bank old house garden winter morning light road village market horse bread water stone bridge tree "
    "letter window door table child mother friend story evening fire song field mountain cloud rain summer boat"
).split()


class Workload(msgspec.Struct, frozen=True):
    """prompts of `words` random words, the first `shared` of them the same in all, `tokens` of output each."""

    prompts: int
    words: int
    shared: int
    tokens: int

    def texts(self) -> list[str]:
        choose = random.Random(0)
        common = " ".join(choose.choices(WORDS, k=min(self.shared, self.words)))
        own = self.words - min(self.shared, self.words)
        return [f"{common} {' '.join(choose.choices(WORDS, k=own))}".strip() for _ in range(self.prompts)]


@dataclass(frozen=True)
class Report:
    """seconds: of the whole load. parts: of them, by part of a step (runtime/profile.py)."""

    usages: list[Usage]
    seconds: float
    steps: int
    parts: dict[str, float]

    @property
    def total(self) -> Usage:
        return sum(self.usages, Usage())


def bench(config: EngineConfig, workload: Workload) -> None:
    """Measures and prints."""
    config = msgspec.structs.replace(config, profile=True)
    with LoadingBar(config.model) as bar:
        engine = lw.Engine(progress=bar.advance, **msgspec.structs.asdict(config))
    with engine:
        report = measure(engine, workload)
    show(report, config, Console(highlight=False))


def measure(engine: lw.Engine, workload: Workload) -> Report:
    """Runs the load once, after a prompt that warms the engine up. The engine profiles its steps."""
    sampling = lw.Sampling(max_tokens=workload.tokens, temperature=0, ignore_eos=True)
    texts = workload.texts()
    engine.generate(["warm up"], lw.Sampling(max_tokens=4), progress_bar=False)
    engine.runtime.flush_cache()
    before = _settled(engine)
    began = time.perf_counter()
    results = engine.generate(texts, sampling)
    seconds = time.perf_counter() - began
    after = _settled(engine)
    parts = {name: after.profile[name] - before.profile.get(name, 0.0) for name in after.profile}
    return Report([result.usage for result in results], seconds, after.steps - before.steps, parts)


def _settled(engine: lw.Engine) -> EngineStats:
    """The engine's counters, as of a heartbeat after everything so far."""
    time.sleep(3 * HEARTBEAT_SECONDS)
    return engine.runtime.stats().engine


def show(report: Report, config: EngineConfig, console: Console) -> None:
    total, seconds = report.total, report.seconds
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in (
        ("model", f"{config.model}, dtype {config.dtype}"),
        ("machine", f"{cpu()}, {allowed_cores()} cores allowed"),
        ("prompts", f"{len(report.usages)} in {seconds:.2f} s, {len(report.usages) / seconds:.2f} a second"),
        ("prompt tokens", f"{total.prompt} ({total.cached} from the cache), {total.prompt / seconds:.0f} a second"),
        ("output tokens", f"{total.output}, {total.output / seconds:.0f} a second"),
        ("steps", f"{report.steps}"),
        ("queue", _spread([usage.queue_seconds for usage in report.usages])),
        ("prefill", _spread([usage.prefill_seconds for usage in report.usages])),
        ("decode, a token", _spread([usage.decode_seconds / max(1, usage.output - 1) for usage in report.usages])),
    ):
        table.add_row(name, value)
    console.print(table)
    console.print()
    console.print(parts_table(report))


def parts_table(report: Report) -> Table:
    """Where the time went; what no part accounts for is the engine waiting for work."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("part of a step", "seconds", "share", "ms a step"):
        table.add_column(column, header_style="dim", justify="left" if column.startswith("part") else "right")
    waiting = max(0.0, report.seconds - sum(report.parts.values()))
    for name, seconds in {**report.parts, "waiting": waiting}.items():
        share = f"{seconds / report.seconds:.1%}"
        table.add_row(name, f"{seconds:.3f}", share, f"{1000 * seconds / max(1, report.steps):.3f}")
    return table


def _spread(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    worst = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return f"median {1000 * statistics.median(ordered):.1f} ms, p99 {1000 * worst:.1f} ms"
