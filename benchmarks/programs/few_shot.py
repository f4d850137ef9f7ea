"""Few-shot question answering: five examples that all calls share, one question, one line as the answer."""

from __future__ import annotations

import random

import latticework as lw
from benchmarks.programs.base import Caller, Data, Sizes, Workload
from benchmarks.workloads import text

SHOTS = 5


@lw.function
def answer(s: lw.State, examples: str, question: str, tokens: int) -> None:
    s += examples
    s += f"Q: {question}\nA:" + lw.gen("answer", max_tokens=tokens, stop="\n")


async def raw(call: Caller, examples: str, question: str, tokens: int) -> None:
    await call.complete(f"{examples}Q: {question}\nA:", tokens, stop="\n")


def data(rng: random.Random, sizes: Sizes) -> Data:
    words = max(4, sizes.words // 4)
    examples = "".join(f"Q: What is {text(rng, words)}?\nA: {text(rng, words)}.\n" for _ in range(SHOTS))
    items = [{"question": f"What is {text(rng, words)}?"} for _ in range(sizes.items)]
    return Data(items, {"examples": examples, "tokens": sizes.tokens})


WORKLOAD = Workload("few_shot", answer, raw, data)
