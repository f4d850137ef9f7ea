"""Free streams beside senders of hostile constraints: `python -m benchmarks.hostile`.

A server of its own, with its engine and its compile children. Pairs of runs, interleaved: `streams` unconstrained
streams alone, then the same beside `senders` clients that send the hostile corpus without pause, over HTTP and over the
link, each constraint a new one. Told: the times between tokens at the clients and the ratio of their p99s; what became
of every hostile request, and how long that took beside its limit; the memory of every process before and after.

Ends with status 1 where an answer came past its limit, a request had none, or one failed through a fault of ours.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx

from benchmarks.hardware import conditions
from benchmarks.hostile_corpus import Hostile, corpus
from benchmarks.hostile_load import SLACK, TIMEOUT, Attempt, Gaps, Senders, Streams
from benchmarks.hostile_server import Server, started
from latticework.runtime.link.client import Client
from latticework.runtime.link.messages import FrontStats

RATIO_LIMIT = 1.25
MEMORY_SLACK = 256.0  # MiB that a process may hold more when all is over: part of the KV is touched late
STEP_SIZES = 160  # tokens of a step, at most: matmuls keep memory for every number of rows they have seen


@dataclass(frozen=True)
class Pair:
    """processor: seconds of it, by kind of process, in the second run."""

    alone: Gaps
    beside: Gaps
    processor: dict[str, float]

    @property
    def ratio(self) -> float:
        return self.beside.p99 / self.alone.p99


@dataclass
class Report:
    """memory: MiB of each kind of process, by moment. held: what engine and front say they hold, by moment."""

    pairs: list[Pair] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    asked: int = 0
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    held: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """The median of the pairs'."""
        return statistics.median(pair.ratio for pair in self.pairs)

    @staticmethod
    def _grown(before: dict[str, float], after: dict[str, float]) -> list[str]:
        return [kind for kind in before if after[kind] - before[kind] > MEMORY_SLACK]

    def problems(self) -> list[str]:
        """What should not be, times between tokens aside."""
        found = [f"{one.name} ({one.way}): {one.outcome}" for one in self.attempts if one.is_fault]
        late = [one for one in self.attempts if one.is_late]
        found += [f"{one.name} ({one.way}): answered after {one.seconds:.1f} s" for one in late]
        if self.asked != len(self.attempts):
            found.append(f"{self.asked} hostile requests had {len(self.attempts)} outcomes")
        found += [f"{what}: {count} held" for what, count in self.held.get("after", {}).items() if count]
        before, after = self.memory.get("before", {}), self.memory.get("after", {})
        found += [f"{kind}: from {before[kind]:.0f} to {after[kind]:.0f} MiB" for kind in self._grown(before, after)]
        return found


# ---------------------------------------------------------------- all of it


@dataclass(frozen=True)
class Plan:
    """tokens: of each stream. items: of the corpus. settle: seconds before what is held is looked at."""

    pairs: int
    tokens: int
    streams: int
    senders: int
    items: list[Hostile]
    settle: float = 3.0


async def measure(server: Server, model: str, plan: Plan) -> Report:
    report = Report()
    link = await asyncio.to_thread(Client, server.link)
    try:
        async with httpx.AsyncClient(base_url=server.url, timeout=httpx.Timeout(TIMEOUT + 10 * SLACK)) as session:
            senders = Senders(session, link, model, plan.items)

            async def alone(seed: int, tokens: int) -> Gaps:
                return await Streams(session, model, plan.streams, tokens).run(seed)

            await every_size(session, model)
            await alone(0, plan.tokens)  # warms up
            await note(report, server, link, "before", plan.settle)
            for number in range(plan.pairs):
                quiet = await alone(number, plan.tokens)
                streams = Streams(session, model, plan.streams, plan.tokens)
                before = server.processor()
                sending = asyncio.create_task(senders.beside(streams, plan.senders))
                beside = await streams.run(number)
                spent = {kind: max(0.0, seconds - before[kind]) for kind, seconds in server.processor().items()}
                await sending
                report.pairs.append(Pair(quiet, beside, spent))
            await senders.rest(plan.senders)
            report.asked, report.attempts = senders.asked, senders.attempts
            await note(report, server, link, "loaded", plan.settle)
            link.flush_cache()
            await note(report, server, link, "after", plan.settle)
    finally:
        await asyncio.to_thread(link.close)
    return report


