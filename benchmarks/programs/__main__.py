"""Eight programs, each compiled, interpreted, and as raw calls: what they compute, and how long they take.

    python -m benchmarks.programs                                        # SmolLM2, 7 repeats
    python -m benchmarks.programs --only judge documents --json out.json
    python -m benchmarks.programs --repeats 0 --drafts off               # only counts
    python -m benchmarks.programs --base-url http://127.0.0.1:8001/v1    # the same raw calls to another server too

Starts `latticework serve` itself; all sides speak HTTP to it. Everything is greedy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import httpx
from rich.console import Console
from rich.table import Table

import latticework as lw
from benchmarks.hardware import conditions
from benchmarks.programs.base import Sizes
from benchmarks.programs.known import WORKLOADS
from benchmarks.programs.measure import (
    PREFILL_LIMIT,
    STEPS_LIMIT,
    TIME_LIMIT,
    Other,
    Result,
    Server,
    clock,
    count,
    model_of,
)
from benchmarks.serve import started_server
from latticework.runtime.schedule.drafts import DraftKinds

SIZES = {"smollm2": Sizes(items=6, words=32, tokens=16), "tiny": Sizes(items=2, words=8, tokens=8)}

KV_TOKENS = 65536  # more than all that any side has open at once


def measure(options: argparse.Namespace) -> list[Result]:
    """Counts with every setting of drafts, then times with the last."""
    chosen = {name: WORKLOADS[name] for name in options.only}
    other = None
    if options.base_url is not None:
        base_url = options.base_url.rstrip("/")
        other = Other(base_url, options.other_model or first_model(base_url))
    model = model_of(options.model)
    results = [Result(name) for name in chosen]
    for drafts in options.drafts:
        with served(options.model, drafts) as server:
            for result in results:
                result.counted[drafts] = count(chosen[result.name], options.seed, options.sizes, server, model)
            if drafts == options.drafts[-1]:
                clock(results, chosen, options.seed, options.sizes, server, other, options.repeats)
    return results


@contextmanager
def served(model: str, drafts: str) -> Iterator[Server]:
    """Our own server with a model, and a connection for programs, until the block ends."""
    arguments = ["--model", model, "--kv-tokens", str(KV_TOKENS), "--drafts", drafts, "--no-log-requests"]
    with started_server(arguments) as base_url:
        connection = lw.connect(base_url.removesuffix("/v1"))
        try:
            yield Server(connection, base_url, first_model(base_url))
        finally:
            connection.shutdown()


def first_model(base_url: str) -> str:
    """The first that the server lists."""
    name: str = httpx.get(f"{base_url}/models", timeout=30).json()["data"][0]["id"]
    return name


# ---------------------------------------------------------------- the report


def counted_table(results: list[Result]) -> Table:
    table = Table(title="counted: two items one after the other, from an empty cache; waits: the most of one item")
    names = ("workload", "drafts", "side")
    columns = (*names, "prompt", "cached", "computed", "of ideal", "output", "steps", "of ideal", "waits")
    for column in columns:
        table.add_column(column, justify="left" if column in names else "right")
    rows = ((result, *one) for result in results for one in result.counted.items())
    for result, drafts, counted in rows:
        for side, one in counted.sides.items():
            table.add_row(
                result.name if side == "compiled" else "",
                drafts if side == "compiled" else "",
                side,
                *map(str, (one.prompt, one.cached, one.computed)),
                f"{one.computed / counted.ideal.prefill:.3f}",
                *map(str, (one.output, one.steps)),
                f"{one.steps / counted.ideal.steps:.3f}",
                str(one.waits) if side in ("compiled", "interpreted") else "",
            )
    return table


def timed_table(results: list[Result], about: dict[str, Any]) -> Table:
    table = Table(
        title=f"timed: all items at once, median of {about['repeats']}\n"
        f"{about['model']}, drafts {about['drafts'][-1]}, commit {about['commit']}, {about['date']}\n"
        f"{about['hardware']}, torch {about['torch']}"
    )
    for column in ("workload", "side", "seconds", "min–max", "compiled / side", "output tokens"):
        table.add_column(column, justify="left" if column in ("workload", "side") else "right")
    for result in results:
        for side, seconds in result.seconds.items():
            table.add_row(
                result.name if side == "compiled" else "",
                side,
                f"{statistics.median(seconds):.2f}",
                f"{min(seconds):.2f}–{max(seconds):.2f}",
                "" if side == "compiled" else f"{result.ratio(side):.3f}",
                f"{statistics.median(result.outputs[side]):.0f}",
            )
    return table


def verdict(results: list[Result]) -> str:
    """What the compiled programs keep and what they do not."""
    limits = f"prefill ≤ {PREFILL_LIMIT} and steps ≤ {STEPS_LIMIT} of the ideal, 1 blocking wait"
    limits += f", time ≤ {TIME_LIMIT} of interpreted and of raw" if any(result.seconds for result in results) else ""
    lines = [f"{result.name}: {', '.join(found)}" for result in results if (found := result.beyond())]
    return "\n".join([f"beyond the limits of compiled programs ({limits}):", *(lines or ["none"])])


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.programs", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME")
    parser.add_argument("--repeats", type=int, default=7, help="0 only counts")
    parser.add_argument("--model", choices=SIZES, default="smollm2")
    parser.add_argument(
        "--drafts", nargs="+", choices=get_args(DraftKinds), default=["off", "all"], help="counted each, timed the last"
    )
    parser.add_argument(
        "--items", type=int, help="calls of each program when timed; default: 4, or 2 of the tiny model"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the data")
    parser.add_argument("--base-url", help="of another server, with its /v1, which gets the raw calls too")
    parser.add_argument("--other-model", help="there; default: the first one it lists")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every repeat there")
    options = parser.parse_args(arguments)
    if options.repeats < 0:
        parser.error(f"--repeats is {options.repeats}; expected 0 or more")
    options.sizes = SIZES[options.model]
    if options.items is not None:
        if options.items < 1:
            parser.error(f"--items is {options.items}; expected at least 1")
        options.sizes = replace(options.sizes, items=options.items)
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    results = measure(options)
    about: dict[str, Any] = conditions() | {"model": options.model, "seed": options.seed, "repeats": options.repeats}
    about["drafts"] = options.drafts
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(counted_table(results))
    if options.repeats:
        console.print(timed_table(results, about))
    console.print(verdict(results))
    if options.json:
        report = about | {"sizes": asdict(options.sizes), "results": [asdict(one) for one in results]}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
