"""Eight programs, each compiled, interpreted, and as raw calls: what they compute, and how long they take.

    python -m benchmarks.programs                                        # SmolLM2, 7 repeats
    python -m benchmarks.programs --only judge documents --json out.json
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
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

import latticework as lw
from benchmarks.hardware import conditions
from benchmarks.programs.base import Sizes
from benchmarks.programs.known import WORKLOADS
from benchmarks.programs.measure import Other, Result, Server, clock, count, model_of
from benchmarks.serve import started_server

SIZES = {"smollm2": Sizes(), "tiny": Sizes(items=2, words=8, tokens=4)}

KV_TOKENS = 65536  # more than all that any side has open at once


def measure(options: argparse.Namespace) -> list[Result]:
    """Counts first, then times."""
    chosen = {name: WORKLOADS[name] for name in options.only}
    other = None
    if options.base_url is not None:
        base_url = options.base_url.rstrip("/")
        other = Other(base_url, options.other_model or first_model(base_url))
    with served(options.model) as server:
        model = model_of(options.model)
        results = [count(one, options.seed, options.sizes, server, model) for one in chosen.values()]
        clock(results, chosen, options.seed, options.sizes, server, other, options.repeats)
    return results


@contextmanager
def served(model: str) -> Iterator[Server]:
    """Our own server with a model, and a connection for programs, until the block ends."""
    with started_server(["--model", model, "--kv-tokens", str(KV_TOKENS), "--no-log-requests"]) as base_url:
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
    table = Table(title="counted: items one after the other, from an empty cache")
    columns = ("workload", "side", "prompt", "cached", "computed", "of ideal", "output", "steps", "of ideal", "waits")
    for column in columns:
        table.add_column(column, justify="left" if column in ("workload", "side") else "right")
    for result in results:
        for side, one in result.counts.items():
            table.add_row(
                result.name if side == "compiled" else "",
                side,
                *map(str, (one.prompt, one.cached, one.computed)),
                f"{one.computed / result.ideal.prefill:.3f}",
                *map(str, (one.output, one.steps)),
                f"{one.steps / result.ideal.steps:.3f}",
                str(one.waits) if side in ("compiled", "interpreted") else "",
            )
    return table


def timed_table(results: list[Result], about: dict[str, Any]) -> Table:
    table = Table(
        title=f"timed: all items at once, median of {about['repeats']}, {about['model']}\n"
        f"{about['hardware']}, commit {about['commit']}, {about['date']}, torch {about['torch']}"
    )
    for column in ("workload", "side", "seconds", "spread", "of compiled", "output tokens"):
        table.add_column(column, justify="left" if column in ("workload", "side") else "right")
    for result in results:
        for side, seconds in result.seconds.items():
            table.add_row(
                result.name if side == "compiled" else "",
                side,
                f"{statistics.median(seconds):.2f}",
                f"{min(seconds):.2f}–{max(seconds):.2f}",
                f"{result.ratio(side):.2f}×",
                f"{statistics.median(result.outputs[side]):.0f}",
            )
    return table


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.programs", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME")
    parser.add_argument("--repeats", type=int, default=7, help="0 only counts")
    parser.add_argument("--model", choices=SIZES, default="smollm2")
    parser.add_argument("--items", type=int, help="calls of each program; default: 8, or 2 of the tiny model")
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
    about = conditions() | {"model": options.model, "seed": options.seed, "repeats": options.repeats}
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(counted_table(results))
    if options.repeats:
        console.print(timed_table(results, about))
    if options.json:
        report = about | {"sizes": asdict(options.sizes), "results": [asdict(one) for one in results]}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
