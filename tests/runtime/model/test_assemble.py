"""What cannot be computed is refused before a weight is read, naming the kernel and its limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

pytest.importorskip("triton")

from latticework.kernels.cpu.pointwise import TORCH
from latticework.kernels.pointwise import TritonPointwise
from latticework.lang.errors import InvalidArgument, LatticeworkError, ModelError, Unsupported
from latticework.runtime.config import EngineConfig
from latticework.runtime.engine import Engine
from latticework.runtime.model import assemble as assemble_module
from latticework.runtime.model import triton_kernels
from latticework.runtime.model.decoder import Decoder, Layer
from latticework.runtime.model.runner import ModelRunner
from latticework.runtime.model.tiny import SPEC, tiny_weights
from tests.runtime.model.test_dummy import SMALL


@pytest.fixture(autouse=True)
def _twins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATTICEWORK_KERNELS", "torch")


def config_of(folder: Path, shape: dict[str, Any] | None = None, **settings: Any) -> EngineConfig:
    (folder / "config.json").write_text(json.dumps(SMALL | (shape or {})))
    plain: dict[str, Any] = {
        "load_format": "dummy",
        "dtype": "float32",
        "device": "cpu",
        "attention": "triton",
        "kv_tokens": 64,
        "threads": 1,
    }
    return EngineConfig(model=str(folder), **(plain | settings))


@pytest.mark.parametrize(
    ("shape", "settings", "said"),
    [
        ({"head_dim": 512}, {}, r"turn_and_store: head_dim 512; supported are 1 to 256"),
        ({}, {"dtype": "float64"}, r"rms_norm: dtype torch\.float64; supported are"),
        ({}, {"page_size": 300, "kv_tokens": 600}, r"turn_and_store: page_size 300; supported are 1 to 256"),
        (
            {"num_attention_heads": 65, "num_key_value_heads": 1},
            {},
            r"turn_and_store: query heads per KV head 65; supported are 1 to 64",
        ),
        ({"hidden_size": 16392}, {}, r"rms_norm: size 16392; supported are 1 to 16384"),
    ],
)
def test_a_kernels_limit_is_named(shape: dict[str, Any], settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=said) as caught:
        Engine.load(config_of(tmp_path, shape, **settings), lambda share: pytest.fail("a weight was read"))
    assert caught.value.field == "attention"
    assert "attention='torch'" in str(caught.value)


def test_an_unknown_choice_of_kernels_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATTICEWORK_KERNELS", "cuda")
    with pytest.raises(InvalidArgument, match="LATTICEWORK_KERNELS is 'cuda'; expected triton or torch"):
        Engine.load(config_of(tmp_path))


def test_kernels_without_the_package_are_refused_with_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_kernels, "find_spec", lambda name: None)
    with pytest.raises(LatticeworkError, match=r"(?s)needs the triton package.*latticework\[triton\]"):
        Engine.load(config_of(tmp_path))


@pytest.mark.parametrize(("attention", "pointwise"), [("triton", TritonPointwise), ("torch", type(TORCH))])
def test_norms_and_gates_come_from_where_attention_comes_from(attention: Any, pointwise: type, tmp_path: Path) -> None:
    config = msgspec.structs.replace(config_of(tmp_path, cpu_kernels="off"), attention=attention)
    runner = Engine.load(config).runner
    assert isinstance(runner, ModelRunner)
    assert runner.attention.name == attention
    assert isinstance(runner.model, Decoder)
    assert all(isinstance(layer, Layer) and type(layer.pointwise) is pointwise for layer in runner.model.layers)
    assert type(runner.model.norm.pointwise) is pointwise


def test_a_matrix_takes_no_memory_before_its_first_row_comes() -> None:
    model = Decoder(SPEC, torch.float32)
    linears = [linear for _, linear in model.linears()]
    assert all(linear.weight is not None and linear.weight.is_meta for linear in linears)
    held: list[int] = []

    def counted() -> Any:
        for name, weight in tiny_weights():
            held.append(sum(linear.weight is not None and not linear.weight.is_meta for linear in linears))
            yield name, weight

    model.load(counted())
    assert max(held) == 1
    assert all(linear.weight is None for linear in linears)


class Gpu:
    """A GPU as far as assembling goes: what is put on it stays on the CPU. Bytes."""

    free = 1 << 30

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.did: list[str] = []
        load, pool, attention = assemble_module.load_any, assemble_module.allocate_kv, assemble_module.make_attention
        warm_up = assemble_module.warm_up

        def load_here(card: Any, config: EngineConfig, progress: Any, device: torch.device, library: Any) -> Any:
            assert device == torch.device("cuda", 0)
            self.did.append("load")
            self.free -= 300 << 20
            return load(card, config, progress)

        def pool_here(spec: Any, pages: int, size: int, dtype: torch.dtype, device: torch.device) -> Any:
            self.did.append(f"{pages} pages on {device}")
            return pool(spec, min(pages, 64), size, dtype)

        def attend_here(name: str, device: str, *rest: Any, **named: Any) -> Any:
            assert device == "cuda"
            return attention(name, "cpu", *rest, **named)

        def warm_here(runner: ModelRunner, config: EngineConfig) -> None:
            self.did.append("warm up")
            warm_up(runner, config)

        monkeypatch.setattr(assemble_module, "resolve_device", lambda name: torch.device("cuda", 0))
        monkeypatch.setattr(assemble_module, "resolve_dtype", lambda name, device: "bfloat16")
        monkeypatch.setattr(assemble_module, "free_memory", lambda device: (self.free, 2 << 30))
        monkeypatch.setattr(assemble_module, "load_any", load_here)
        monkeypatch.setattr(assemble_module, "allocate_kv", pool_here)
        monkeypatch.setattr(assemble_module, "make_attention", attend_here)
        monkeypatch.setattr(assemble_module, "warm_up", warm_here)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: self.did.append(f"use {device}"))


def test_on_a_gpu_weights_come_first_then_the_pool_in_what_they_leave_then_the_largest_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu(monkeypatch)
    config = config_of(tmp_path, attention="auto", dtype="auto", kv_tokens=None, memory_fraction=0.5)
    engine = Engine.load(config)
    assert engine.dtype == "bfloat16"
    page_bytes = 16 * 2 * 2 * 2 * 16 * 2  # tokens, layers, keys and values, KV heads, head dim, bytes
    assert gpu.did == ["use cuda:0", "load", f"{(212 << 20) // page_bytes} pages on cuda:0", "warm up"]
    assert isinstance(engine.runner, ModelRunner)
    assert engine.runner.attention.name == "triton"


def test_a_gpu_too_small_for_the_pool_that_is_asked_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu(monkeypatch)
    with pytest.raises(ModelError, match=r"KV pages of 16 tokens fit, 625000 are needed") as caught:
        Engine.load(config_of(tmp_path, attention="auto", dtype="auto", kv_tokens=10**7))
    assert caught.value.field == "kv_tokens"
    assert gpu.did == ["use cuda:0", "load"]
