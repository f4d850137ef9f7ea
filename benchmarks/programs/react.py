"""A ReAct agent: thought, action, observation, three times, then the answer. The tool is scripted: what it says is
part of the data, whatever it was asked, so that every run has the same turns."""

from __future__ import annotations

import random

import latticework as lw
from benchmarks.programs.base import Caller, Data, Sizes, Workload
from benchmarks.workloads import text

TASK = """Answer the question by turns of Thought, Action and Observation. An action is search[words] or lookup[words].
Question: Which river is at the old bridge?
Thought 1: I look for the bridge.
Action 1: search[old bridge]
Observation 1: The old bridge is in a village at the silver river.
Answer: the silver river

"""


@lw.function
def agent(s: lw.State, question: str, first: str, second: str, third: str, tokens: int) -> None:
    s += TASK + f"Question: {question}\n"
    for number, seen in enumerate((first, second, third), 1):
        s += f"Thought {number}:" + lw.gen(f"thought_{number}", max_tokens=tokens, stop="\n")
        s += f"\nAction {number}:" + lw.gen(f"action_{number}", max_tokens=tokens, stop="\n")
        s += f"\nObservation {number}: {seen}\n"
    s += "Answer:" + lw.gen("answer", max_tokens=tokens, stop="\n")


async def raw(call: Caller, question: str, first: str, second: str, third: str, tokens: int) -> None:
    so_far = f"{TASK}Question: {question}\n"
    for number, seen in enumerate((first, second, third), 1):
        so_far += f"Thought {number}:"
        so_far += await call.complete(so_far, tokens, stop="\n")
        so_far += f"\nAction {number}:"
        so_far += await call.complete(so_far, tokens, stop="\n")
        so_far += f"\nObservation {number}: {seen}\n"
    await call.complete(f"{so_far}Answer:", tokens, stop="\n")


def data(rng: random.Random, sizes: Sizes) -> Data:
    def item() -> dict[str, str]:
        seen = {name: text(rng, sizes.words // 2) for name in ("first", "second", "third")}
        return {"question": f"Where is {text(rng, 4)}?", **seen}

    return Data([item() for _ in range(sizes.items)], {"tokens": sizes.tokens})


WORKLOAD = Workload("react", agent, raw, data)
