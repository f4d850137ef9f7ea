"""What a rival is to the comparison: a name, what it was started with, and rounds.

round    one start of a peer: it comes up, is warmed, answers every workload once, and ends
run      one workload in one round: figures, or a failure that says why there are none
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.workloads import Sizes

Figures = dict[str, float | None]
"""By the name of what was measured: see `serve.Result` and `first_token.figures`."""


@dataclass(frozen=True)
class Plan:
    """What every peer is asked. sizes: of each workload by its name. seconds: the most that one workload may take."""

    workloads: tuple[str, ...]
    seed: int
    sizes: Mapping[str, Sizes]
    cores: Sequence[int]
    seconds: float
    logs: Path


@dataclass(frozen=True)
class Run:
    """figures: None if it failed. failure: one line. tail: the end of the peer's log, if it did."""

    peer: str
    repeat: int
    workload: str
    figures: Figures | None = None
    failure: str | None = None
    tail: str = ""


class Peer(Protocol):
    """One row of the table."""

    @property
    def name(self) -> str: ...

    def workloads(self, plan: Plan) -> tuple[str, ...]:
        """Those of the plan that it has a counterpart of."""
        ...

    def describe(self, plan: Plan) -> dict[str, str]:
        """For the report: version, command, environment."""
        ...

    def round(self, plan: Plan, repeat: int) -> Iterator[Run]:
        """Runs the workloads in their order, each once. Raises PeerError if the peer does not come up or ends early;
        a run that fails alone is a `Run` with its failure."""
        ...
