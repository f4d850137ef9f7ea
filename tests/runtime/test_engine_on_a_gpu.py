"""A whole engine on a GPU: `pytest -m gpu tests/runtime/test_engine_on_a_gpu.py`.

LATTICEWORK_TEST_DEVICE=cpu LATTICEWORK_KERNELS=torch runs the same with the kernels' twins where there is none, to tell
whether these tests work.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from latticework.lang.errors import ModelError
from latticework.lang.ir import Regex, Sampling, constraint_key
from latticework.runtime.config import EngineConfig
from latticework.runtime.constrain import encode_rules, to_rules
from latticework.runtime.engine import Engine
from latticework.runtime.model.decoder import Decoder
from latticework.runtime.model.load import load_model
from latticework.runtime.model.locate import find_model
from latticework.runtime.model.runner import ModelRunner
from latticework.runtime.request import GenSegment, Request, TextSegment
from tests.runtime.model.by_hand import save_model
from tests.runtime.model.test_dummy import SMALL

pytestmark = pytest.mark.gpu
DEVICE = os.environ.get("LATTICEWORK_TEST_DEVICE", "cuda")
DATES = Regex("[0-9]{4}-[0-9]{2}")
PROMPTS = ["The quick brown fox jumps", "The quick brown fox", "x"]


def load(**settings: Any) -> Engine:
    plain: dict[str, Any] = {"dtype": "float32", "kv_tokens": 2048, "chunk_tokens": 16, "threads": 2}
    return Engine.load(EngineConfig(**(plain | settings)))


def texts_of(engine: Engine) -> list[bytes]:
    """What three prompts are answered: greedy, at random, and within a constraint."""
    engine.define(b"front", constraint_key(DATES), encode_rules(to_rules(DATES)))
    for number, prompt in enumerate(PROMPTS):
        sampling = Sampling(max_tokens=20, temperature=1.0 if number == 1 else 0.0, seed=number)
        gen = GenSegment(sampling, constraint_key(DATES) if number == 2 else None)
        assert engine.submit(b"front", Request(number, (TextSegment(tuple(prompt.encode())), gen))) is None
    texts = [b""] * len(PROMPTS)
    while engine.has_work():
        for event in engine.step().get(b"front", []):
            assert event.error is None, event.error
            texts[event.request] += event.data
        engine.check()
    return texts


def test_the_tiny_model_writes_what_it_writes_on_a_cpu() -> None:
    on_cpu = texts_of(load(model="tiny", device="cpu", attention="torch"))
    assert texts_of(load(model="tiny", device=DEVICE, attention="triton")) == on_cpu
    assert texts_of(load(model="tiny", device=DEVICE, attention="torch")) == on_cpu


@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
def test_a_shape_with_random_weights_runs_in_every_kind_of_numbers(quantization: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    for dtype in ("bfloat16", "float16", "float32"):
        engine = load(
            model=str(tmp_path),
            load_format="dummy",
            device=DEVICE,
            attention="triton",
            dtype=dtype,
            quantization=quantization,
        )
        texts = texts_of(engine)
        assert all(texts)
        assert re.fullmatch(DATES.pattern.encode(), texts[2])


def test_a_folders_weights_are_on_the_device_what_they_are_in_the_file(tmp_path: Path) -> None:
    save_model(tmp_path, "Qwen3ForCausalLM", "Qwen3Config", head_dim=16)
    card = find_model(str(tmp_path))
    here, there = load_model(card, "float32"), load_model(card, "float32", torch.device(DEVICE))
    assert torch.equal(there.embed.cpu(), here.embed)
    x = torch.randn(3, 32)
    for (name, one), (_, other) in zip(here.linears(), there.linears(), strict=True):
        if one.inputs == 32:
            torch.testing.assert_close(other(x.to(DEVICE)).cpu(), one(x), rtol=1e-5, atol=1e-5, msg=name)


def test_a_pool_fills_what_memory_is_left_and_no_more() -> None:
    engine = load(model="tiny", device=DEVICE, attention="triton", kv_tokens=None, memory_fraction=0.5)
    assert isinstance(engine.runner, ModelRunner)
    assert isinstance(engine.runner.model, Decoder)
    assert engine.kv_tokens > 1 << 16
    if DEVICE != "cpu":
        with pytest.raises(ModelError, match=r"KV pages of 16 tokens fit, 62500000000 are needed"):
            load(model="tiny", device=DEVICE, kv_tokens=10**12)
