"""Constrained decoding, right and quick: `python -m benchmarks.constraints --data DIR --peers`.

Runs every schema's valid and invalid instances through the masks, here and in the rival engines (extra `peers`), each
in a process of its own, on the same tokens. Counts who judges what rightly and prints times: CPU times of one thread,
garbage collector off, medians of `--runs` runs.

cold: the engine's cache is empty when a schema begins, later hits are included. warm: the same masks once more. TTFM:
from the schema to its first mask. A schema is fully right when it compiled and every instance was judged rightly in
both forms; compiling has 10 CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.constraint_cases import SETS, gather
from benchmarks.hardware import conditions

ROOT = Path(__file__).resolve().parent.parent
WORKER = ROOT / "benchmarks" / "constraint_worker.py"
COMPILE_SECONDS = 10
CASE_SECONDS = 400  # all of a case; beyond it the engine is said to hang
PEERS = ("llguidance", "xgrammar", "outlines_core")
Results = list[dict[str, Any]]


def main() -> None:
    options = arguments()
    cases = gather(tuple(options.only or SETS), options.data, options.n, options.match)
    engines = ["latticework"] * (not options.no_own) + options.peers
    arguments_given = [given for given in sys.argv[1:] if "/" not in given]  # folders are nobody else's
    report: dict[str, Any] = {**conditions(), "arguments": arguments_given, "runs": options.runs, "engines": {}}
    outcomes: dict[str, Results] = {}
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.json"
        job.write_text(json.dumps(cases.job()), encoding="utf-8")
        for engine in engines:
            python = options.peers_python if engine in PEERS and options.peers_python else sys.executable
            outcomes[engine] = run_engine(engine, python, job, len(cases.cases), options.runs)
            summary = summaries(cases.cases, outcomes[engine])
            report["engines"][engine] = {"sets": summary, "cases": listing(cases.cases, outcomes[engine])}
            print_engine(engine, summary)
    for engine in engines[1:]:
        report["engines"][engine]["ratios"] = print_ratios(cases.cases, outcomes, engines[0], engine)
        found = disagreements(cases.cases, outcomes[engines[0]], outcomes[engine])
        report["engines"][engine]["disagreements"] = found
        print_disagreements(engines[0], engine, found)
    if not options.no_own:
        print_failures(cases.cases, outcomes["latticework"], options.show)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Correctness and times of constrained decoding, beside its rivals.")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LATTICEWORK_DATA", "../shared/data")))
    parser.add_argument("--n", type=int, help="at most this many of the MaskBench schemas, chosen by hash")
    parser.add_argument("--only", nargs="*", choices=SETS, help="only these sets")
    parser.add_argument("--match", default="", help="only cases whose id has this in it")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=[], help="run these rivals too; bare: llguidance")
    parser.add_argument("--peers-python", help="the interpreter that has the rivals, if not this one")
    parser.add_argument("--no-own", action="store_true", help="run the rivals alone")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--show", type=int, default=10, help="print at most this many wrong cases of each kind")
    options = parser.parse_args()
    if "--peers" in sys.argv and not options.peers:
        options.peers = ["llguidance"]
    return options


# ---------------------------------------------------------------- running


def run_engine(engine: str, python: str, job: Path, count: int, runs: int) -> Results:
    """The result of every case. A case in which the worker dies or overstays gets an error, and a new worker goes on
    behind it."""
    results: Results = []
    began = time.monotonic()
    while len(results) < count:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
        command = [python, str(WORKER), engine, str(job), str(len(results)), str(runs)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            before = len(results)
            try:
                _collect(process, results)
            finally:
                process.kill()
        if process.returncode and len(results) == before and len(results) == 0:
            sys.exit(f"{engine} cannot be run by {python}")
    print(f"{engine}: {count} cases in {time.monotonic() - began:.0f} s", file=sys.stderr)
    return results


def _collect(process: subprocess.Popen[bytes], results: Results) -> None:
    """Reads results until the worker ends, or a limit is passed and it has to be ended."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    pending = b""
    stage, stage_began, case_began = "start", 0.0, 0.0
    while True:
        readable, _, _ = select.select([descriptor], [], [], 0.5)
        if readable:
            data = os.read(descriptor, 1 << 20)
            if not data:
                if stage in ("compile", "masks"):
                    results.append({"error": f"crashed ({stage})", "crash": True})
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                message = json.loads(line)
                stage, stage_began = message["stage"], _cpu_seconds(process.pid)
                if stage == "done":
                    results.append(message["result"])
                    case_began = stage_began
        elif stage in ("compile", "masks"):
            now = _cpu_seconds(process.pid)
            if stage == "compile" and now - stage_began > COMPILE_SECONDS:
                results.append({"error": f"compiling took over {COMPILE_SECONDS} s", "timeout": True})
                return
            if now - case_began > CASE_SECONDS:
                results.append({"error": f"masks took over {CASE_SECONDS} s", "timeout": True})
                return


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---------------------------------------------------------------- counting


