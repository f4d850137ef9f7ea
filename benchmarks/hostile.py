"""Free streams beside senders of hostile constraints: `python -m benchmarks.hostile`.

A server of its own, with its engine and its compile children. Pairs of runs, interleaved: `streams` unconstrained
streams alone, then the same beside `senders` clients that send the hostile corpus without pause, over HTTP and over the
link, each constraint a new one. Told: the times between tokens at the clients and the ratio of their p99s; what became
of every hostile request, and how long that took beside its limit; the memory of every process before and after.

Ends with status 1 where an answer came past its limit, a request had none, or one failed through a fault of ours.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec

from benchmarks.hardware import conditions
from benchmarks.hostile_corpus import Hostile, corpus
from latticework.lang.errors import LatticeworkError
from latticework.lang.events import Done, Event, Failed
from latticework.lang.ir import Choices, Constraint, Gen, JsonSchema, Regex, Sampling
from latticework.runtime.link.client import Client
from latticework.runtime.link.messages import FrontStats

TIMEOUT = 15.0  # seconds that a hostile request is given
SLACK = 3.0  # seconds after them within which its answer has to be here
RATIO_LIMIT = 1.25
OURS = ("RuntimeFailure", "EngineDied", "ConnectionLost", "internal")  # errors that no constraint may cause
SETTLE_SECONDS = 3.0
PROMPT = "Once upon a time there was a"


@dataclass(frozen=True)
class Attempt:
    """One hostile request. way: http, link, or language where it was refused before it was sent."""

    name: str
    way: str
    outcome: str
    seconds: float

    @property
    def is_late(self) -> bool:
        return self.seconds > TIMEOUT + SLACK

    @property
    def is_fault(self) -> bool:
        return self.outcome.startswith(("lost", "500", *OURS))


@dataclass(frozen=True)
class Gaps:
    """Milliseconds between two tokens of one stream, of all streams together. steps: how many gaps."""

    steps: int
    p50: float
    p99: float
    longest: float

    @classmethod
    def of(cls, gaps: list[float]) -> Gaps:
        found = sorted(gaps)
        return cls(len(found), 1e3 * statistics.median(found), 1e3 * found[len(found) * 99 // 100], 1e3 * found[-1])


@dataclass(frozen=True)
class Pair:
    alone: Gaps
    beside: Gaps

    @property
    def ratio(self) -> float:
        return self.beside.p99 / self.alone.p99


@dataclass
class Report:
    """memory: MiB of each kind of process, by moment. held: what engine and front say they hold, by moment."""

    pairs: list[Pair] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    asked: int = 0
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    held: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """The median of the pairs'."""
        return statistics.median(pair.ratio for pair in self.pairs)

    def problems(self) -> list[str]:
        """What should not be, times between tokens aside."""
        found = [f"{one.name} ({one.way}): {one.outcome}" for one in self.attempts if one.is_fault]
        late = [one for one in self.attempts if one.is_late]
        found += [f"{one.name} ({one.way}): answered after {one.seconds:.1f} s" for one in late]
        if self.asked != len(self.attempts):
            found.append(f"{self.asked} hostile requests had {len(self.attempts)} outcomes")
        found += [f"{what}: {count} held" for what, count in self.held.get("after", {}).items() if count]
        return found


# ---------------------------------------------------------------- the server


@dataclass(frozen=True)
class Server:
    url: str
    link: str
    pid: int

    def memory(self) -> dict[str, float]:
        """MiB resident, by kind of process."""
        return {kind: sum(map(resident, pids)) / (1 << 20) for kind, pids in self._processes().items()}

    def _processes(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {"front": [self.pid], "engine": [], "compilers": []}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and parent_of(entry) == self.pid:
                command = _read(entry / "cmdline")
                found["engine" if "engine_worker" in command else "compilers"].append(int(entry.name))
        return found


def parent_of(process: Path) -> int:
    """0: it has ended."""
    stat = _read(process / "stat")
    return int(stat.rpartition(")")[2].split()[1]) if stat else 0


def resident(pid: int) -> int:
    """Bytes of memory of a process; 0 if it has ended."""
    fields = _read(Path(f"/proc/{pid}/statm")).split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if fields else 0


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


@contextmanager
def started(model: str, options: list[str]) -> Iterator[Server]:
    """`latticework serve` on a free port of loopback. It ends with the block."""
    command = [sys.executable, "-m", "latticework", "serve", "--port", "0", "--no-log-requests", "--model", model]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"(http://\S+) and (ipc://\S+)", line)
        if found is None:
            raise SystemExit(f"the server did not start: {line!r}")
        yield Server(found[1], found[2], process.pid)
    finally:
        process.terminate()
        process.wait()


# ---------------------------------------------------------------- free streams


