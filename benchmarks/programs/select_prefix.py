"""A select behind a prefix of 20 examples that all calls share: one of four labels, scored."""

from __future__ import annotations

import random

import latticework as lw
from benchmarks.programs.base import Caller, Data, Sizes, Workload
from benchmarks.workloads import text

SHOTS = 20
LABELS = [" animal", " building", " weather", " money"]  # a label is a token or two only with its space


@lw.function
def classify(s: lw.State, examples: str, words: str) -> None:
    s += examples
    s += f"Text: {words}\nLabel:" + lw.select("label", LABELS)


async def raw(call: Caller, examples: str, words: str) -> None:
    await call.choose(f"{examples}Text: {words}\nLabel:", LABELS)


def data(rng: random.Random, sizes: Sizes) -> Data:
    words = max(3, sizes.words // 4)
    examples = "".join(f"Text: {text(rng, words)}\nLabel:{rng.choice(LABELS)}\n" for _ in range(SHOTS))
    return Data([{"words": text(rng, words)} for _ in range(sizes.items)], {"examples": examples})


WORKLOAD = Workload("select_prefix", classify, raw, data)
