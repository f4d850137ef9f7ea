"""Tree of thought: three plans at once, two ways to carry out each, a judgement of each pair, one answer over all."""

from __future__ import annotations

import asyncio
import random

import latticework as lw
from benchmarks.programs.base import Caller, Data, Sizes, Workload
from benchmarks.workloads import text

PLANS = 3
WAYS = 2


@lw.function
def think(s: lw.State, problem: str, tokens: int) -> None:
    s += f"Problem: {problem}\n"
    plans = s.fork(PLANS)
    for number, plan in enumerate(plans, 1):
        plan += f"Plan {number}:" + lw.gen("plan", max_tokens=tokens)
        ways = plan.fork(WAYS)
        for letter, way in zip("AB", ways, strict=True):
            way += f"\nCarried out, way {letter}:" + lw.gen("way", max_tokens=tokens)
        ways.join()
        plan += "\nBoth ways: " + " / ".join(plan["way"])
        plan += "\nWhich is better, and why?" + lw.gen("verdict", max_tokens=tokens)
    plans.join()
    s += "Verdicts: " + "; ".join(s["verdict"]) + "\nThe best answer:" + lw.gen("answer", max_tokens=tokens)


async def raw(call: Caller, problem: str, tokens: int) -> None:
    start = f"Problem: {problem}\n"

    async def judged(number: int) -> str:
        plan = f"{start}Plan {number}:"
        plan += await call.complete(plan, tokens)
        prompts = [f"{plan}\nCarried out, way {letter}:" for letter in "AB"]
        ways = await asyncio.gather(*(call.complete(prompt, tokens) for prompt in prompts))
        return await call.complete(f"{plan}\nBoth ways: {' / '.join(ways)}\nWhich is better, and why?", tokens)

    verdicts = await asyncio.gather(*map(judged, range(1, PLANS + 1)))
    await call.complete(f"{start}Verdicts: {'; '.join(verdicts)}\nThe best answer:", tokens)


def data(rng: random.Random, sizes: Sizes) -> Data:
    items = [{"problem": f"How to bring {text(rng, sizes.words)}?"} for _ in range(sizes.items)]
    return Data(items, {"tokens": sizes.tokens})


WORKLOAD = Workload("tree_of_thought", think, raw, data)
