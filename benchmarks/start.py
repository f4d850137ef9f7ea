"""From the command line to the first token: `python -m benchmarks.start --json FILE`.

Seconds from starting `latticework run` to the moment at which its program has the first token of an answer, processes,
weights and all. The first round of each setting is not counted: it packs weights and fills the disk's cache.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.hardware import conditions

REPEATS = 5
PROGRAM = """
import os, time
import latticework as lw

@lw.function
def hello(s):
    s += lw.user("Say hello.") + lw.assistant(lw.gen("answer", max_tokens=1))
    assert s["answer"]
    print("first token after", time.time() - float(os.environ["BEGAN"]))
"""


@dataclass(frozen=True)
class Start:
    """Seconds to the first token."""

    median: float
    best: float
    worst: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--quantization", nargs="+", default=["none", "int8", "auto"])
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = {}
    for quantization in arguments.quantization:
        options = ["--model", arguments.model, "--quantization", quantization]
        times = [start(options) for _ in range(arguments.repeats + 1)][1:]
        one = found[quantization] = Start(statistics.median(times), min(times), max(times))
        print(f"{quantization:6} {one.median:.2f} s [{one.best:.2f} to {one.worst:.2f}]", flush=True)
    if arguments.json:
        report = conditions() | {"model": arguments.model, "starts": {name: asdict(one) for name, one in found.items()}}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def start(options: list[str]) -> float:
    """Seconds to the first token."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hello.py"
        path.write_text(PROGRAM, encoding="utf-8")
        command = [sys.executable, "-m", "latticework", "run", f"{path}:hello", "--temperature", "0", *options]
        environment = {**os.environ, "BEGAN": str(time.time())}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    told = next(line for line in done.stdout.splitlines() if line.startswith("first token after"))
    return float(told.rpartition(" ")[2])


if __name__ == "__main__":
    main()
