"""`transformers.generate` in a process of its own: one round, a JSON line a workload into a file.

python -m benchmarks.rivals.generate_worker --plan FILE --out FILE
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.rivals import questions
from benchmarks.rivals.base import Figures
from benchmarks.transformers_generate import Drawn, Generator, run_workload
from benchmarks.workloads import Call, Sizes, user
from latticework.runtime.config import EngineConfig

WITH_COUNTERPART = ("one_stream", "batch", "prefix", "program", "json_free")
"""No JSON Schema and no cache between calls, so neither json nor first_token."""


def figures(drawn: list[Drawn], wall: float) -> Figures:
    output = sum(one.tokens for one in drawn)
    return {"wall_s": wall, "tokens_per_s": output / wall, "output_tokens": float(output)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.rivals.generate_worker", description=__doc__.splitlines()[0])
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    plan = json.loads(options.plan.read_text())
    generator = Generator(EngineConfig(dtype="bfloat16", threads=plan["threads"]))
    generator.run([Call(user(f"Warm up {number}."), 8, to_the_end=True) for number in range(16)])
    with options.out.open("w") as out:
        for name in plan["workloads"]:
            rng = questions.rng_of(plan["seed"], name, plan["repeat"])
            asked = questions.workload(name, rng, Sizes(**plan["sizes"][name]))
            line = {"workload": name, "figures": figures(*run_workload(generator, asked))}
            print(json.dumps(line), file=out, flush=True)


if __name__ == "__main__":
    main()