def judge(case: dict[str, Any], result: dict[str, Any]) -> tuple[int, int]:
    """How many valid instances were refused (in either form), how many invalid ones accepted (in either form)."""
    rejects = accepts = 0
    for test, verdicts in zip(case["tests"], result["verdicts"], strict=True):
        if test["valid"]:
            rejects += not all(verdicts)
        else:
            accepts += any(verdicts)
    return rejects, accepts


def is_compiled(result: dict[str, Any]) -> bool:
    return "error" not in result


def summaries(cases: list[dict[str, Any]], results: Results) -> dict[str, dict[str, Any]]:
    found = {}
    for name in dict.fromkeys(case["set"] for case in cases):
        chosen = [(case, result) for case, result in zip(cases, results, strict=True) if case["set"] == name]
        found[name] = summary(chosen)
    return found


def summary(chosen: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    done = [(case, result) for case, result in chosen if is_compiled(result)]
    judged = [(case, *judge(case, result)) for case, result in done]
    tests = [test for case, _ in done for test in case["tests"]]
    ttfm = pooled([result for _, result in done], "ttfm") / 1e6
    late = sum(1 for _, result in chosen if result.get("timeout"))
    return {
        "cases": len(chosen),
        "compiled": len(done),
        "errors": len(chosen) - len(done) - late,
        "timeouts": late,
        "with_tests": sum(1 for case, _ in chosen if case["tests"]),
        "fully_right": sum(1 for case, rejects, accepts in judged if case["tests"] and not rejects and not accepts),
        "false_rejects": sum(rejects for _, rejects, _ in judged),
        "valid": sum(1 for test in tests if test["valid"]),
        "false_accepts": sum(accepts for _, _, accepts in judged),
        "invalid": sum(1 for test in tests if not test["valid"]),
        "ttfm_ms": spread(np.concatenate([ttfm, np.full(late, COMPILE_SECONDS * 1e3)])),
        "cold_us": spread(pooled([result for _, result in done], "cold") / 1e3),
        "warm_us": spread(pooled([result for _, result in done], "warm") / 1e3),
        "accept_us": spread(pooled([result for _, result in done], "accepts") / 1e3),
        "walk_us": spread(pooled([result for _, result in done], "walk") / 1e3),
    }


def pooled(results: Results, name: str) -> NDArray[np.float64]:
    return np.concatenate([np.zeros(0), *(np.asarray(result[name], np.float64) for result in results)])


def spread(times: NDArray[np.float64]) -> dict[str, float]:
    if not len(times):
        return {}
    marks = {"p50": 50, "p90": 90, "p99": 99, "p99.9": 99.9}
    found = {name: float(np.percentile(times, mark)) for name, mark in marks.items()}
    found = {"n": len(times), "avg": float(times.mean()), **found, "max": float(times.max())}
    return {name: round(value, 3) for name, value in found.items()}


def listing(cases: list[dict[str, Any]], results: Results) -> list[dict[str, Any]]:
    """Each case for the JSON file: what went wrong, and its times in short."""
    found = []
    for case, result in zip(cases, results, strict=True):
        entry: dict[str, Any] = {"id": case["id"], "set": case["set"]}
        if not is_compiled(result):
            entry |= {name: result.get(name) for name in ("error", "pointer")}
        else:
            wrong = [number for number, test in enumerate(case["tests"]) if is_wrong(test, result["verdicts"][number])]
            cold = np.asarray(result["cold"]) / 1e3
            entry |= {
                "wrong": wrong,
                "ttfm_ms": round(result["ttfm"][0] / 1e6, 3),
                "cold_avg_us": round(float(cold.mean()), 1),
                "cold_max_us": round(float(cold.max()), 1),
                "walk_avg_us": round(float(np.mean(result["walk"])) / 1e3, 1) if result["walk"] else None,
            }
        found.append(entry)
    return found


def is_wrong(test: dict[str, Any], verdicts: list[bool]) -> bool:
    return not all(verdicts) if test["valid"] else any(verdicts)


def disagreements(cases: list[dict[str, Any]], mine: Results, theirs: Results) -> list[dict[str, Any]]:
    """The instances that two engines judge differently, where both compiled the schema. mine: we are right."""
    found = []
    for case, left, right in zip(cases, mine, theirs, strict=True):
        if is_compiled(left) and is_compiled(right):
            for number, test in enumerate(case["tests"]):
                wrong = [is_wrong(test, result["verdicts"][number]) for result in (left, right)]
                if wrong[0] != wrong[1]:
                    entry = {"id": case["id"], "set": case["set"], "test": number, "valid": test["valid"]}
                    found.append({**entry, "mine": wrong[1]})
    return found


# ---------------------------------------------------------------- printing


def print_engine(engine: str, sets: dict[str, dict[str, Any]]) -> None:
    print(f"\n{engine}")
    for name, row in sets.items():
        share = 100 * row["fully_right"] / max(1, row["with_tests"])
        print(
            f"  {name}: fully right {row['fully_right']}/{row['with_tests']} ({share:.1f} %); "
            f"compiled {row['compiled']}/{row['cases']} (errors {row['errors']}, timeouts {row['timeouts']}); false "
            f"rejects {row['false_rejects']}/{row['valid']}, accepts {row['false_accepts']}/{row['invalid']}"
        )
        for label, key in (("TTFM ms", "ttfm_ms"), ("cold µs", "cold_us"), ("warm µs", "warm_us"),
                           ("accept µs", "accept_us"), ("walk µs", "walk_us")):  # fmt: skip
            if row[key]:
                print(f"    {label:9}  " + "  ".join(f"{mark} {value:g}" for mark, value in row[key].items()))


def print_ratios(
    cases: list[dict[str, Any]], outcomes: dict[str, Results], own: str, other: str
) -> dict[str, dict[str, float]]:
    """Our times over theirs: over all cases, and over those that both compiled (the same masks, roughly)."""
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(case["set"] for case in cases):
        pairs = [
            (mine, theirs)
            for case, mine, theirs in zip(cases, outcomes[own], outcomes[other], strict=True)
            if case["set"] == name and is_compiled(mine) and is_compiled(theirs)
        ]
        if not pairs:
            continue
        ratios: dict[str, float] = {"cases": len(pairs)}
        for key in ("ttfm", "cold", "warm", "walk"):
            mine, theirs = (spread(pooled([pair[side] for pair in pairs], key)) for side in (0, 1))
            if mine and theirs:
                ratios |= {f"{key}_{mark}": round(mine[mark] / theirs[mark], 2) for mark in mine if mark != "n"}
        found[name] = ratios
        print(f"\n{own} / {other} on {name}, {len(pairs)} cases that both compiled")
        print("  " + "  ".join(f"{mark} {value:g}" for mark, value in ratios.items() if mark != "cases"))
    return found


def print_disagreements(own: str, other: str, found: list[dict[str, Any]]) -> None:
    counts = Counter((entry["set"], entry["mine"], entry["valid"]) for entry in found)
    print(f"\n{len(found)} instances that {own} and {other} judge differently")
    for (name, is_mine, is_valid), count in sorted(counts.items()):
        fault = "refuses what is valid" if is_valid else "accepts what is not"
        print(f"  {name}: {count:4} where {other if is_mine else own} {fault}")
    for entry in found:
        if not entry["mine"]:
            print(f"    {other} is right about {entry['id']} test {entry['test']}")


def print_failures(cases: list[dict[str, Any]], results: Results, show: int) -> None:
    """What this engine refused, by reason, and what it judged wrongly."""
    for name in dict.fromkeys(case["set"] for case in cases):
        chosen = [(case, result) for case, result in zip(cases, results, strict=True) if case["set"] == name]
        reasons: Counter[str] = Counter()
        examples: dict[str, list[str]] = {}
        for case, result in chosen:
            if not is_compiled(result):
                reason = reason_of(result["error"])
                reasons[reason] += 1
                pointer = result.get("pointer")
                examples.setdefault(reason, []).append(case["id"] + (f" at {pointer}" if pointer is not None else ""))
        if reasons:
            print(f"\n{name}: refused at compiling")
        for reason, count in reasons.most_common(40):
            print(f"  {count:4}  {reason}   e.g. {'; '.join(examples[reason][:3])}")
        for valid, title in ((True, "valid instances refused"), (False, "invalid instances accepted")):
            lines = list(_wrong(chosen, valid))
            if lines:
                print(f"\n{name}: {len(lines)} {title}")
                print("\n".join(f"  {line}" for line in lines[:show]))


def _wrong(chosen: list[tuple[dict[str, Any], dict[str, Any]]], valid: bool) -> list[str]:
    found = []
    for case, result in chosen:
        if is_compiled(result):
            for number, test in enumerate(case["tests"]):
                if test["valid"] == valid and is_wrong(test, result["verdicts"][number]):
                    text = json.dumps(test["instance"], ensure_ascii=False)
                    deaths = result["deaths"][number]
                    found.append(f"{case['id']} test {number}, at tokens {deaths}: {text[:160]}")
    return found


def reason_of(error: str) -> str:
    """The error without what differs from schema to schema."""
    first = error.splitlines()[0] if error else "no reason"
    return re.sub(r"'[^']*'|\"[^\"]*\"|\d+|(?<=at )/\S+", "…", first)[:140]


if __name__ == "__main__":
    main()