async def every_size(session: httpx.AsyncClient, model: str) -> None:
    """Steps of 1 to STEP_SIZES tokens, so that what matmuls keep for each is not taken for what constraints leave."""
    for size in range(1, STEP_SIZES + 1):
        body = {"model": model, "prompt": f"{size}:" + " the" * size, "max_tokens": 1}
        (await session.post("/v1/completions", json=body)).raise_for_status()


async def note(report: Report, server: Server, link: Client, moment: str, settle: float) -> None:
    await asyncio.sleep(settle)
    report.memory[moment] = server.memory()
    report.held[moment] = held(await asyncio.to_thread(link.stats))


def held(stats: FrontStats) -> dict[str, int]:
    engine = stats.engine
    return {
        "open requests": stats.open_requests,
        "running": engine.running,
        "waiting": engine.waiting,
        "leases": engine.leases,
        "pages neither free nor cached": engine.pages_total - engine.pages_free - engine.pages_cached,
        "automata": engine.automata,
        "bytes of automata": engine.automata_bytes,
        "restarts of the engine": stats.restarts,
    }


def show(report: Report) -> None:
    for pair in report.pairs:
        for name, gaps in (("alone", pair.alone), ("beside", pair.beside)):
            times = f"p50 {gaps.p50:.1f} ms, p99 {gaps.p99:.1f} ms, longest {gaps.longest:.1f} ms"
            print(f"{name:6} {gaps.steps} gaps between tokens: {times}")
        spent = ", ".join(f"{kind} {seconds:.1f}" for kind, seconds in pair.processor.items())
        print(f"       p99 beside the corpus: {pair.ratio:.2f}×; seconds of the processor: {spent}")
    if report.pairs:
        print(f"p99, median of {len(report.pairs)} pairs: {report.ratio:.2f}× (at most {RATIO_LIMIT})")
    for moment, sizes in report.memory.items():
        print(f"memory {moment:6} " + ", ".join(f"{kind} {size:.0f} MiB" for kind, size in sizes.items()))
        print(f"held   {moment:6} " + ", ".join(f"{what} {count}" for what, count in report.held[moment].items()))
    by_name: dict[str, list[Attempt]] = defaultdict(list)
    for one in report.attempts:
        by_name[one.name].append(one)
    for name, attempts in by_name.items():
        ways = ",".join(sorted({one.way for one in attempts}))
        slowest = max(one.seconds for one in attempts)
        outcomes = "; ".join(f"{count}× {what}" for what, count in Counter(one.outcome for one in attempts).items())
        print(f"{name:42} {ways:13} {slowest:6.2f} s of {TIMEOUT:g}  {outcomes}")
    print(f"{len(report.attempts)} hostile requests")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=200, help="of each free stream")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--senders", type=int, default=4)
    parser.add_argument("--only", default="", help="a part of the names of what is sent")
    parser.add_argument("--serve-args", default="--kv-tokens 4096", help="more options for the server, in one string")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    given = parser.parse_args()
    items = [item for item in corpus() if given.only in item.name]
    if not items:
        parser.error(f"nothing in the corpus has {given.only!r} in its name")
    plan = Plan(given.pairs, given.tokens, given.streams, given.senders, items)
    about = conditions() | {"load_before": f"{os.getloadavg()[0]:.2f}"}
    began = time.monotonic()
    with started(given.model, given.serve_args.split()) as server:
        report = asyncio.run(measure(server, given.model, plan))
    about["seconds"] = f"{time.monotonic() - began:.0f}"
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    show(report)
    problems = report.problems()
    print("\n".join(problems) or "no problem")
    if given.json:
        asked = {"tokens": plan.tokens, "streams": plan.streams, "senders": plan.senders, "ratio": report.ratio}
        given.json.write_text(json.dumps(about | asked | asdict(report) | {"problems": problems}, indent=1) + "\n")
    raise SystemExit(1 if problems else 0)


if __name__ == "__main__":
    main()
