"""Latticework beside its rivals: the same client, prompts, model and cores, one server at a time.

    python -m benchmarks.peers --json out.json                     # 3 repeats of everything, about an hour and a half
    python -m benchmarks.peers --short --json out.json             # one repeat of less, about 10 minutes
    python -m benchmarks.peers --peers vllm,ours --only batch,prefix --repeats 5 --json out.json
    python -m benchmarks.peers --ours "none=--drafts off" --ours "best=" --json out.json

Repeats are interleaved: every peer comes up, answers each workload once and ends, and then it is the next one's turn;
the next repeat begins when all have had theirs. The rivals are built by `make peers-setup`. FILE is written after
every round, so what was measured survives an end by force; the plot is drawn beside it, as FILE with .svg.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.hardware import conditions
from benchmarks.rivals import places, questions, report, summary
from benchmarks.rivals.base import Peer, Plan, Run
from benchmarks.rivals.bound import Table
from benchmarks.rivals.generate import GeneratePeer
from benchmarks.rivals.process import Launch, PeerError, end_with_us, started
from benchmarks.rivals.servers import OFFLINE, SERVERS, ours

RIVALS: dict[str, Callable[[], Peer]] = {**SERVERS, "transformers": GeneratePeer}
OURS = "ours"
BOUND_SECONDS = 240.0


@dataclass(frozen=True)
class Comparison:
    """What was asked for. end: of the time for all of it, on the monotonic clock."""

    peers: tuple[Peer, ...]
    mine: tuple[str, ...]
    plan: Plan
    repeats: int
    end: float


def rounds(asked: Comparison) -> Iterator[tuple[Peer, int, list[Run]]]:
    """Every peer's rounds, in turn, and what they gave."""
    for repeat in range(asked.repeats):
        for peer in asked.peers:
            yield peer, repeat, one_round(peer, asked, repeat)


def one_round(peer: Peer, asked: Comparison, repeat: int) -> list[Run]:
    """A run for each workload; where a peer fails, those that it did not answer say so."""
    left = asked.end - time.monotonic()
    runs: list[Run] = []
    failure, tail = f"not run: the time for all, --minutes, was over before repeat {repeat}", ""
    if left > 0:
        try:
            for run in peer.round(replace(asked.plan, seconds=min(asked.plan.seconds, left)), repeat):
                runs.append(run)  # one by one: those before a failure count
            failure = "the peer's round ended without it"
        except PeerError as error:
            failure, tail = str(error), error.tail
    answered = {run.workload for run in runs}
    missing = [name for name in peer.workloads(asked.plan) if name not in answered]
    return runs + [Run(peer.name, repeat, name, failure=failure, tail=tail) for name in missing]


