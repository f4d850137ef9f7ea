"""JSON extraction: a record under a schema from each of many texts."""

from __future__ import annotations

import random

import latticework as lw
from benchmarks.programs.base import Caller, Data, Sizes, Workload, turn
from benchmarks.workloads import SCHEMA, text

TASK = f"You write one JSON object with the fields {', '.join(SCHEMA['properties'])} about the text you are given."
RECORD_TOKENS = 160  # of the longest record that the schema allows, about


@lw.function
def extract(s: lw.State, source: str) -> None:
    s += lw.system(TASK) + lw.user(source)
    s += lw.assistant(lw.gen("record", json_schema=SCHEMA, max_tokens=RECORD_TOKENS))


async def raw(call: Caller, source: str) -> None:
    await call.chat([turn("system", TASK), turn("user", source)], RECORD_TOKENS, SCHEMA)


def data(rng: random.Random, sizes: Sizes) -> Data:
    return Data([{"source": text(rng, sizes.words)} for _ in range(sizes.items)])


WORKLOAD = Workload("extraction", extract, raw, data)
