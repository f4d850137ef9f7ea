"""Engines whose decode steps run on static buffers, as on a GPU, with the kernels' twins in float64.

LATTICEWORK_KERNELS=torch has to be set while they run (see `twins`). Constraints are real ones here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("triton")

import torch

from latticework.lang.ir import Constraint
from latticework.runtime.attention.triton import CASCADE_FROM, TritonAttention
from latticework.runtime.cache.kv import allocate_kv
from latticework.runtime.config import EngineConfig
from latticework.runtime.constrain import Automaton, decode_rules, encode_rules, to_rules
from latticework.runtime.device.steps import DecodeSteps
from latticework.runtime.engine import Engine
from latticework.runtime.model.base import Model
from latticework.runtime.model.runner import ModelRunner
from latticework.runtime.schedule.pieces import Pace
from latticework.runtime.text.tokenizer import END_OF_TEXT, Tokenizer
from tests.runtime.engine.bench import Bench, byte_tokenizer, model_for, vocab_size_of, vocabulary_of


@pytest.fixture
def twins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATTICEWORK_KERNELS", "torch")


class DeviceBench(Bench):
    """on: "host" draws as on a CPU; "device" in decode steps, "overlapped" in ones that are launched ahead. wrap: the
    model of those steps."""

    def __init__(
        self,
        on: str,
        tokenizer: Tokenizer | None = None,
        table_bytes: int = 4 << 20,
        wrap: Callable[[Model], Model] = lambda model: model,
        cascade_from: int = CASCADE_FROM,
        captures: bool = False,
        **options: Any,
    ) -> None:
        self.config = EngineConfig(
            **{"model": "tiny", "dtype": "float64", "kv_tokens": 2048, "page_size": 4, "drafts": "off", **options}
        )
        self.tokenizer = tokenizer or byte_tokenizer()
        model = model_for(vocab_size_of(self.tokenizer))
        vocabulary = vocabulary_of(self.tokenizer)
        self.end_ids = (self.tokenizer.special[END_OF_TEXT], self.tokenizer.special["<|im_end|>"])
        assert self.config.kv_tokens is not None
        pages = self.config.kv_tokens // self.config.page_size
        kv = allocate_kv(model.spec, pages + (on != "host"), self.config.page_size, torch.float64)
        attention = TritonAttention("cpu", cascade_from=cascade_from)
        context = min(model.spec.max_position_embeddings, self.config.context or 1 << 30, self.config.kv_tokens)
        steps = None
        if on != "host":
            steps = DecodeSteps(
                wrap(model),
                attention,
                kv,
                vocabulary,
                self.config.max_running,
                -(-context // self.config.page_size),
                table_bytes,
                captures,
            )
        pace = Pace()

        def build(rules: bytes) -> Automaton:
            return Automaton(decode_rules(rules, pace), vocabulary, pause=pace)

        self.engine = Engine(
            self.config,
            ModelRunner(model, attention, kv),
            self.tokenizer,
            build,
            model.spec,
            self.end_ids,
            self.config.dtype,
            vocabulary,
            pace=pace,
            steps=steps,
            overlaps=on == "overlapped",
        )
        self.steps = steps
        self.events = {}
        self._ids = itertools.count()

    def constrain(self, key: str, constraint: Constraint) -> None:
        self.engine.define("a", key, encode_rules(to_rules(constraint)))
        self.engine.pieces.go_on(60.0)  # it is made at once
        assert self.engine.automata.are_ready([key])
        if self.engine.decoder is not None:  # and so is its table
            self.engine.decoder.tables.find(key)
            self.engine.pieces.go_on(60.0)
