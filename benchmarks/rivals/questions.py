"""What is asked of the peers: the workloads of `benchmarks.workloads`, and what a comparison needs beside them.

Wherever lengths would differ from server to server (greedy bf16 output does), every answer is drawn to its full
length, so that rates and wall times compare the same work. Plain data; knows no server.

    first_token   a prompt of ~1,000 tokens, and then another that shares them: how long the first token takes
    json_equal    json's prompts without the schema, each answer as long as the constrained one was
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.workloads import WORKLOADS, Call, Sizes, Task, Workload, json_free, text, user

NAMES = ("one_stream", "batch", "prefix", "program", "json", "json_free", "json_equal", "first_token")
FULL_LENGTH = ("one_stream", "batch", "prefix", "program")
SHORT = {
    "batch": Sizes(requests=16),
    "prefix": Sizes(requests=24),
    "program": Sizes(requests=3),
    "json": Sizes(requests=8),
    "json_free": Sizes(requests=8),
    "json_equal": Sizes(requests=8),
    "first_token": Sizes(requests=2),
}
FIRST_TOKENS = 8  # of each answer of first_token; enough for a server that sends text in pieces


def sizes_of(short: bool) -> dict[str, Sizes]:
    return {name: SHORT.get(name, Sizes()) if short else Sizes() for name in NAMES}


def rng_of(seed: int, name: str, repeat: int) -> random.Random:
    """The same for every peer; another for every workload and repeat, so that no cache helps between them."""
    return random.Random(f"{seed} {name} {repeat}")


def workload(name: str, rng: random.Random, sizes: Sizes) -> Workload:
    """One of `WORKLOADS`; drawn to full length where that is what compares."""
    found = WORKLOADS[name](rng, sizes)
    return at_full_length(found) if name in FULL_LENGTH else found


def at_full_length(asked: Workload) -> Workload:
    return replace(asked, tasks=tuple(map(_full_task, asked.tasks)))


def _full_task(task: Task) -> Task:
    join = task.join
    full_join = None if join is None else lambda answers: replace(join(answers), to_the_end=True)
    return Task(tuple(replace(call, to_the_end=True) for call in task.calls), full_join)


def json_equal(rng: random.Random, sizes: Sizes, lengths: Sequence[int]) -> Workload:
    """lengths: output tokens of the constrained answers, in the order of their requests."""
    asked = json_free(rng, sizes)
    if len(lengths) != len(asked.tasks):
        raise ValueError(f"{len(lengths)} lengths for {len(asked.tasks)} requests")
    tasks = [
        Task((replace(task.calls[0], max_tokens=length, to_the_end=True),))
        for task, length in zip(asked.tasks, lengths, strict=True)
    ]
    return replace(asked, tasks=tuple(tasks))


@dataclass(frozen=True)
class Pair:
    """cold: nothing of its prompt was seen. warm: shares all but ~35 tokens of it."""

    cold: Call
    warm: Call


def first_token(rng: random.Random, sizes: Sizes) -> list[Pair]:
    """One after the other on an idle server."""
    return [_pair(rng, sizes.input_tokens or 970) for _ in range(sizes.requests or 6)]


def _pair(rng: random.Random, words: int) -> Pair:
    shared = {"role": "system", "content": f"You know this text: {text(rng, words)}."}
    cold, warm = ([shared, *user(f"Continue the text from here: {text(rng, 15)}")] for _ in range(2))
    return Pair(*(Call(messages, FIRST_TOKENS, to_the_end=True) for messages in (cold, warm)))
