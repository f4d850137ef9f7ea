"""A load client for any OpenAI-compatible server.

    python -m benchmarks.serve --base-url http://127.0.0.1:8000/v1 --repeats 3 --json out.json
    python -m benchmarks.serve --start                   # starts `latticework serve` itself
    python -m benchmarks.serve --start --transformers    # and puts transformers.generate beside it

Knows HTTP and the clock; what is sent is in workloads.py. Numbers are medians over repeats. Output tokens are those
of the server's own usage; ours counts every token drawn, the end token included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.hardware import conditions
from benchmarks.workloads import SCHEMA, WORKLOADS, Call, Sizes, Task, Workload
from latticework.runtime.config import DEFAULT_MODEL, EngineConfig

TIMEOUT_SECONDS = 600.0


class BadAnswer(Exception):
    """The server failed a request: its numbers would mean nothing."""


@dataclass(frozen=True)
class Answer:
    """One measured request; times in seconds."""

    text: str
    first: float  # to the first text
    total: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Result:
    """One run of a workload. Rates are over its wall time; ms are medians over its requests."""

    wall_s: float
    tokens_per_s: float
    ttft_ms: float
    tpot_ms: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    valid_json: float | None = None  # share of answers that the schema accepts


# ---------------------------------------------------------------- one request


async def ask(http: httpx.AsyncClient, model: str, call: Call) -> Answer:
    """Streams one chat completion, greedily."""
    body: dict[str, Any] = {
        "model": model,
        "messages": call.messages,
        "max_tokens": call.max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if call.schema is not None:
        schema = {"name": "answer", "schema": call.schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if call.to_the_end:
        body["ignore_eos"] = True
    started = time.perf_counter()
    first: float | None = None
    pieces: list[str] = []
    usage: dict[str, Any] = {}
    async with http.stream("POST", "chat/completions", json=body) as response:
        if response.status_code != 200:
            raise BadAnswer(f"{response.status_code}: {(await response.aread()).decode(errors='replace')}")
        async for event in _events(response):
            if "error" in event:
                raise BadAnswer(str(event["error"]))
            usage = event.get("usage") or usage
            text = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
            if text:
                first = first or time.perf_counter() - started
                pieces.append(text)
    total = time.perf_counter() - started
    if not usage:
        raise BadAnswer("the server sent no usage; it needs stream_options.include_usage")
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Answer("".join(pieces), first or total, total, usage["prompt_tokens"], cached, usage["completion_tokens"])


async def _events(response: httpx.Response) -> Any:
    async for line in response.aiter_lines():
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data != "[DONE]":
            yield json.loads(data)


# ---------------------------------------------------------------- one workload


async def run_task(http: httpx.AsyncClient, model: str, task: Task) -> list[Answer]:
    answers = list(await asyncio.gather(*(ask(http, model, call) for call in task.calls)))
    if task.join is not None:
        answers.append(await ask(http, model, task.join([answer.text for answer in answers])))
    return answers


async def run_workload(http: httpx.AsyncClient, model: str, workload: Workload) -> tuple[list[Answer], float]:
    """All answers, and the wall time."""
    places = asyncio.Semaphore(workload.concurrency)

    async def placed(task: Task) -> list[Answer]:
        async with places:
            return await run_task(http, model, task)

    started = time.perf_counter()
    answers = await asyncio.gather(*(placed(task) for task in workload.tasks))
    return [answer for group in answers for answer in group], time.perf_counter() - started


def result(answers: list[Answer], wall: float, is_json: bool) -> Result:
    output = sum(answer.output_tokens for answer in answers)
    steps = [(a.total - a.first) / (a.output_tokens - 1) for a in answers if a.output_tokens > 1]
    return Result(
        wall_s=wall,
        tokens_per_s=output / wall,
        ttft_ms=1e3 * statistics.median(answer.first for answer in answers),
        tpot_ms=1e3 * statistics.median(steps) if steps else 0.0,
        prompt_tokens=sum(answer.prompt_tokens for answer in answers),
        cached_tokens=sum(answer.cached_tokens for answer in answers),
        output_tokens=output,
        valid_json=sum(map(_is_valid, answers)) / len(answers) if is_json else None,
    )


def _is_valid(answer: Answer) -> bool:
    try:
        jsonschema.validate(json.loads(answer.text), SCHEMA)
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


def median(results: list[Result]) -> Result:
    """Field by field."""
    columns = {field.name: [getattr(one, field.name) for one in results] for field in fields(Result)}
    middle: dict[str, Any] = {k: None if None in column else statistics.median(column) for k, column in columns.items()}
    return Result(**middle)


async def measure(base_url: str, model: str | None, options: argparse.Namespace) -> dict[str, list[Result]]:
    """Every repeat of every workload asked for. Repeats are interleaved, each with prompts of its own, so that a
    cache helps inside a workload and never between repeats."""
    results: dict[str, list[Result]] = {name: [] for name in options.workload}
    limits = httpx.Limits(max_connections=None)
    base_url = base_url.rstrip("/") + "/"
    async with httpx.AsyncClient(base_url=base_url, timeout=TIMEOUT_SECONDS, limits=limits) as http:
        model = model or (await http.get("models")).json()["data"][0]["id"]
        await ask(http, model, Call([{"role": "user", "content": f"Warm up {options.seed}."}], 8))
        for repeat in range(options.repeats):
            for name in options.workload:
                workload = WORKLOADS[name](random.Random(f"{options.seed} {name} {repeat}"), sizes(options))
                answers, wall = await run_workload(http, model, workload)
                results[name].append(result(answers, wall, name.startswith("json")))
    return results


# ---------------------------------------------------------------- the server, and the report


@contextmanager
def started_server(arguments: list[str]) -> Iterator[str]:
    """`latticework serve` on a free port; its base URL. It ends with the block."""
    command = [sys.executable, "-m", "latticework", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        if found is None:
            raise BadAnswer("the server did not start; its messages are above")
        yield f"{found[0]}/v1"
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def sizes(options: argparse.Namespace) -> Sizes:
    return Sizes(**{field.name: getattr(options, field.name) for field in fields(Sizes)})


def table(results: dict[str, list[Result]], peer: dict[str, list[float]], about: dict[str, Any]) -> Table:
    head = Table(title=f"{about['hardware']}, commit {about['commit']}, {about['date']}, torch {about['torch']}")
    columns = ["workload", "wall s", "out tok/s", "TTFT ms", "TPOT ms", "in", "cached", "out", "valid JSON"]
    for name in columns + (["transformers tok/s", "ratio"] if peer else []):
        head.add_column(name, justify="left" if name == "workload" else "right")
    for name, repeats in results.items():
        one = median(repeats)
        speeds = [r.tokens_per_s for r in repeats]
        row = [
            name,
            f"{one.wall_s:.2f}",
            f"{one.tokens_per_s:.1f} [{min(speeds):.0f}–{max(speeds):.0f}]",
            f"{one.ttft_ms:.0f}",
            f"{one.tpot_ms:.1f}",
            *(f"{value:.0f}" for value in (one.prompt_tokens, one.cached_tokens, one.output_tokens)),
            "" if one.valid_json is None else f"{one.valid_json:.0%}",
        ]
        if peer:
            theirs = statistics.median(peer[name]) if name in peer else None
            row += ["", ""] if theirs is None else [f"{theirs:.1f}", f"{one.tokens_per_s / theirs:.2f}×"]
        head.add_row(*row)
    return head


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.serve", description=__doc__.splitlines()[0])
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--base-url", help="of a running server, with its /v1")
    where.add_argument("--start", action="store_true", help="start `latticework serve` on a free port")
    parser.add_argument("--serve-args", default="", help="more options for --start, in one string")
    parser.add_argument("--model", help="default: the first one the server lists")
    parser.add_argument("--workload", action="append", choices=WORKLOADS, help="may be repeated; default: all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**9, help="of the prompts; default: new ones")
    for field in fields(Sizes):
        parser.add_argument("--" + field.name.replace("_", "-"), type=int)
    parser.add_argument(
        "--transformers",
        action="store_true",
        help="with --start and the default model: also time transformers.generate",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every repeat there")
    options = parser.parse_args(arguments)
    options.workload = options.workload or list(WORKLOADS)
    options.serve = (["--model", options.model] if options.start and options.model else []) + options.serve_args.split()
    if options.serve_args and not options.start:
        parser.error("--serve-args are for --start; a running server has its own")
    if options.transformers:
        if not options.start:
            parser.error("--transformers needs --start: threads and number format of a running server are not known")
        options.engine = engine_of(options.serve)
        if options.engine.model != DEFAULT_MODEL:
            parser.error(f"--transformers runs {DEFAULT_MODEL} only, not {options.engine.model}")
    return options


def engine_of(arguments: list[str]) -> EngineConfig:
    """What `latticework serve` makes of its options, as far as transformers can be given the same."""
    parser = argparse.ArgumentParser(prog="--serve-args", add_help=False, allow_abbrev=False)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int)
    found, _ = parser.parse_known_args(arguments)
    try:
        return msgspec.convert(vars(found), EngineConfig)
    except msgspec.ValidationError as error:
        parser.error(str(error))


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if options.start:
        with started_server(options.serve) as base_url:
            results = asyncio.run(measure(base_url, None, options))
    else:
        results = asyncio.run(measure(options.base_url, options.model, options))
    peer: dict[str, list[float]] = {}
    if options.transformers:
        from benchmarks import transformers_generate

        peer = transformers_generate.measure(
            options.workload, options.repeats, options.seed, sizes(options), options.engine
        )
    about = conditions() | {"seed": options.seed, "repeats": options.repeats}
    Console(width=None if sys.stdout.isatty() else 140).print(table(results, peer, about))
    if options.json:
        found = {name: [asdict(one) for one in repeats] for name, repeats in results.items()}
        report = about | {"results": found, "transformers_tokens_per_s": peer}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
