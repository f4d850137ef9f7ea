"""Batches built by hand, and small Hugging Face folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from latticework.kernels.cpu.library import Library
from latticework.kernels.cpu.pointwise import TORCH, NativePointwise
from latticework.runtime.attention import make_attention
from latticework.runtime.attention.base import KVCache
from latticework.runtime.cache.kv import allocate_kv
from latticework.runtime.model.base import Model
from latticework.runtime.model.decoder import Decoder
from latticework.runtime.model.runner import ModelRunner
from latticework.runtime.schedule.batch import Batch
from latticework.runtime.text.tokenizer import Tokenizer

PAGE_SIZE = 4


@dataclass
class Row:
    """One sequence of a test: the pages it uses and how many of its tokens have KV."""

    pages: list[int]
    computed: int = 0
    tokens: list[int] = field(default_factory=list)


def step(runner: ModelRunner, rows: Sequence[tuple[Row, Sequence[int]]]) -> list[torch.Tensor]:
    """Runs each row's new tokens in one batch; logits [new, V] of each row."""
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    starts = [0]
    table = np.zeros((len(rows), max(len(row.pages) for row, _ in rows)), np.int32)
    for index, (row, new) in enumerate(rows):
        table[index, : len(row.pages)] = row.pages
        for token in new:
            page, offset = divmod(row.computed, PAGE_SIZE)
            tokens.append(token)
            positions.append(row.computed)
            slots.append(row.pages[page] * PAGE_SIZE + offset)
            row.computed += 1
        row.tokens += new
        starts.append(len(tokens))
    batch = Batch(
        tokens=np.array(tokens, np.int64),
        positions=np.array(positions, np.int64),
        slots=np.array(slots, np.int64),
        starts=np.array(starts, np.int64),
        lengths=np.array([row.computed for row, _ in rows], np.int64),
        page_table=table,
        logit_rows=np.arange(len(tokens), dtype=np.int64),
    )
    return list(runner.run(batch).split([len(new) for _, new in rows]))


def make_runner(model: Model, dtype: torch.dtype, pages: int = 64, library: Library | None = None) -> ModelRunner:
    """library: the C++ operations; None: torch's."""
    kv: KVCache = allocate_kv(model.spec, pages, PAGE_SIZE, dtype)
    if isinstance(model, Decoder):
        model.use(TORCH if library is None else NativePointwise(library))
    return ModelRunner(model, make_attention("auto", "cpu", layers=model.spec.attention_layers, library=library), kv)


def save_model(folder: Path, architecture: str, config: str, **changes: Any) -> Any:
    """A tiny random model of transformers' class and a byte tokenizer as a Hugging Face folder. Returns the model."""
    settings: dict[str, Any] = {
        "vocab_size": 264,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "eos_token_id": 258,
        "bos_token_id": 257,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(7)
    shape = getattr(transformers, config)(**settings | changes)
    model: Any = getattr(transformers, architecture)(shape).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:  # norms and biases start as ones and zeros, which would hide mistakes
            mean = 1.0 if "norm" in name and bool(parameter.any()) else 0.0
            torch.nn.init.normal_(parameter, mean=mean, std=0.2)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(Tokenizer.bytes_only().to_json())
    return model


def save_llama(folder: Path, **changes: Any) -> transformers.LlamaForCausalLM:
    return save_model(folder, "LlamaForCausalLM", "LlamaConfig", **changes)
