"""`transformers.generate` on the default model: the same prompts, weights, threads and number format as our engine.

An engine's config says which threads and format those are. Static batches of the workload's concurrency, greedy.
Tokens are counted as our server counts them, the end token included. It has no JSON Schema, so no counterpart to what
asks for one.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.rivals.model import llama
from benchmarks.workloads import WORKLOADS, Call, Sizes, Workload
from latticework.runtime.config import DEFAULT_MODEL, EngineConfig
from latticework.runtime.environment import allowed_cores
from latticework.runtime.model.load import resolve_dtype, torch_dtype
from latticework.runtime.model.locate import find_model
from latticework.runtime.text.chat import ChatTemplate
from latticework.runtime.text.tokenizer import Tokenizer

COMPARABLE = ("one_stream", "batch")  # of `benchmarks.serve`: minutes are enough there


def measure(names: list[str], repeats: int, seed: int, sizes: Sizes, engine: EngineConfig) -> dict[str, list[float]]:
    """Output tokens a second, per workload and repeat. engine: that of the server beside which this is put."""
    generator = Generator(engine)
    generator.run([Call([{"role": "user", "content": "Warm up."}], 8)])  # as the server is, before it is timed
    rates: dict[str, list[float]] = {name: [] for name in names if name in COMPARABLE}
    for repeat in range(repeats):
        for name, found in rates.items():
            workload = WORKLOADS[name](random.Random(f"{seed} {name} {repeat}"), sizes)
            drawn, seconds = run_workload(generator, workload)
            found.append(sum(one.tokens for one in drawn) / seconds)
    return rates


@dataclass(frozen=True)
class Drawn:
    """tokens: the end token included."""

    text: str
    tokens: int


def run_workload(generator: Generator, workload: Workload) -> tuple[list[Drawn], float]:
    """All answers, and the wall time. A batch: the calls of as many tasks as run at a time; then those that join
    their answers."""
    started, found = time.perf_counter(), []
    for first in range(0, len(workload.tasks), workload.concurrency):
        tasks = workload.tasks[first : first + workload.concurrency]
        drawn = iter(generator.run([call for task in tasks for call in task.calls]))
        answers = [[next(drawn) for _ in task.calls] for task in tasks]
        joins = [task.join([one.text for one in mine]) for task, mine in zip(tasks, answers, strict=True) if task.join]
        found += [one for mine in answers for one in mine] + (generator.run(joins) if joins else [])
    return found, time.perf_counter() - started


class Generator:
    """The default model in transformers, with an engine's threads and number format."""

    def __init__(self, engine: EngineConfig) -> None:
        import torch

        self.torch = torch
        torch.set_num_threads(engine.threads or allowed_cores())
        card = find_model(DEFAULT_MODEL)
        self.model: Any = llama(card, torch_dtype(resolve_dtype(engine.dtype)))
        self.model.generation_config.eos_token_id = None  # or it would stop where no end was asked for
        self.tokenizer = Tokenizer.from_file(card.tokenizer)
        self.template = ChatTemplate.of(card)
        self.end_ids = list(card.end_ids)

    def run(self, calls: list[Call]) -> list[Drawn]:
        """Answers the calls as one batch. Raises ValueError if they differ in length or ask for a schema."""
        length, to_the_end = calls[0].max_tokens, calls[0].to_the_end
        if any((call.max_tokens, call.to_the_end, call.schema) != (length, to_the_end, None) for call in calls):
            raise ValueError("calls of one batch have one length and no schema")
        prompts = [self.tokenizer.encode_pieces(self.template.pieces(call.messages))[0] for call in calls]
        width = max(map(len, prompts))
        pad = self.end_ids[0]
        inputs: dict[str, Any] = {
            "input_ids": self.torch.tensor([[pad] * (width - len(p)) + p for p in prompts]),
            "attention_mask": self.torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts]),
        }
        end_ids = [] if to_the_end else self.end_ids
        with self.torch.inference_mode():
            output = self.model.generate(
                **inputs,
                max_new_tokens=length,
                do_sample=False,
                eos_token_id=end_ids or None,
                pad_token_id=pad,
            )
        return [self._drawn(row[width:].tolist(), end_ids) for row in output]

    def _drawn(self, tokens: list[int], end_ids: list[int]) -> Drawn:
        count = drawn_tokens(tokens, end_ids)
        written = self.tokenizer.decode_bytes(token for token in tokens[:count] if token not in self.end_ids)
        return Drawn(written.decode(errors="replace"), count)


def drawn_tokens(tokens: list[int], end_ids: list[int]) -> int:
    """How many tokens were drawn: up to the first end token and with it; what follows is padding."""
    ends = [index for index, token in enumerate(tokens) if token in end_ids]
    return ends[0] + 1 if ends else len(tokens)
