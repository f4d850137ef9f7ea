"""Multi-document question answering: the question is put to four documents at once, then to the four findings."""

from __future__ import annotations

import asyncio
import random

import latticework as lw
from benchmarks.programs.base import Caller, Data, Sizes, Workload, turn
from benchmarks.workloads import text

TASK = "You answer questions from documents, and from nothing else."
NAMES = ("first", "second", "third", "fourth")


@lw.function
def consult(s: lw.State, question: str, first: str, second: str, third: str, fourth: str, tokens: int) -> None:
    s += lw.system(TASK)
    branches = s.fork(len(NAMES))
    for branch, document in zip(branches, (first, second, third, fourth), strict=True):
        branch += lw.user(f"Document: {document}\nWhat does it say about this: {question}")
        branch += lw.assistant(lw.gen("finding", max_tokens=tokens))
    branches.join()
    s += lw.user(f"Findings: {'; '.join(s['finding'])}\nAnswer this: {question}")
    s += lw.assistant(lw.gen("answer", max_tokens=tokens))


async def raw(call: Caller, question: str, first: str, second: str, third: str, fourth: str, tokens: int) -> None:
    start = turn("system", TASK)

    def about(document: str) -> list[dict[str, str]]:
        return [start, turn("user", f"Document: {document}\nWhat does it say about this: {question}")]

    documents = (first, second, third, fourth)
    findings = await asyncio.gather(*(call.chat(about(document), tokens) for document in documents))
    last = turn("user", f"Findings: {'; '.join(findings)}\nAnswer this: {question}")
    await call.chat([start, last], tokens)


def data(rng: random.Random, sizes: Sizes) -> Data:
    def item() -> dict[str, str]:
        return {"question": f"Where is {text(rng, 4)}?", **{name: text(rng, 2 * sizes.words) for name in NAMES}}

    return Data([item() for _ in range(sizes.items)], {"tokens": sizes.tokens})


WORKLOAD = Workload("documents", consult, raw, data)
