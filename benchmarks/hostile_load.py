"""Who asks a server for what while hostile constraints are measured: free streams, and senders of the corpus."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec

from benchmarks.hostile_corpus import Hostile
from latticework.lang.errors import LatticeworkError
from latticework.lang.events import Done, Event, Failed
from latticework.lang.ir import Choices, Constraint, Gen, JsonSchema, Regex, Sampling
from latticework.runtime.link.client import Client

TIMEOUT = 15.0  # seconds that a hostile request is given
SLACK = 3.0  # seconds after them within which its answer has to be here
OURS = ("RuntimeFailure", "EngineDied", "ConnectionLost", "internal")  # errors that no constraint may cause
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
        if len(self._times[number]) < 2:
            raise RuntimeError(f"a free stream of {self._tokens} tokens had {len(self._times[number])} events")


# ---------------------------------------------------------------- hostile senders


class Senders:
    """Sends the corpus round and round, in an order of its own that is always the same; goes on where it stopped."""

    def __init__(self, session: httpx.AsyncClient, link: Client, model: str, items: list[Hostile]) -> None:
        self._session = session
        self._link = link
        self._model = model
        self.asked = 0
        self.attempts: list[Attempt] = []
        ways = [(item, way) for item in items for way in ("http", "link")]
        random.Random(11).shuffle(ways)
        self._once = len(ways)
        self._sent = 0
        self._order = itertools.cycle(ways)
        self._salts = itertools.count(1)

    async def beside(self, streams: Streams, count: int) -> None:
        """Until the streams have ended, and every answer is here."""
        await streams.begun.wait()
        await self._send_while(lambda: not streams.ended, count)

    async def rest(self, count: int) -> None:
        """What was never sent."""
        await self._send_while(lambda: self._sent < self._once, count)

    async def _send_while(self, goes_on: Callable[[], bool], count: int) -> None:
        async def sender() -> None:
            while goes_on():
                self._sent += 1
                await self.send(*next(self._order))

        await asyncio.gather(*(sender() for _ in range(count)))

    async def send(self, item: Hostile, way: str) -> None:
        """One request and its one outcome. What HTTP has no field for goes over the link alone."""
        salt = next(self._salts)
        self.asked += 1
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
        except (httpx.HTTPError, LatticeworkError, asyncio.TimeoutError, ValueError) as error:
            outcome = f"lost: {error!r}"
        self._note(item, way, outcome, time.monotonic() - began)

    def _note(self, item: Hostile, way: str, outcome: str, seconds: float) -> None:
        self.attempts.append(Attempt(item.name, way, outcome, seconds))

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
        told: asyncio.Future[Done | Failed] = loop.create_future()

        def hear(event: Event) -> None:
            if isinstance(event, Done | Failed):
                loop.call_soon_threadsafe(told.set_result, event)

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
