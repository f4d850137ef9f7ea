"""Everything about a GPU in one command: `python -m benchmarks.gpu --json FILE`, in under nine minutes.

Kernels beside their twins, then their times, then whole models with random weights, beside torch's own operations,
FlashInfer if it is there, and transformers. Each part is a process of its own with a share of the time; what does not
fit is named. `--dry-run` needs no GPU: tiny shapes in Triton's interpreter, to see that all of it runs. This process
imports no torch.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.goals import Subjects, goals
from benchmarks.gpu.report import as_document, lines
from benchmarks.gpu.rows import AnyRow, Check, Failed, LeftOut, Machine, RowFile, read_rows
from benchmarks.hardware import conditions

RESULTS = Path(__file__).parent.parent / "results"
MINUTES = 8.7
GRACE = 6.0  # seconds that a part gets to end by itself
CHOOSING = ("TRITON_INTERPRET", "LATTICEWORK_KERNELS")  # what a shell may have set to run something else
NEEDED = 0.4  # of its share, without which a part is not begun
ABOUT = Subjects("Llama-3.1-8B", "64 x 8192", "256 share 16384", 1, 64)
ABOUT_TINY = Subjects("tiny Llama", "2 x 40", "2 share 256", 1, 2)


@dataclass(frozen=True)
class Part:
    """seconds: its share of the time; what earlier parts leave over is added."""

    name: str
    seconds: float


PARTS = (
    Part("kernels", 210),
    Part("llama", 110),
    Part("qwen", 65),
    Part("transformers llama", 65),
    Part("transformers qwen", 45),
)


def main() -> int:
    """Exit status 1 if something is wrong, failed or was ended; goals that are not met are told, no more."""
    given = arguments()
    parts = [part for part in PARTS if not given.only or part.name in given.only]
    about = conditions() | {"command": " ".join(["python -m benchmarks.gpu", *sys.argv[1:]]), "seed": given.seed}
    rows: list[AnyRow] = []
    path: Path | None = None
    for more in run(parts, given.minutes * 60, given.dry_run, given.seed):
        rows += more
        found = goals(rows, ABOUT_TINY if given.dry_run else ABOUT)
        path = given.json or (None if given.dry_run else default_path(rows))
        if path is not None:  # after every part: whoever ends the run has what there is
            path.write_text(json.dumps(as_document(rows, found, about), indent=1) + "\n", encoding="utf-8")
        if not any(isinstance(row, Machine | LeftOut) for row in more):
            break  # there is no device, for the other parts neither: the part has said so
    print("\n".join(lines(rows, goals(rows, ABOUT_TINY if given.dry_run else ABOUT))))
    if path is not None:
        print(f"written: {path}")
    bad = any(isinstance(row, Failed) or (isinstance(row, Check) and not row.is_right) for row in rows)
    return 1 if bad else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the result goes; default: benchmarks/results/DEVICE-DATE.json")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes in Triton's interpreter, on a CPU")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="in all")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], help="parts; default: all")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30), help="of inputs; default: a new one")
    return parser.parse_args()


def run(parts: Sequence[Part], seconds: float, dry: bool, seed: int) -> Iterator[list[AnyRow]]:
    """The rows of part after part. One that is not begun, or is ended when its time is up, has a row that says so."""
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        for number, part in enumerate(parts):
            later = sum(other.seconds + GRACE for other in parts[number + 1 :])
            given = end - time.monotonic() - later - GRACE
            path = Path(folder) / f"{number}.rows"
            if given < NEEDED * part.seconds:
                RowFile(path, part.name).leave_out("all of it", f"{max(0.0, given):.0f} s were left")
            else:
                print(f"{part.name}: {given:.0f} s at most", flush=True)
                run_part(part.name, path, given, dry, seed)
            yield read_rows(path)


def run_part(name: str, path: Path, seconds: float, dry: bool, seed: int) -> None:
    """In a process of its own, which finds no network, and is killed if it does not end in time."""
    kept = {name: value for name, value in os.environ.items() if name not in CHOOSING}
    environment = kept | {"HF_HUB_OFFLINE": "1"} | ({"TRITON_INTERPRET": "1"} if dry else {})
    command = [sys.executable, "-m", "benchmarks.gpu.part", name, str(path), str(seconds), str(seed)]
    rows = RowFile(path, name)
    try:
        status = subprocess.run(command, env=environment, timeout=seconds + GRACE).returncode
    except subprocess.TimeoutExpired:
        rows.write(LeftOut(part=name, what="what follows the last row", why=f"{seconds:.0f} s were over"))
        return
    if status and not any(isinstance(row, Failed) for row in read_rows(path)):
        rows.fail("all that is not listed", RuntimeError(f"the process ended with {status}"))


def default_path(rows: Sequence[AnyRow]) -> Path | None:
    """None if no device was found."""
    machine = next((row for row in rows if isinstance(row, Machine)), None)
    if machine is None:
        return None
    device = re.sub(r"[^a-z0-9]+", "-", machine.name.lower()).strip("-")
    return RESULTS / f"{device}-{conditions()['date']}.json"


if __name__ == "__main__":
    sys.exit(main())
