"""The workloads, as conversations. Plain data from a seed: no HTTP, no model.

one_stream     1 request, ~128 tokens in, 128 out
batch          32 requests, ~128 in, 64 out, 16 at a time
prefix         64 requests that share ~1,000 tokens, ~35 of their own, 32 out, 16 at a time
json           32 extractions under a schema, 8 at a time; json_free: the same without the schema
program        8 documents of ~600 tokens, each: 4 questions at once, then one call over the 4 answers
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Messages = list[dict[str, str]]

WORDS = """
    the river bank old house garden winter morning light road village market horse bread water stone bridge tree
    letter window door table child mother friend story evening fire song field mountain cloud rain summer boat
    island harbor captain sailor wind storm night star moon silver gold coin box key lock secret map
""".split()

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "category": {"enum": ["person", "place", "object", "event"]},
        "year": {"type": "integer", "minimum": 1900, "maximum": 2030},
        "score": {"type": "number"},
        "verified": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3},
    },
    "required": ["name", "category", "year", "score", "verified", "tags"],
    "additionalProperties": False,
}
QUESTIONS = (
    "Summarise the text in one sentence.",
    "Which places does the text name?",
    "What is the mood of the text?",
    "Write a title for the text.",
)


@dataclass(frozen=True)
class Call:
    """One request: what is asked, and how much may be answered. to_the_end: an end token ends nothing."""

    messages: Messages
    max_tokens: int
    schema: dict[str, Any] | None = None
    to_the_end: bool = False


@dataclass(frozen=True)
class Task:
    """Calls that run at once, then perhaps one more made from their answers."""

    calls: tuple[Call, ...]
    join: Callable[[list[str]], Call] | None = None


@dataclass(frozen=True)
class Workload:
    """Independent tasks, at most `concurrency` of them at a time."""

    tasks: tuple[Task, ...]
    concurrency: int


@dataclass(frozen=True)
class Sizes:
    """What the command line may change; None keeps the workload's own."""

    requests: int | None = None
    concurrency: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


def text(rng: random.Random, words: int) -> str:
    """About one token a word."""
    return " ".join(rng.choice(WORDS) for _ in range(words))


def user(content: str) -> Messages:
    return [{"role": "user", "content": content}]


def one_stream(rng: random.Random, sizes: Sizes) -> Workload:
    return _independent(rng, sizes, requests=1, concurrency=1, words=100, out=128)


def batch(rng: random.Random, sizes: Sizes) -> Workload:
    return _independent(rng, sizes, requests=32, concurrency=16, words=100, out=64)


def _independent(rng: random.Random, sizes: Sizes, requests: int, concurrency: int, words: int, out: int) -> Workload:
    tasks = []
    for _ in range(sizes.requests or requests):
        prompt = f"Write a long story with these words: {text(rng, sizes.input_tokens or words)}."
        tasks.append(Task((Call(user(prompt), sizes.output_tokens or out),)))
    return Workload(tuple(tasks), sizes.concurrency or concurrency)


def prefix(rng: random.Random, sizes: Sizes) -> Workload:
    shared = text(rng, sizes.input_tokens or 970)
    tasks = []
    for _ in range(sizes.requests or 64):
        messages = [
            {"role": "system", "content": f"You know this text: {shared}."},
            *user(f"Continue the text from here: {text(rng, 15)}"),
        ]
        tasks.append(Task((Call(messages, sizes.output_tokens or 32),)))
    return Workload(tuple(tasks), sizes.concurrency or 16)


def json(rng: random.Random, sizes: Sizes) -> Workload:
    return _extraction(rng, sizes, SCHEMA)


def json_free(rng: random.Random, sizes: Sizes) -> Workload:
    return _extraction(rng, sizes, None)


def _extraction(rng: random.Random, sizes: Sizes, schema: dict[str, Any] | None) -> Workload:
    tasks = []
    for _ in range(sizes.requests or 32):
        fields = ", ".join(SCHEMA["properties"])
        source = text(rng, sizes.input_tokens or 60)
        prompt = f"Answer with one JSON object with the fields {fields} about this text: {source}."
        tasks.append(Task((Call(user(prompt), sizes.output_tokens or 160, schema),)))
    return Workload(tuple(tasks), sizes.concurrency or 8)


def program(rng: random.Random, sizes: Sizes) -> Workload:
    tasks = []
    for _ in range(sizes.requests or 8):
        document = user(f"Read this text: {text(rng, sizes.input_tokens or 590)}.")
        tasks.append(_fork_and_join(document, sizes.output_tokens or 48))
    return Workload(tuple(tasks), sizes.concurrency or 8)


def _fork_and_join(document: Messages, out: int) -> Task:
    def ask(question: str) -> Messages:
        return [*document, {"role": "assistant", "content": "I have read it."}, *user(question)]

    def join(answers: list[str]) -> Call:
        notes = "\n".join(f"{question} {answer}" for question, answer in zip(QUESTIONS, answers, strict=True))
        return Call(ask(f"Write a review of the text from these notes:\n{notes}"), out)

    return Task(tuple(Call(ask(question), out) for question in QUESTIONS), join)


WORKLOADS: dict[str, Callable[[random.Random, Sizes], Workload]] = {
    "one_stream": one_stream,
    "batch": batch,
    "prefix": prefix,
    "json": json,
    "json_free": json_free,
    "program": program,
}
