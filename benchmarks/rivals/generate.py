"""`transformers.generate` as a peer: a pinned worker process that answers a round in batches, without a server."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.rivals.base import Plan, Run
from benchmarks.rivals.generate_worker import WITH_COUNTERPART
from benchmarks.rivals.process import Launch, PeerError, started
from benchmarks.rivals.servers import OFFLINE
from latticework.runtime.environment import version

LOADING_SECONDS = 120.0


@dataclass(frozen=True)
class GeneratePeer:
    name: str = "transformers"

    def workloads(self, plan: Plan) -> tuple[str, ...]:
        return tuple(name for name in plan.workloads if name in WITH_COUNTERPART)

    def describe(self, plan: Plan) -> dict[str, str]:
        return {
            "version": f"transformers {version('transformers')} torch {version('torch')}",
            "command": "model.generate in bfloat16 with SDPA, in batches of a workload's concurrency, padded left",
            "environment": "",
            "notes": f"no counterpart of {', '.join(name for name in plan.workloads if name not in WITH_COUNTERPART)}",
        }

    def round(self, plan: Plan, repeat: int) -> Iterator[Run]:
        names = self.workloads(plan)
        with tempfile.TemporaryDirectory() as folder:
            asked, out = Path(folder, "plan.json"), Path(folder, "out.jsonl")
            sizes = {name: asdict(plan.sizes[name]) for name in names}
            whole = {"threads": len(plan.cores), "seed": plan.seed, "repeat": repeat, "workloads": names}
            asked.write_text(json.dumps(whole | {"sizes": sizes}))
            out.touch()
            status = self._work(plan, repeat, asked, out, plan.seconds * len(names)) if names else 0
            found = {line["workload"]: line["figures"] for line in map(json.loads, out.read_text().splitlines())}
        for name in names:
            if name in found:
                yield Run(self.name, repeat, name, found[name])
        if len(found) < len(names):
            log = self._log(plan, repeat)
            why = f"ended with status {status}" if status is not None else f"took more than {plan.seconds:.0f} s each"
            raise PeerError(f"the worker {why}, after {', '.join(found) or 'nothing'}", log)

    def _work(self, plan: Plan, repeat: int, asked: Path, out: Path, seconds: float) -> int | None:
        """Its exit status; None if it had to be ended."""
        command = [sys.executable, "-m", "benchmarks.rivals.generate_worker", "--plan", str(asked), "--out", str(out)]
        launch = Launch(command, OFFLINE, plan.cores, self._log(plan, repeat), LOADING_SECONDS)
        with started(launch) as process:
            try:
                return process.wait(launch.ready_seconds + seconds)
            except subprocess.TimeoutExpired:
                return None

    def _log(self, plan: Plan, repeat: int) -> Path:
        return plan.logs / f"{self.name}-{repeat}.log"
