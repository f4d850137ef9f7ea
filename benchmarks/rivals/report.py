"""The comparison on a terminal. Knows no clock and no server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from benchmarks.rivals.base import Run
from benchmarks.rivals.summary import METRICS, Spread, json_cost

Found = Mapping[str, Mapping[str, Mapping[str, Spread]]]


def figures_table(found: Found, title: str) -> Table:
    """found: as `summary.of_peers`."""
    table = Table(title=title)
    for column in ("workload", "peer", "median [least–most]", "wall s", "out tokens", "valid JSON", "repeats"):
        table.add_column(column, justify="left" if column in ("workload", "peer") else "right")
    for workload, peers in found.items():
        for number, (peer, figures) in enumerate(peers.items()):
            cells = [f"{metric} {written(figures[metric])}" for metric in METRICS[workload] if metric in figures]
            wall, tokens, valid = (figures.get(name) for name in ("wall_s", "output_tokens", "valid_json"))
            table.add_row(
                "" if number else workload,
                peer,
                "\n".join(cells),
                f"{wall.median:.2f}" if wall else "",
                f"{tokens.median:.0f}" if tokens else "",
                f"{valid.least:.0%}" if valid else "",
                str(max(one.count for one in figures.values())),
                end_section=number == len(peers) - 1,
            )
    return table


def ratios_table(found: Found, peers: Sequence[str]) -> Table:
    """found: as `summary.ratios`."""
    table = Table(title="how many times better ours is: median of the repeats' ratios [least–most]")
    table.add_column("workload")
    table.add_column("ours")
    shown = [peer for peer in peers if any(peer in rows for owns in found.values() for rows in owns.values())]
    for peer in shown:
        table.add_column(peer, justify="right")
    for what, owns in found.items():
        for number, (own, rows) in enumerate(owns.items()):
            cells = [f"{written(rows[peer])}×" if peer in rows else "" for peer in shown]
            table.add_row("" if number else what, own, *cells, end_section=number == len(owns) - 1)
    return table


def bounds_table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    """found: by peer, as `summary.bounds`."""
    table = Table(title="of what the matrix products alone would allow (tok/s)")
    for column in ("peer", "workload", "bf16", "reached", "best format", "reached"):
        table.add_column(column, justify="left" if column in ("peer", "workload") else "right")
    for peer, workloads in found.items():
        for workload, row in workloads.items():
            bf16, best = f"{row['share_of_bf16']:.0%}", f"{row['share_of_best']:.0%}"
            table.add_row(peer, workload, f"{row['bf16']:.0f}", bf16, f"{row['best']:.0f}", best)
    return table


def json_lines(runs: Sequence[Run], peers: Sequence[str]) -> list[str]:
    costs = [(peer, json_cost(runs, peer)) for peer in peers]
    return [f"{peer}: JSON at {written(cost)} of its own free rate, equal length" for peer, cost in costs if cost]


def failure_lines(runs: Sequence[Run]) -> list[str]:
    """Each with the end of the peer's log, once for what failed together."""
    lines: list[str] = []
    shown = ""
    for run in runs:
        if run.failure is not None:
            lines.append(f"FAILED {run.peer}, repeat {run.repeat}, {run.workload}: {run.failure}")
            lines += [f"    {line}" for line in run.tail.splitlines() if run.tail != shown]
            shown = run.tail
    return lines


def written(one: Spread) -> str:
    return f"{one.median:.3g} [{one.least:.3g}–{one.most:.3g}]"
