"""Branch, solve, merge: an essay is judged on four points at once, and the judgements become one review."""

from __future__ import annotations

import asyncio
import random

import latticework as lw
from benchmarks.programs.base import Caller, Data, Sizes, Workload, turn
from benchmarks.workloads import text

RULES = "You judge essays. You are fair, brief and concrete, and you quote what you speak of."
POINTS = ("clarity", "structure", "evidence", "style")


@lw.function
def judge(s: lw.State, essay: str, tokens: int) -> None:
    s += lw.system(RULES) + lw.user(f"The essay: {essay}") + lw.assistant("I have read it.")
    branches = s.fork(len(POINTS))
    for branch, point in zip(branches, POINTS, strict=True):
        branch += lw.user(f"Judge its {point}.") + lw.assistant(lw.gen("judgement", max_tokens=tokens))
    branches.join()
    s += lw.user("Write a review from these notes: " + "; ".join(s["judgement"]))
    s += lw.assistant(lw.gen("review", max_tokens=tokens))


async def raw(call: Caller, essay: str, tokens: int) -> None:
    start = [turn("system", RULES), turn("user", f"The essay: {essay}"), turn("assistant", "I have read it.")]
    asked = ([*start, turn("user", f"Judge its {point}.")] for point in POINTS)
    judgements = await asyncio.gather(*(call.chat(messages, tokens) for messages in asked))
    await call.chat([*start, turn("user", "Write a review from these notes: " + "; ".join(judgements))], tokens)


def data(rng: random.Random, sizes: Sizes) -> Data:
    return Data([{"essay": text(rng, 3 * sizes.words)} for _ in range(sizes.items)], {"tokens": sizes.tokens})


WORKLOAD = Workload("judge", judge, raw, data)
