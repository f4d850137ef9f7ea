"""One round over HTTP: every workload once, at any OpenAI-compatible server, streamed by one asyncio client.

The constraint is asked for by `response_format`, which all of these servers have; full lengths by `ignore_eos`, which
all of them have beside OpenAI's fields.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Iterator
from dataclasses import asdict
from typing import TypeVar

import httpx

from benchmarks.rivals import questions
from benchmarks.rivals.base import Figures, Plan, Run
from benchmarks.serve import TIMEOUT_SECONDS, Answer, BadAnswer, ask, result, run_workload
from benchmarks.workloads import Call, Task, Workload, user

T = TypeVar("T")

WARM_UP_CALLS = 16
WARM_UP_SCHEMA = {"type": "object", "properties": {"ready": {"type": "boolean"}}, "required": ["ready"]}


def rounds(base_url: str, name: str, plan: Plan, repeat: int) -> Iterator[Run]:
    """A peer's runs, as they end. After one that took too long the server may still be busy with it, so what would
    have followed fails too."""
    lengths: list[int] = []
    late: str | None = None
    for workload in plan.workloads:
        if late is not None:
            yield Run(name, repeat, workload, failure=f"not run: {late} took too long before it")
            continue
        try:
            figures = asyncio.run(_run(base_url, plan, repeat, workload, lengths))
            yield Run(name, repeat, workload, figures)
        except asyncio.TimeoutError:
            late = workload
            yield Run(name, repeat, workload, failure=f"it took longer than {plan.seconds:.0f} s")
        except (BadAnswer, httpx.HTTPError) as error:
            yield Run(name, repeat, workload, failure=f"{type(error).__name__}: {error}")


def warm_up(base_url: str, plan: Plan) -> None:
    """Batches and a constraint, none of what is measured. Raises BadAnswer or httpx.HTTPError."""

    async def warmed() -> None:
        async with _client(base_url) as http:
            model = await _model(http)
            calls = [Call(user(f"Warm up {number}."), 8, to_the_end=True) for number in range(WARM_UP_CALLS)]
            calls.append(Call(user("Are you ready? Answer in JSON."), 16, WARM_UP_SCHEMA))
            await asyncio.gather(*(ask(http, model, call) for call in calls))

    asyncio.run(_limited(warmed(), plan.seconds))


async def _run(base_url: str, plan: Plan, repeat: int, name: str, lengths: list[int]) -> Figures:
    """lengths: of json's answers, which json_equal repeats; changed in place."""
    rng, sizes = questions.rng_of(plan.seed, name, repeat), plan.sizes[name]
    async with _client(base_url) as http:
        model = await _model(http)
        if name == "first_token":
            return await _limited(_first_token(http, model, questions.first_token(rng, sizes)), plan.seconds)
        if name == "json_equal":
            if not lengths:
                raise BadAnswer("json has to be answered before it: how long its answers were is not known")
            asked = questions.json_equal(rng, sizes, lengths)
        else:
            asked = questions.workload(name, rng, sizes)
        answers, wall = await _limited(run_workload(http, model, asked), plan.seconds)
        if name == "json":
            lengths[:] = [answer.output_tokens for answer in answers]
        check_lengths(asked, answers)
        return dict(asdict(result(answers, wall, name in ("json", "json_free"))))


async def _limited(work: Awaitable[T], seconds: float) -> T:
    return await asyncio.wait_for(work, seconds)


def check_lengths(asked: Workload, answers: list[Answer]) -> None:
    """Raises BadAnswer if a server did not draw what it was told to draw to the end: its times would be of less."""
    wanted = [call.max_tokens for task in asked.tasks for call in _calls(task) if call.to_the_end]
    if wanted and (got := sum(answer.output_tokens for answer in answers)) != sum(wanted):
        raise BadAnswer(f"{got} tokens were drawn, {sum(wanted)} were asked for with ignore_eos")


def _calls(task: Task) -> list[Call]:
    return [*task.calls, *([task.join([""] * len(task.calls))] if task.join else [])]


async def _first_token(http: httpx.AsyncClient, model: str, pairs: list[questions.Pair]) -> Figures:
    colds, warms = [], []
    for pair in pairs:
        colds.append(1e3 * (await ask(http, model, pair.cold)).first)
        warms.append(1e3 * (await ask(http, model, pair.warm)).first)
    return first_token_figures(colds, warms)


def first_token_figures(colds: list[float], warms: list[float]) -> Figures:
    """Medians in ms over the pairs, and of their ratios."""
    shares = [warm / cold for cold, warm in zip(colds, warms, strict=True)]
    return {
        "cold_ms": statistics.median(colds),
        "warm_ms": statistics.median(warms),
        "warm_share": statistics.median(shares),
    }


def _client(base_url: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=base_url.rstrip("/") + "/", timeout=TIMEOUT_SECONDS, limits=limits)


async def _model(http: httpx.AsyncClient) -> str:
    response = await http.get("models")
    response.raise_for_status()
    name: str = response.json()["data"][0]["id"]
    return name
