"""From runs to numbers: medians with their spread, ratios of ours to theirs. Pure arithmetic."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.rivals.base import Run
from benchmarks.rivals.bound import FORMATS, ROWS_OF, Table, tokens_per_second

HIGHER, LOWER = "higher", "lower"
METRICS: dict[str, dict[str, str]] = {
    "one_stream": {"tokens_per_s": HIGHER, "tpot_ms": LOWER},
    "batch": {"tokens_per_s": HIGHER},
    "prefix": {"tokens_per_s": HIGHER, "ttft_ms": LOWER},
    "program": {"wall_s": LOWER},
    "json": {"tokens_per_s": HIGHER, "wall_s": LOWER},
    "json_free": {"tokens_per_s": HIGHER},
    "json_equal": {"tokens_per_s": HIGHER},
    "first_token": {"warm_ms": LOWER, "cold_ms": LOWER},
}
"""What is compared in each workload, and which way is better; the first is the one to plot."""


@dataclass(frozen=True)
class Spread:
    """count: of repeats."""

    median: float
    least: float
    most: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(statistics.median(values), min(values), max(values), len(values))


def by_repeat(runs: Sequence[Run], peer: str, workload: str, metric: str) -> dict[int, float]:
    """A peer's values where it has any."""
    found: dict[int, float] = {}
    for run in runs:
        if (run.peer, run.workload) == (peer, workload) and run.figures is not None:
            value = run.figures.get(metric)
            if value is not None:
                found[run.repeat] = value
    return found


def ratio(mine: Mapping[int, float], theirs: Mapping[int, float], better: str) -> Spread | None:
    """How many times better mine is, repeat by repeat, over those that both have; None without any.

    Side by side, as the machine is not equally fast in every repeat."""
    pairs = [(mine[repeat], theirs[repeat]) for repeat in sorted(mine.keys() & theirs.keys())]
    found = [one / other if better == HIGHER else other / one for one, other in pairs if one > 0 and other > 0]
    return spread(found) if found else None


def of_peers(runs: Sequence[Run]) -> dict[str, dict[str, dict[str, Spread]]]:
    """workload -> peer -> figure -> spread: everything that was measured, the shares of valid JSON included."""
    found: dict[str, dict[str, dict[str, Spread]]] = {}
    for run in runs:
        if run.figures is None or run.peer in found.get(run.workload, {}):
            continue
        values = {name: by_repeat(runs, run.peer, run.workload, name) for name in run.figures}
        row = {name: spread(list(one.values())) for name, one in values.items() if one}
        found.setdefault(run.workload, {})[run.peer] = row
    return found


def ratios(runs: Sequence[Run], mine: Sequence[str], peers: Sequence[str]) -> dict[str, dict[str, dict[str, Spread]]]:
    """ "workload metric" -> a row of ours -> every other peer: how many times better ours is."""
    found: dict[str, dict[str, dict[str, Spread]]] = {}
    for workload, metrics in METRICS.items():
        for metric, better in metrics.items():
            for own in mine:
                values = by_repeat(runs, own, workload, metric)
                rows = {
                    peer: one
                    for peer in peers
                    if peer != own
                    and (one := ratio(values, by_repeat(runs, peer, workload, metric), better)) is not None
                }
                if rows:
                    found.setdefault(f"{workload} {metric}", {})[own] = rows
    return found


def json_cost(runs: Sequence[Run], peer: str) -> Spread | None:
    """A peer's constrained tokens a second over its free ones at equal length."""
    rates = [by_repeat(runs, peer, name, "tokens_per_s") for name in ("json", "json_equal")]
    return ratio(rates[0], rates[1], HIGHER)


def bounds(runs: Sequence[Run], tables: Sequence[Table], peer: str) -> dict[str, dict[str, float]]:
    """What the matmuls alone would allow for the tokens that a peer computed: workload -> "bf16" or "best" -> output
    tokens a second; and which share of that it reached. tables: one a repeat; their medians count."""
    if not tables:
        return {}
    table = median_table(tables)
    found: dict[str, dict[str, float]] = {}
    for workload, rows in ROWS_OF.items():
        names = ("output_tokens", "prompt_tokens", "cached_tokens", "tokens_per_s")
        values = [by_repeat(runs, peer, workload, name) for name in names]
        if not all(values):
            continue
        output, prompt, cached, rate = (statistics.median(one.values()) for one in values)
        row: dict[str, float] = {}
        for kind, formats in (("bf16", ("bf16",)), ("best", FORMATS)):
            row[kind] = tokens_per_second(table, formats, rows, output, prompt - cached)
            row[f"share_of_{kind}"] = rate / row[kind]
        found[workload] = row
    return found


def median_table(tables: Sequence[Table]) -> Table:
    """Entry by entry."""
    first = tables[0]
    return {
        kind: {
            rows: [statistics.median(one[kind][rows][part] for one in tables) for part in range(2)]
            for rows in first[kind]
        }
        for kind in first
    }
