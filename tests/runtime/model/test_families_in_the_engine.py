"""A family with windows and one of transformers' own, in the engine: cache, chunks, constraints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from latticework.lang.errors import UnsupportedModel
from latticework.lang.ir import Regex, Sampling, constraint_key
from latticework.runtime.config import EngineConfig
from latticework.runtime.constrain import encode_rules, to_rules
from latticework.runtime.engine import Engine
from latticework.runtime.request import GenSegment, Request, TextSegment
from tests.runtime.model.by_hand import save_model
from tests.runtime.model.families import FAMILIES, OTHERS

DATES = Regex("[0-9]{4}-[0-9]{2}")
PROMPT = tuple(b"A prompt that is longer than the window, and shared: ")


def run(engine: Engine) -> list[bytes]:
    engine.define(b"front", constraint_key(DATES), encode_rules(to_rules(DATES)))
    texts = [b""] * 6
    for number in range(6):
        tail = tuple(f"number {number % 3}".encode())
        key = constraint_key(DATES) if number % 2 else None
        gen = GenSegment(Sampling(max_tokens=12, temperature=0.0, seed=number), key)
        assert engine.submit(b"front", Request(number, (TextSegment(PROMPT + tail), gen))) is None
        if number == 2:  # the rest finds what the first three left
            texts = collect(engine, texts)
    return collect(engine, texts)


def collect(engine: Engine, texts: list[bytes]) -> list[bytes]:
    while engine.has_work():
        for event in engine.step().get(b"front", []):
            assert event.error is None
            texts[event.request] += event.data
        engine.check()
    return texts


@pytest.mark.parametrize("architecture", ["Gemma3ForCausalLM", "GPT2LMHeadModel"])
def test_text_is_the_same_with_cache_and_chunks_or_without(architecture: str, tmp_path: Path) -> None:
    family = next(family for family in (*FAMILIES, *OTHERS) if family.architecture == architecture)
    shape = next(iter(family.shapes.values()))
    save_model(tmp_path, architecture, family.config, **family.base | shape)
    plain: dict[str, Any] = {
        "model": str(tmp_path),
        "dtype": "float64",
        "kv_tokens": 1024,
        "page_size": 4,
        "threads": 1,
    }
    cached = run(Engine.load(EngineConfig(**plain, chunk_tokens=7)))
    alone = run(Engine.load(EngineConfig(**plain, prefix_cache=False, max_running=1)))
    assert cached == alone
    assert all(re.fullmatch(rb"[0-9]{4}-[0-9]{2}", text) for text in cached[1::2])


def test_native_only_is_refused_for_others(tmp_path: Path) -> None:
    save_model(tmp_path, "GPT2LMHeadModel", "GPT2Config")
    with pytest.raises(UnsupportedModel, match="model_impl='transformers' runs most other decoders"):
        Engine.load(EngineConfig(model=str(tmp_path), model_impl="native", kv_tokens=64))
