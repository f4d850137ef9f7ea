"""Who waits how long, over the tiny model and a real engine process: `python -m benchmarks.fairness`.

hits      More requests than are served at once, 95 % of which begin with the same cached prompt. The longest queue
          time of one that does not, beside the median of all: in a queue of constant length, and in one that grows.
tenants   One tenant asks at a steady rate beside another of the same rate, then beside one that floods the engine.
          The p99 of its time to first token, in both.

Knows the engine link; what travels before it (HTTP, tokenising) is the same for all requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.hardware import conditions
from latticework.lang.errors import LatticeworkError
from latticework.lang.ir import Sampling
from latticework.runtime.config import EngineConfig, ServerConfig
from latticework.runtime.link.engine_link import EngineLink
from latticework.runtime.programs.front import Front
from latticework.runtime.request import GenSegment, Request, TextSegment, TokenEvent

PLACES = 16  # sequences in one batch
HITS = 0.95
SHARED, OWN, OUTPUT = 800, 40, 16  # tokens; a cold prompt is as long as both
FLOOD = 256  # requests of the flooding tenant that are open at any time
LOADS = (0.1, 0.25, 0.4)  # rate of a polite tenant, as a share of what the engine serves
QUEUE_LIMIT, TTFT_LIMIT = 3.0, 2.0


@dataclass(frozen=True)
class Answered:
    """One request. queue: seconds before it was admitted; first: seconds until its first token was here."""

    cold: bool
    queue: float
    first: float


@dataclass(frozen=True)
class Hits:
    """Seconds of queueing; ratio: the longest of a cold request to the median of all."""

    name: str
    requests: int
    rate: float
    median: float
    longest_hit: float
    longest_cold: float
    ratio: float


@dataclass(frozen=True)
class Tenants:
    """p99 of the polite tenant's seconds to the first token."""

    load: float
    rate: float
    requests: int
    beside_polite: float
    beside_flood: float
    ratio: float


class Load:
    """Makes requests of one kind and asks them. Prompts are printable bytes at random."""

    def __init__(self, link: EngineLink, seed: int) -> None:
        self._link = link
        self._random = random.Random(seed)
        self._hot = self._tokens(SHARED)

    def _tokens(self, count: int) -> tuple[int, ...]:
        return tuple(self._random.choices(range(33, 127), k=count))

    async def hot_or_cold(self) -> Answered:
        cold = self._random.random() >= HITS
        return await self.ask(self._tokens(SHARED + OWN) if cold else self._hot + self._tokens(OWN), cold, "")

    async def warm_up(self) -> None:
        await self.ask(self._hot, False, "")

    async def of(self, tenant: str) -> Answered:
        """A request of a tenant; nothing of it is cached."""
        return await self.ask(self._tokens(200), True, tenant)

    async def ask(self, prompt: tuple[int, ...], cold: bool, tenant: str) -> Answered:
        done: asyncio.Future[TokenEvent] = asyncio.get_running_loop().create_future()
        began, first = time.perf_counter(), 0.0

        def hear(event: TokenEvent) -> None:
            nonlocal first
            first = first or time.perf_counter() - began
            if event.final and not done.done():
                done.set_result(event)

        gen = GenSegment(Sampling(max_tokens=OUTPUT, seed=self._random.getrandbits(32), ignore_eos=True))
        request = Request(self._link.number(), (TextSegment(prompt), gen), tenant=tenant)
        self._link.submit(request, {}, hear)
        try:
            event = await done
        except asyncio.CancelledError:
            self._link.cancel(request.id)
            raise
        if event.error is not None or event.usage is None:
            raise RuntimeError(f"a request failed: {event.error}")
        return Answered(cold, event.usage.queue_seconds, first)


Ask = Callable[[], Awaitable[Answered]]


async def in_flight(ask: Ask, count: int, seconds: float) -> list[Answered]:
    """`count` requests are open all the time."""
    end, answers = time.perf_counter() + seconds, list[Answered]()

    async def client() -> None:
        while time.perf_counter() < end:
            answers.append(await ask())

    await asyncio.gather(*(client() for _ in range(count)))
    return answers