class Streams:
    """Unconstrained streams, all at once. begun: every one has its first token."""

    def __init__(self, session: httpx.AsyncClient, model: str, count: int, tokens: int) -> None:
        self.begun = asyncio.Event()
        self.ended = False
        self._session = session
        self._body = {"model": model, "stream": True, "max_tokens": tokens, "ignore_eos": True, "temperature": 1.0}
        self._count = count
        self._tokens = tokens
        self._times: list[list[float]] = [[] for _ in range(count)]

    async def run(self, seed: int) -> Gaps:
        """The gaps while all of them stream. Raises RuntimeError where one fails."""
        try:
            await asyncio.gather(*(self._stream(number, seed + number) for number in range(self._count)))
        finally:
            self.ended = True
            self.begun.set()
        first, last = max(times[0] for times in self._times), min(times[-1] for times in self._times)
        gaps = [
            after - before
            for times in self._times
            for before, after in itertools.pairwise(times)
            if first <= before and after <= last
        ]
        return Gaps.of(gaps)

    async def _stream(self, number: int, seed: int) -> None:
        body = self._body | {"prompt": f"{PROMPT} {number}", "seed": seed}
        async with self._session.stream("POST", "/v1/completions", json=body) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    self._times[number].append(time.perf_counter())
                    if '"error"' in line:
                        raise RuntimeError(f"a free stream failed: {line}")
                if all(self._times):
                    self.begun.set()
        if len(self._times[number]) < 0.5 * self._tokens:  # pieces of characters are not told one by one
            raise RuntimeError(f"a free stream of {self._tokens} tokens had {len(self._times[number])} events")


# ---------------------------------------------------------------- hostile senders


class Senders:
    """Sends the corpus round and round; goes on where it stopped."""

    def __init__(
        self, session: httpx.AsyncClient, link: Client, model: str, report: Report, items: list[Hostile]
    ) -> None:
        self._session = session
        self._link = link
        self._model = model
        self._report = report
        self._order = ((item, way) for item in itertools.cycle(items) for way in ("http", "link"))
        self._salts = itertools.count(1)

    async def run(self, streams: Streams, count: int) -> None:
        """Until the streams have ended, and every answer is here."""
        await streams.begun.wait()

        async def sender() -> None:
            while not streams.ended:
                await self.send(*next(self._order))

        await asyncio.gather(*(sender() for _ in range(count)))

    async def send(self, item: Hostile, way: str) -> None:
        """One request and its one outcome. What HTTP has no field for goes over the link alone."""
        salt = next(self._salts)
        self._report.asked += 1
        constraint: Constraint | None
        try:
            constraint = await asyncio.to_thread(item.constraint, salt)
        except LatticeworkError as error:
            self._note(item, "language", _named(error.to_data().type, error.message), 0.0)
            return
        stops = item.stops(salt)
        body = http_body(constraint, stops) if way == "http" else None
        began = time.monotonic()
        try:
            if body is not None:
                outcome = await self._over_http(item, await asyncio.to_thread(json.dumps, body))
            else:
                way = "link"
                outcome = await self._over_link(item, constraint, stops)
        except (httpx.HTTPError, LatticeworkError) as error:
            outcome = f"lost: {error!r}"
        self._note(item, way, outcome, time.monotonic() - began)

    def _note(self, item: Hostile, way: str, outcome: str, seconds: float) -> None:
        self._report.attempts.append(Attempt(item.name, way, outcome, seconds))

    async def _over_http(self, item: Hostile, constraint: str) -> str:
        head = {"model": self._model, "prompt": "Write:", "max_tokens": item.max_tokens, "timeout": TIMEOUT}
        content = json.dumps(head)[:-1] + (f", {constraint[1:]}" if constraint != "{}" else "}")
        headers = {"content-type": "application/json"}
        response = await self._session.post("/v1/completions", content=content, headers=headers)
        if response.status_code == 200:
            return "answered"
        error = response.json()["error"]
        return f"{response.status_code} {_named(error['code'] or 'internal', error['message'])}"

    async def _over_link(self, item: Hostile, constraint: Constraint | None, stops: tuple[str, ...]) -> str:
        loop = asyncio.get_running_loop()
        told: asyncio.Future[Event] = loop.create_future()

        def hear(event: Event) -> None:
            if isinstance(event, Done | Failed):
                loop.call_soon_threadsafe(lambda: told.done() or told.set_result(event))

        sampling = Sampling(max_tokens=item.max_tokens, stop_regex=stops, seed=1)
        gen = Gen(sampling=sampling, constraint=constraint, on_length="prefer_close")
        run = self._link.generate("Write:", gen, hear, TIMEOUT)
        event = await asyncio.wait_for(told, TIMEOUT + 10 * SLACK)
        self._link.end(run)
        return "answered" if isinstance(event, Done) else _named(event.error.type, event.error.message)


def _named(kind: str, message: str) -> str:
    return f"{kind}: {message.splitlines()[0][:160]}"