def matmul_table(plan: Plan, repeat: int) -> Table:
    """What the products alone take, in a pinned process of its own. Raises PeerError."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "bound.json")
        module = ["-m", "benchmarks.rivals.bound", "--threads", str(len(plan.cores)), "--out", str(out)]
        log = plan.logs / f"bound-{repeat}.log"
        with started(Launch([sys.executable, *module], OFFLINE, plan.cores, log, BOUND_SECONDS)) as process:
            end = time.monotonic() + BOUND_SECONDS
            while process.poll() is None and time.monotonic() < end:
                time.sleep(0.1)
            if process.poll() != 0:
                raise PeerError(f"the matmul pass gave status {process.poll()}", log)
        found: Table = json.loads(out.read_text())
        return found


# ---------------------------------------------------------------- the report


def document(asked: Comparison, about: dict[str, Any], runs: Sequence[Run], tables: Sequence[Table]) -> dict[str, Any]:
    """All that goes into FILE: every run, and what follows from them."""
    names = [peer.name for peer in asked.peers]
    return about | {
        "cores": list(asked.plan.cores),
        "seed": asked.plan.seed,
        "sizes": {name: asdict(asked.plan.sizes[name]) for name in asked.plan.workloads},
        "runs": [{name: value for name, value in asdict(run).items() if value not in (None, "")} for run in runs],
        "matmul_seconds": list(tables),
        "medians": _plain(summary.of_peers(runs)),
        "ratios": _plain(summary.ratios(runs, asked.mine, names)),
        "json_of_free": _plain({name: cost for name in names if (cost := summary.json_cost(runs, name))}),
        "bounds": {name: summary.bounds(runs, tables, name) for name in names},
    }


def described(peer: Peer, plan: Plan) -> dict[str, str]:
    try:
        return peer.describe(plan)
    except (PeerError, OSError) as error:
        return {"failure": str(error)}


def _plain(found: Any) -> Any:
    """For JSON."""
    if isinstance(found, summary.Spread):
        return asdict(found)
    return {name: _plain(value) for name, value in found.items()}


def show(asked: Comparison, about: dict[str, Any], runs: Sequence[Run], tables: Sequence[Table]) -> None:
    names = [peer.name for peer in asked.peers]
    console = Console(width=None if sys.stdout.isatty() else 150)
    found = (
        report.figures_table(summary.of_peers(runs), head(about)),
        report.ratios_table(summary.ratios(runs, asked.mine, names), names),
        report.bounds_table({name: summary.bounds(runs, tables, name) for name in names}),
    )
    for table in found:
        if table.row_count:
            console.print(table)
    for line in [*report.json_lines(runs, names), *report.failure_lines(runs)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def head(about: dict[str, Any]) -> str:
    return f"{about['hardware']}, commit {about['commit']}, {about['date']}, repeats: {about['repeats']}"


def draw(asked: Comparison, about: dict[str, Any], runs: Sequence[Run], path: Path) -> None:
    found = summary.of_peers(runs)
    if found:
        from benchmarks.rivals import plot

        plot.draw(path, found, asked.mine, head(about))


# ---------------------------------------------------------------- the command


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.peers", description=__doc__.splitlines()[0])
    known = [OURS, *RIVALS]
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="write everything there")
    parser.add_argument("--peers", default=",".join(known), metavar="NAMES", help=f"of {','.join(known)}; default: all")
    parser.add_argument(
        "--only", default=",".join(questions.NAMES), metavar="NAMES", help=f"of {','.join(questions.NAMES)}"
    )
    parser.add_argument(
        "--ours",
        action="append",
        metavar="NAME=SERVE_ARGS",
        help="a row of `latticework serve` with these options; may be repeated; default: one row without any",
    )
    parser.add_argument("--repeats", type=int, help="default: 3, or 1 with --short")
    parser.add_argument("--short", action="store_true", help="fewer requests")
    parser.add_argument("--threads", type=int, help="cores for each peer; default: all that we may use")
    parser.add_argument("--minutes", type=float, default=180.0, help="after which no round begins; default: 180")
    parser.add_argument("--seed", type=int, default=1, help="of the prompts")
    parser.add_argument("--no-plot", action="store_true")
    options = parser.parse_args(arguments)
    options.peers = _chosen(parser, "--peers", options.peers, known)
    options.only = _chosen(parser, "--only", options.only, questions.NAMES)
    options.rows = dict(_row(parser, one) for one in options.ours or [f"{OURS}="])
    if options.repeats is None:
        options.repeats = 1 if options.short else 3
    allowed = sorted(os.sched_getaffinity(0))
    options.threads = len(allowed) if options.threads is None else options.threads
    if options.repeats < 1:
        parser.error(f"--repeats is {options.repeats}; expected at least 1")
    if not 1 <= options.threads <= len(allowed):
        parser.error(f"--threads is {options.threads}; expected 1 to {len(allowed)}, the cores allowed")
    if "json_equal" in options.only and "json" not in options.only:
        parser.error("--only json_equal needs json, whose lengths it repeats")
    options.cores = allowed[: options.threads]
    return options


def _chosen(parser: argparse.ArgumentParser, option: str, given: str, known: Sequence[str]) -> list[str]:
    """In the order of what is known."""
    names = [name.strip() for name in given.split(",") if name.strip()]
    for name in names:
        if name not in known:
            parser.error(f"{option}: no {name!r}; expected some of {', '.join(known)}")
    if not names:
        parser.error(f"{option} names nothing; expected some of {', '.join(known)}")
    return [name for name in known if name in names]


def _row(parser: argparse.ArgumentParser, given: str) -> tuple[str, list[str]]:
    name, equals, arguments = given.partition("=")
    if not equals or not name.strip() or name in RIVALS:
        parser.error(f"--ours {given!r}; expected NAME=SERVE_ARGS, with a name that no rival has")
    return name, shlex.split(arguments)


def comparison(options: argparse.Namespace) -> Comparison:
    mine = {name: ours(name, arguments) for name, arguments in options.rows.items()} if OURS in options.peers else {}
    rivals = [make() for name, make in RIVALS.items() if name in options.peers]
    sizes, seconds = questions.sizes_of(options.short), 200.0 if options.short else 600.0
    plan = Plan(tuple(options.only), options.seed, sizes, options.cores, seconds, places.LOGS)
    end = time.monotonic() + 60 * options.minutes
    return Comparison((*mine.values(), *rivals), tuple(mine), plan, options.repeats, end)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if not options.no_plot:
        import matplotlib  # noqa: F401  # an hour later would be late to find it missing
    end_with_us()
    asked = comparison(options)
    about: dict[str, Any] = {**conditions(), "repeats": options.repeats, "short": options.short}
    about["peers"] = {peer.name: described(peer, asked.plan) for peer in asked.peers}
    runs: list[Run] = []
    tables: list[Table] = []
    began = time.monotonic()
    for peer, repeat, found in rounds(asked):
        runs += found
        failed = sum(run.failure is not None for run in found)
        done = f"{time.monotonic() - began:6.0f} s  repeat {repeat}: {peer.name}, {failed} of {len(found)} failed"
        print(done, flush=True)
        options.json.write_text(json.dumps(document(asked, about, runs, tables), indent=1) + "\n")
        if peer is asked.peers[-1]:
            try:
                tables.append(matmul_table(asked.plan, repeat))
            except PeerError as error:
                runs.append(Run("matmul pass", repeat, "bound", failure=str(error), tail=error.tail))
    options.json.write_text(json.dumps(document(asked, about, runs, tables), indent=1) + "\n")
    show(asked, about, runs, tables)
    if not options.no_plot:
        draw(asked, about, runs, options.json.with_suffix(".svg"))
    if any(run.failure is not None for run in runs):
        sys.exit(1)


if __name__ == "__main__":
    main()
