"""The comparison as a picture: a panel a workload, a bar a peer, a line over the spread of its repeats.

Needs matplotlib, the `bench` extra. SVG, as it is small and reads well at any size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rivals.summary import METRICS, Spread

TITLES = {
    "one_stream": "one stream, tok/s",
    "batch": "batch, tok/s",
    "prefix": "shared prefix, tok/s",
    "program": "fork program, seconds (less is better)",
    "json": "JSON under a schema, tok/s",
    "json_free": "the same without, tok/s",
    "json_equal": "without, at equal length, tok/s",
    "first_token": "first token on a cached prefix, ms (less is better)",
}
OURS, THEIRS = "#2a6f97", "#b8b8b8"
COLUMNS = 2


def draw(path: Path, found: Mapping[str, Mapping[str, Mapping[str, Spread]]], mine: Sequence[str], head: str) -> None:
    """found: as `summary.of_peers`. head: the conditions, in one line."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = -(-len(found) // COLUMNS)
    most = max(len(peers) for peers in found.values())
    figure = Figure(figsize=(11, rows * (0.9 + 0.32 * most)), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for panel, (workload, peers) in zip(panels, found.items(), strict=False):
        _panel(panel, TITLES[workload], {peer: one[next(iter(METRICS[workload]))] for peer, one in peers.items()}, mine)
    for panel in panels[len(found) :]:
        panel.axis("off")
    figure.suptitle(head, fontsize=8)
    with rc_context({"svg.fonttype": "none"}):  # letters as text
        figure.savefig(path)


def _panel(panel: Any, title: str, bars: Mapping[str, Spread], mine: Sequence[str]) -> None:
    names = list(bars)
    values = [bars[name].median for name in names]
    below = [bars[name].median - bars[name].least for name in names]
    above = [bars[name].most - bars[name].median for name in names]
    colours = [OURS if name in mine else THEIRS for name in names]
    panel.barh(names, values, xerr=[below, above], color=colours, ecolor="#333333", capsize=2)
    panel.bar_label(panel.containers[-1], labels=[f"{value:.3g}" for value in values], padding=4, fontsize=8)
    panel.set_title(title, fontsize=9, loc="left")
    panel.invert_yaxis()
    panel.margins(x=0.15)
    panel.tick_params(labelsize=8)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