def http_body(constraint: Constraint | None, stops: tuple[str, ...]) -> dict[str, Any] | None:
    """The fields of an HTTP body that ask for it; None where there are none."""
    body: dict[str, Any] = {"stop_regex": list(stops)} if stops else {}
    match constraint:
        case None:
            return body
        case Regex(pattern):
            return body | {"regex": pattern}
        case Choices(options):
            return body | {"choices": list(options)}
        case JsonSchema() if constraint == JsonSchema(constraint.schema):
            schema = msgspec.json.decode(constraint.text)
            return body | {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
        case _:
            return None


# ---------------------------------------------------------------- all of it


@dataclass(frozen=True)
class Plan:
    """tokens: of each stream. items: of the corpus."""

    pairs: int
    tokens: int
    streams: int
    senders: int
    items: list[Hostile]


async def measure(server: Server, model: str, plan: Plan) -> Report:
    report = Report()
    link = await asyncio.to_thread(Client, server.link)
    try:
        async with httpx.AsyncClient(base_url=server.url, timeout=httpx.Timeout(TIMEOUT + 10 * SLACK)) as session:
            senders = Senders(session, link, model, report, plan.items)

            async def alone(seed: int, tokens: int) -> Gaps:
                return await Streams(session, model, plan.streams, tokens).run(seed)

            await alone(0, min(32, plan.tokens))  # warms up
            await note(report, server, link, "before")
            for number in range(plan.pairs):
                quiet = await alone(number, plan.tokens)
                streams = Streams(session, model, plan.streams, plan.tokens)
                beside, _ = await asyncio.gather(streams.run(number), senders.run(streams, plan.senders))
                report.pairs.append(Pair(quiet, beside))
            await note(report, server, link, "loaded")
            link.flush_cache()
            await note(report, server, link, "after")
    finally:
        await asyncio.to_thread(link.close)
    return report


async def note(report: Report, server: Server, link: Client, moment: str) -> None:
    await asyncio.sleep(SETTLE_SECONDS)
    report.memory[moment] = server.memory()
    report.held[moment] = held(await asyncio.to_thread(link.stats))


def held(stats: FrontStats) -> dict[str, int]:
    engine = stats.engine
    return {
        "open requests": stats.open_requests,
        "running": engine.running,
        "waiting": engine.waiting,
        "leases": engine.leases,
        "pages neither free nor cached": engine.pages_total - engine.pages_free - engine.pages_cached,
        "automata": engine.automata,
        "bytes of automata": engine.automata_bytes,
        "restarts of the engine": stats.restarts,
    }


def show(report: Report) -> None:
    for pair in report.pairs:
        for name, gaps in (("alone", pair.alone), ("beside", pair.beside)):
            times = f"p50 {gaps.p50:.1f} ms, p99 {gaps.p99:.1f} ms, longest {gaps.longest:.1f} ms"
            print(f"{name:6} {gaps.steps} gaps between tokens: {times}")
        print(f"       p99 beside the corpus: {pair.ratio:.2f}×")
    if report.pairs:
        print(f"p99, median of {len(report.pairs)} pairs: {report.ratio:.2f}× (at most {RATIO_LIMIT})")
    for moment, sizes in report.memory.items():
        print(f"memory {moment:6} " + ", ".join(f"{kind} {size:.0f} MiB" for kind, size in sizes.items()))
        print(f"held   {moment:6} " + ", ".join(f"{what} {count}" for what, count in report.held[moment].items()))
    by_name: dict[str, list[Attempt]] = defaultdict(list)
    for one in report.attempts:
        by_name[one.name].append(one)
    for name, attempts in by_name.items():
        ways = ",".join(sorted({one.way for one in attempts}))
        slowest = max(one.seconds for one in attempts)
        outcomes = "; ".join(f"{count}× {what}" for what, count in Counter(one.outcome for one in attempts).items())
        print(f"{name:42} {ways:13} {slowest:6.2f} s of {TIMEOUT:g}  {outcomes}")
    print(f"{len(report.attempts)} hostile requests")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=256, help="of each free stream")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--senders", type=int, default=4)
    parser.add_argument("--only", default="", help="a part of the names of what is sent")
    parser.add_argument("--serve-args", default="--kv-tokens 16384", help="more options for the server, in one string")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    given = parser.parse_args()
    items = [item for item in corpus() if given.only in item.name]
    plan = Plan(given.pairs, given.tokens, given.streams, given.senders, items)
    about = conditions() | {"load_before": f"{os.getloadavg()[0]:.2f}"}
    began = time.monotonic()
    with started(given.model, given.serve_args.split()) as server:
        report = asyncio.run(measure(server, given.model, plan))
    about["seconds"] = f"{time.monotonic() - began:.0f}"
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    show(report)
    problems = report.problems()
    print("\n".join(problems) or "no problem")
    if given.json:
        asked = {"tokens": plan.tokens, "streams": plan.streams, "senders": plan.senders, "ratio": report.ratio}
        given.json.write_text(json.dumps(about | asked | asdict(report) | {"problems": problems}, indent=1) + "\n")
    raise SystemExit(1 if problems else 0)


if __name__ == "__main__":
    main()
