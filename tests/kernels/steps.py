"""Whole steps of small models of every kind, once with the Triton backend and its kernels, once with torch's.

Used in Triton's interpreter, on a GPU, and with the kernels' twins in the default run.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from latticework.kernels.cpu.pointwise import TORCH
from latticework.kernels.pointwise import TritonPointwise
from latticework.runtime.attention import make_attention
from latticework.runtime.attention.layer import LayerAttention
from latticework.runtime.cache.kv import allocate_kv
from latticework.runtime.model.decoder import Decoder
from latticework.runtime.model.dummy_weights import dummy_weights
from latticework.runtime.model.quantize.base import Quantization
from latticework.runtime.model.quantize.on_device import DevicePacking
from latticework.runtime.model.runner import ModelRunner
from latticework.runtime.model.spec import ModelSpec
from latticework.runtime.schedule.batch import Batch, Entry, build_batch

PAGE = 4
WINDOW = LayerAttention(window=5)

KINDS: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen 2: biases": {"attention_bias": True, "output_bias": False, "tie_word_embeddings": True},
    "Qwen 3: every head normed": {"qk_norm": "head", "head_dim": 16},
    "Gemma 2: windows, caps, norms on both sides": {
        "norms": "both",
        "norm_offset": 1.0,
        "hidden_act": "gelu_pytorch_tanh",
        "attention_layers": (LayerAttention(window=5, soft_cap=2.0), LayerAttention(soft_cap=2.0, scale=0.3)),
        "logits_soft_cap": 3.0,
        "embedding_multiplier": 5.0,
    },
    "Gemma 3: a rope a kind of layer, every head normed": {
        "qk_norm": "head",
        "norms": "both",
        "norm_offset": 1.0,
        "rope_layers": ("local", "global"),
        "local_rope_theta": 100.0,
        "attention_layers": (WINDOW, LayerAttention()),
    },
    "OLMo 2: norms after, heads normed as a whole": {"norms": "after", "qk_norm": "whole"},
    "SmolLM 3: layers without positions": {"rope_layers": ("none", "global")},
    "Phi 3: half a head turns, windows": {"rotary_dim": 4, "attention_layers": (WINDOW, WINDOW)},
    "Granite: multipliers": {"residual_multiplier": 0.4, "logits_scaling": 0.5, "embedding_multiplier": 3.0},
}


PLAIN: dict[str, Any] = {
    "architecture": "LlamaForCausalLM",
    "num_hidden_layers": 2,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 50,
    "max_position_embeddings": 64,
}
IN_GROUPS_OF_32: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8}


def make_model(
    shape: dict[str, Any], device: torch.device, dtype: torch.dtype, quantization: Quantization = "none"
) -> Decoder:
    """Two layers with random weights."""
    packing = DevicePacking(quantization, dtype)
    model = Decoder(ModelSpec(**PLAIN | shape), dtype, device, packing.source_dtype)
    model.load(dummy_weights(model), packing)
    return model.eval()


def make_runner(model: Decoder, attention: str, pages: int = 16, page_size: int = PAGE) -> ModelRunner:
    """Changes how the model computes what lies between its matrices: make the other runner's steps before."""
    model.use(TritonPointwise() if attention == "triton" else TORCH)
    device, dtype = model.embed.device, model.embed.dtype
    backend = make_attention(attention, device.type, model.spec.head_dim, dtype, model.spec.attention_layers)
    return ModelRunner(model, backend, allocate_kv(model.spec, pages, page_size, dtype, device))


def batches() -> list[Batch]:
    """Prompts, one of them in two chunks; decode steps beside it, and a sequence that gets a part of its tokens from it
    in the same step (what comes before them is zeros); then decode alone."""
    pages = [[1, 2, 3, 4], [9, 5, 8], [6, 10, 7, 11]]
    prompts = [Entry([7, 3, 11, 2, 5, 40], 0, pages[0][:2], 6), Entry([7, 3, 20, 21], 0, pages[1][:1], 1)]
    chunk = Entry([8, 9, 30, 1, 4], 6, pages[0][:3], 5)
    copying = Entry([33, 34], 11, pages[2], 2, source=chunk, copied=5)
    mixed = [chunk, Entry([12], 4, pages[1][:2], 1), copying]
    decode = [Entry([13], 11, pages[0], 1), Entry([14], 5, pages[1], 1), Entry([15], 13, pages[2], 1)]
    return [build_batch(entries, PAGE) for entries in (prompts, mixed, decode)]


def logits_of(model: Decoder, attention: str) -> list[torch.Tensor]:
    """Of all batches, on the CPU."""
    runner = make_runner(model, attention)
    return [runner.run(batch).cpu() for batch in batches()]


def check_kind(kind: str, device: torch.device, dtype: torch.dtype = torch.float32, tolerance: float = 2e-5) -> None:
    """The Triton backend gives the torch backend's logits and, in float32, its tokens."""
    with torch.device("cpu"):
        model = make_model(KINDS[kind], device, dtype)
        for expected, found in zip(logits_of(model, "torch"), logits_of(model, "triton"), strict=True):
            assert float(expected.std()) > 0.1  # the comparison means something
            torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
            assert dtype != torch.float32 or torch.equal(found.argmax(-1), expected.argmax(-1))


def check_quantised(quantization: Quantization, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels give their twins' logits and tokens, which are near those of the weights before."""
    with torch.device("cpu"):
        plain = logits_of(make_model(IN_GROUPS_OF_32, device, torch.float32), "torch")
        model = make_model(IN_GROUPS_OF_32, device, torch.float32, quantization)
        found = logits_of(model, "triton")
        monkeypatch.setenv("LATTICEWORK_KERNELS", "torch")
        for exact, expected, own in zip(plain, logits_of(model, "triton"), found, strict=True):
            torch.testing.assert_close(own, expected, rtol=0, atol=5e-5)
            assert torch.equal(own.argmax(-1), expected.argmax(-1))
            off = float((expected - exact).std() / exact.std())
            assert 1e-4 < off < (0.05 if quantization == "int8" else 0.5)
