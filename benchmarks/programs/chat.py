"""Multi-turn chat: four questions, each after the answers so far."""

from __future__ import annotations

import random

import latticework as lw
from benchmarks.programs.base import Caller, Data, Sizes, Workload, turn
from benchmarks.workloads import text

GREETING = "You are a patient teacher who answers in a few words."


@lw.function
def converse(s: lw.State, first: str, second: str, third: str, fourth: str, tokens: int) -> None:
    s += lw.system(GREETING)
    for number, question in enumerate((first, second, third, fourth), 1):
        s += lw.user(question) + lw.assistant(lw.gen(f"answer_{number}", max_tokens=tokens))


async def raw(call: Caller, first: str, second: str, third: str, fourth: str, tokens: int) -> None:
    messages = [turn("system", GREETING)]
    for question in (first, second, third, fourth):
        messages.append(turn("user", question))
        messages.append(turn("assistant", await call.chat(messages, tokens)))


def data(rng: random.Random, sizes: Sizes) -> Data:
    names = ("first", "second", "third", "fourth")
    items = [{name: f"Tell me about {text(rng, sizes.words // 2)}." for name in names} for _ in range(sizes.items)]
    return Data(items, {"tokens": sizes.tokens})


WORKLOAD = Workload("chat", converse, raw, data)
