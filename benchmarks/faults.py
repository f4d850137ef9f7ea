"""Breaks a server on purpose and counts what its clients see: `python -m benchmarks.faults`.

While clients ask without pause the engine is killed several times and stopped once, clients leave in the middle, the
queue is filled and short timeouts run out. Every request has to have exactly one outcome, and afterwards nothing may
be held: no open request, no lease, no page that is neither free nor cached, no growing memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path

import httpx

from benchmarks.hardware import conditions
from latticework.lang.errors import LatticeworkError
from latticework.runtime.config import EngineConfig, ServerConfig
from latticework.runtime.programs.front import Front
from latticework.runtime.server import http

TIMEOUT_SLACK = 3.0  # seconds after its timeout in which a request has to have its answer


@dataclass
class Report:
    """outcomes: how requests ended, in words. late: requests answered long after their timeout. memory: bytes of the
    engine in the middle of the quiet requests and after them."""

    outcomes: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    late: int = 0
    restarts: int = 0
    held: dict[str, int] = field(default_factory=dict)
    memory: tuple[int, int] = (0, 0)

    @property
    def growth(self) -> float:
        return self.memory[1] / max(1, self.memory[0]) - 1

    def problems(self) -> list[str]:
        """What should not be."""
        found = [f"{count} requests: {what}" for what, count in self.outcomes.items() if what.startswith("bad")]
        if self.asked != self.outcomes.total():
            found.append(f"{self.asked} requests had {self.outcomes.total()} outcomes")
        if self.late:
            found.append(f"{self.late} requests were answered long after their timeout")
        found += [f"{what}: {count} held" for what, count in self.held.items() if count]
        return found


async def run(clients: int, kills: int, disconnects: int, quiet: int, hang_seconds: float = 3.0) -> Report:
    """The whole of it, against a server of its own over the tiny model."""
    report = Report()
    engine = EngineConfig(model="tiny", dtype="float32", kv_tokens=16384, threads=1, max_running=8, max_waiting=clients)
    front = await Front.start(engine, ServerConfig(hang_seconds=hang_seconds))
    bound = http.bind("127.0.0.1", 0)
    stopped, ready = asyncio.Event(), asyncio.Event()
    places = http.OpenPlaces(clients * 4)
    serving = asyncio.create_task(http.serve_http(front, bound, places, stopped, ready.set))
    try:
        await ready.wait()
        limits = httpx.Limits(max_connections=clients * 8)
        async with httpx.AsyncClient(base_url=http.url_of(bound), timeout=120, limits=limits) as session:
            await break_it(front, session, report, clients, kills, disconnects)
            await ask_quietly(front, session, report, quiet)
        report.restarts = front.link.restarts
        report.held = await held(front, places)
    finally:
        stopped.set()
        await serving
        await front.close()
        bound.close()
    return report


async def break_it(
    front: Front, session: httpx.AsyncClient, report: Report, clients: int, kills: int, disconnects: int
) -> None:
    over = asyncio.Event()
    random_ = random.Random(7)
    working = [asyncio.create_task(client(session, report, over, random.Random(n))) for n in range(clients)]
    leaving = asyncio.create_task(leave(session, report, disconnects, random_))
    for number in (*(signal.SIGKILL,) * kills, signal.SIGSTOP):
        await front.link.available(60)
        await asyncio.sleep(random_.uniform(0.2, 0.8))
        generation = front.link.generation
        if front.link.pid is not None:
            os.kill(front.link.pid, number)
        while front.link.generation == generation or not front.link.ready.is_set():
            await asyncio.sleep(0.05)
    await asyncio.gather(*(ask(session, report, random.Random(n), flood=True) for n in range(clients * 5)))
    await leaving
    over.set()
    await asyncio.gather(*working)


async def client(session: httpx.AsyncClient, report: Report, over: asyncio.Event, random_: random.Random) -> None:
    while not over.is_set():
        await ask(session, report, random_)


def body_of(random_: random.Random) -> dict[str, object]:
    body: dict[str, object] = {
        "model": "tiny",
        "prompt": "".join(random_.choices("abc def", k=random_.randrange(1, 200))),
        "max_tokens": random_.randrange(1, 60),
        "stream": random_.random() < 0.5,
    }
    if random_.random() < 0.3:
        body["regex"] = "[a-z]{1,30}"
    if random_.random() < 0.2:
        body["n"] = random_.randrange(2, 5)
    if random_.random() < 0.1 and not body["stream"]:
        body |= {"prompt": [body["prompt"], "another"], "prompt_logprobs": 1}
    if random_.random() < 0.2:
        body["timeout"] = random_.uniform(0.05, 2.0)
    return body


async def ask(session: httpx.AsyncClient, report: Report, random_: random.Random, flood: bool = False) -> None:
    """One request, and its one outcome."""
    body = body_of(random_) | ({"max_tokens": 200} if flood else {})
    report.asked += 1
    began = time.monotonic()
    try:
        response = await session.post("/v1/completions", json=body)
        report.outcomes[outcome(response, bool(body["stream"]))] += 1
    except httpx.HTTPError as error:
        report.outcomes[f"bad: {type(error).__name__}"] += 1
    limit = body.get("timeout")
    if isinstance(limit, float) and time.monotonic() - began > limit + TIMEOUT_SLACK:
        report.late += 1


def outcome(response: httpx.Response, stream: bool) -> str:
    if response.status_code != 200:
        code = response.json()["error"]["code"]
        known = response.status_code in (503, 504) and (
            response.status_code == 504 or "retry-after" in response.headers
        )
        return f"{'' if known else 'bad: '}{response.status_code} {code}"
    if not stream:
        return "answered"
    last = [line for line in response.text.split("\n\n") if line][-1].removeprefix("data: ")
    if last == "[DONE]":
        return "answered"
    error = json.loads(last).get("error")
    return f"stream ended: {error['code']}" if error else "bad: a stream without an end"


async def leave(session: httpx.AsyncClient, report: Report, count: int, random_: random.Random) -> None:
    """Requests whose client goes away at a moment of its own choosing."""
    for _ in range(count):
        report.asked += 1
        body = body_of(random_) | {"max_tokens": 1000, "stream": True}
        try:
            async with asyncio.timeout(random_.uniform(0.0, 0.1)):
                await session.post("/v1/completions", json=body)
        except (TimeoutError, httpx.HTTPError):
            pass
        report.outcomes["left by its client"] += 1


async def ask_quietly(front: Front, session: httpx.AsyncClient, report: Report, count: int) -> None:
    """Requests one after the other in a few lines; the engine's memory after half of them and after all."""
    await front.link.available(60)
    sizes = []
    for _ in range(2):
        for first in range(0, count // 2, 8):
            await asyncio.gather(*(ask(session, report, random.Random(first + n)) for n in range(8)))
        sizes.append(resident(front.link.pid))
    report.memory = (sizes[0], sizes[1])


def resident(pid: int | None) -> int:
    """Bytes of memory of a process."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def held(front: Front, places: http.OpenPlaces) -> dict[str, int]:
    """What is still held once everything is over: zero everywhere."""
    end = time.monotonic() + 10
    while True:
        await asyncio.sleep(0.6)  # a heartbeat brings fresh numbers
        stats = front.link.stats
        found = {
            "places": places.taken,
            "open requests": front.link.open_requests,
            "running": stats.running,
            "waiting": stats.waiting,
            "leases": stats.leases,
            "pages neither free nor cached": stats.pages_total - stats.pages_free - stats.pages_cached,
        }
        if not any(found.values()) or time.monotonic() > end:
            return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--disconnects", type=int, default=100)
    parser.add_argument("--quiet", type=int, default=5000, help="requests during which memory has to stay flat")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    given = parser.parse_args()
    about = conditions() | {"load_before": f"{os.getloadavg()[0]:.2f}"}
    began = time.monotonic()
    try:
        report = asyncio.run(run(given.clients, given.kills, given.disconnects, given.quiet))
    except LatticeworkError as error:
        raise SystemExit(str(error)) from None
    about["seconds"] = f"{time.monotonic() - began:.0f}"
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    for what, count in report.outcomes.most_common():
        print(f"{count:6} {what}")
    print(f"{report.asked} requests, {report.restarts} restarts, memory {report.growth:+.1%} over the quiet half")
    problems = report.problems()
    print("\n".join(problems) or "no problem")
    if given.json:
        asked = {"clients": given.clients, "kills": given.kills, "disconnects": given.disconnects, "quiet": given.quiet}
        seen = {one.name: getattr(report, one.name) for one in fields(report)}  # asdict breaks a Counter
        whole = about | asked | seen | {"problems": problems}
        given.json.write_text(json.dumps(whole, indent=1) + "\n")
    raise SystemExit(1 if problems else 0)


if __name__ == "__main__":
    main()
