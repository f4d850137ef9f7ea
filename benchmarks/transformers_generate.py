"""`transformers.generate` on the default model: the same prompts, weights, threads and number format as our engine.

An engine's config says which threads and format those are. Static batches of the workload's concurrency, greedy.
Tokens are counted as our server counts them, the end token included. Only workloads of independent requests have a
counterpart.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from benchmarks.workloads import WORKLOADS, Call, Sizes
from latticework.runtime.config import DEFAULT_MODEL, EngineConfig
from latticework.runtime.environment import allowed_cores
from latticework.runtime.model.load import resolve_dtype, torch_dtype
from latticework.runtime.model.locate import find_model
from latticework.runtime.model.weights import gguf_weights
from latticework.runtime.text.chat import ChatTemplate
from latticework.runtime.text.tokenizer import Tokenizer

COMPARABLE = ("one_stream", "batch")
LLAMA_SHAPE = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
)


def measure(names: list[str], repeats: int, seed: int, sizes: Sizes, engine: EngineConfig) -> dict[str, list[float]]:
    """Output tokens a second, per workload and repeat. engine: that of the server beside which this is put."""
    generator = Generator(engine)
    generator.run([Call([{"role": "user", "content": "Warm up."}], 8)])  # as the server is, before it is timed
    rates: dict[str, list[float]] = {name: [] for name in names if name in COMPARABLE}
    for repeat in range(repeats):
        for name, found in rates.items():
            workload = WORKLOADS[name](random.Random(f"{seed} {name} {repeat}"), sizes)
            calls = [task.calls[0] for task in workload.tasks]
            started, output = time.perf_counter(), 0
            for first in range(0, len(calls), workload.concurrency):
                output += generator.run(calls[first : first + workload.concurrency])
            found.append(output / (time.perf_counter() - started))
    return rates


class Generator:
    """The default model in transformers, with an engine's threads and number format."""

    def __init__(self, engine: EngineConfig) -> None:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        self.torch = torch
        torch.set_num_threads(engine.threads or allowed_cores())
        card = find_model(DEFAULT_MODEL)
        spec = card.spec
        shape = {name: getattr(spec, name) for name in LLAMA_SHAPE}
        config = LlamaConfig(
            **shape,
            rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta},
        )
        dtype = torch_dtype(resolve_dtype(engine.dtype))
        model: Any = LlamaForCausalLM(config)
        model.load_state_dict(dict(gguf_weights(Path(card.weights), spec)), strict=False)  # the head is tied
        self.model = model.to(dtype).eval()
        self.tokenizer = Tokenizer.from_file(card.tokenizer)
        self.template = ChatTemplate.of(card)
        self.end_ids = list(card.end_ids)

    def run(self, calls: list[Call]) -> int:
        """Answers the calls as one batch; the number of tokens they got, end tokens included."""
        prompts = [self.tokenizer.encode_pieces(self.template.pieces(call.messages))[0] for call in calls]
        width = max(map(len, prompts))
        pad = self.end_ids[0]
        inputs: dict[str, Any] = {
            "input_ids": self.torch.tensor([[pad] * (width - len(p)) + p for p in prompts]),
            "attention_mask": self.torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts]),
        }
        with self.torch.inference_mode():
            output = self.model.generate(
                **inputs,
                max_new_tokens=calls[0].max_tokens,
                do_sample=False,
                eos_token_id=self.end_ids,
                pad_token_id=pad,
            )
        return sum(drawn_tokens(row[width:].tolist(), self.end_ids) for row in output)


def drawn_tokens(tokens: list[int], end_ids: list[int]) -> int:
    """How many tokens were drawn: up to the first end token and with it; what follows is padding."""
    ends = [index for index, token in enumerate(tokens) if token in end_ids]
    return ends[0] + 1 if ends else len(tokens)