async def at_rate(ask: Ask, rate: float, seconds: float, seed: int) -> list[Answered]:
    """Requests come at random moments, `rate` a second, whatever becomes of the others."""
    began, asked = time.perf_counter(), list[asyncio.Future[Answered]]()
    for moment in arrivals(rate, seconds, seed):
        await asyncio.sleep(max(0.0, began + moment - time.perf_counter()))
        asked.append(asyncio.ensure_future(ask()))
    return await asyncio.gather(*asked)


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """A Poisson process."""
    gaps, moment = random.Random(seed), 0.0
    while (moment := moment + gaps.expovariate(rate)) < seconds:
        yield moment


async def measure_hits(load: Load, seconds: float) -> list[Hits]:
    await load.warm_up()
    constant = await in_flight(load.hot_or_cold, 8 * PLACES, seconds)
    rate = len(constant) / seconds
    growing = await at_rate(load.hot_or_cold, 1.5 * rate, seconds / 2, 1)
    return [hits("constant queue", constant[PLACES:], rate), hits("growing queue", growing, 1.5 * rate)]


def hits(name: str, answers: list[Answered], rate: float) -> Hits:
    usual = statistics.median(one.queue for one in answers)
    hit, cold = (max(one.queue for one in answers if one.cold is kind) for kind in (False, True))
    return Hits(name, len(answers), rate, usual, hit, cold, cold / usual)


async def measure_tenants(load: Load, seconds: float) -> list[Tenants]:
    served = len(await in_flight(lambda: load.of("b"), 4 * PLACES, seconds / 2)) / (seconds / 2)
    measured = []
    for share in LOADS:
        rate = share * served
        polite, _ = await asyncio.gather(
            at_rate(lambda: load.of("a"), rate, seconds, 2), at_rate(lambda: load.of("b"), rate, seconds, 3)
        )
        flood = asyncio.ensure_future(in_flight(lambda: load.of("b"), FLOOD, 10 * seconds))
        await asyncio.sleep(1.0)  # until its queue is there
        beside = await at_rate(lambda: load.of("a"), rate, seconds, 2)
        flood.cancel()
        with suppress(asyncio.CancelledError):
            await flood
        await asyncio.sleep(0.5)
        before, after = p99(polite), p99(beside)
        measured.append(Tenants(share, rate, len(beside), before, after, after / before))
    return measured


def p99(answers: list[Answered]) -> float:
    return sorted(one.first for one in answers)[len(answers) * 99 // 100]


async def measure(seconds: float) -> tuple[list[Hits], list[Tenants]]:
    engine = EngineConfig(model="tiny", dtype="float32", kv_tokens=65536, threads=1, max_running=PLACES)
    front = await Front.start(engine, ServerConfig())
    try:
        load = Load(front.link, 5)
        return await measure_hits(load, seconds), await measure_tenants(load, seconds)
    finally:
        await front.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=12.0, help="of each part")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    given = parser.parse_args()
    about = conditions() | {"load_before": f"{os.getloadavg()[0]:.2f}"}
    try:
        queues, tenants = asyncio.run(measure(given.seconds))
    except LatticeworkError as error:
        raise SystemExit(str(error)) from None
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    for one in queues:
        print(
            f"{one.name}: {one.requests} requests, {one.rate:.0f} a second, {HITS:.0%} hits; queue time: median "
            f"{one.median * 1e3:.0f} ms, longest of a hit {one.longest_hit * 1e3:.0f} ms, longest of a cold one "
            f"{one.longest_cold * 1e3:.0f} ms: {one.ratio:.2f}× the median (at most {QUEUE_LIMIT:g})"
        )
    for two in tenants:
        print(
            f"tenant at {two.load:.0%} of capacity, {two.rate:.0f} a second, {two.requests} requests; p99 to first "
            f"token: {two.beside_polite * 1e3:.0f} ms beside its like, {two.beside_flood * 1e3:.0f} ms beside a flood "
            f"of {FLOOD}: {two.ratio:.2f}× (at most {TTFT_LIMIT:g})"
        )
    if given.json:
        report = about | {"hits": [asdict(one) for one in queues], "tenants": [asdict(two) for two in tenants]}
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    missed = any(one.ratio > QUEUE_LIMIT for one in queues) or any(two.ratio > TTFT_LIMIT for two in tenants)
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
