"""A decoder's layers in one call give the bits that they give one by one."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
import torch

from latticework.kernels.cpu.library import Library
from latticework.kernels.cpu.pointwise import NativePointwise
from latticework.runtime.attention import make_attention
from latticework.runtime.attention.layer import LayerAttention
from latticework.runtime.cache.kv import allocate_kv
from latticework.runtime.model.decoder import Decoder
from latticework.runtime.model.one_call import OneCall, fits_one_call
from latticework.runtime.model.quantize.base import Quantization
from latticework.runtime.model.quantize.packing import Packing
from latticework.runtime.model.runner import ModelRunner
from latticework.runtime.model.spec import ModelSpec
from tests.runtime.model.by_hand import PAGE_SIZE
from tests.runtime.model.ways import after_a_prefix_hit, chunked, whole

SPEC = ModelSpec(
    architecture="LlamaForCausalLM",
    num_hidden_layers=3,
    hidden_size=96,
    intermediate_size=160,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    vocab_size=264,
    max_position_embeddings=256,
)
SPECS = {
    "a llama": SPEC,
    "biases": msgspec.structs.replace(SPEC, attention_bias=True, mlp_bias=True),
    "gelu and a norm's offset": msgspec.structs.replace(SPEC, hidden_act="gelu_pytorch_tanh", norm_offset=1.0),
    "windows and caps": msgspec.structs.replace(
        SPEC, attention_layers=(LayerAttention(window=5), LayerAttention(soft_cap=3.0, scale=0.3), LayerAttention())
    ),
    "layers that do not turn": msgspec.structs.replace(
        SPEC, rope_layers=("global", "none", "local"), local_rope_theta=50.0
    ),
    "norms of heads": msgspec.structs.replace(SPEC, qk_norm="head"),
    "heads that turn in part": msgspec.structs.replace(SPEC, rotary_dim=16),
    "odd sizes": msgspec.structs.replace(SPEC, hidden_size=88, intermediate_size=77, head_dim=24),
    "one kv head": msgspec.structs.replace(SPEC, num_key_value_heads=1, head_dim=64),
}


@pytest.fixture
def tile_library(library: Library | None) -> Library:
    if library is None or not library.uses_tiles:
        pytest.skip("needs a C++ compiler and matrix registers")
    return library


def weights(spec: ModelSpec) -> Iterator[tuple[str, torch.Tensor]]:
    """Random ones, by transformers' names."""
    generator = torch.Generator().manual_seed(11)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.2

    hidden, inner, queries = spec.hidden_size, spec.intermediate_size, spec.num_attention_heads * spec.head_dim
    keys = spec.num_key_value_heads * spec.head_dim
    shapes = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    yield "model.embed_tokens.weight", drawn(spec.vocab_size, hidden) * 5
    yield "model.norm.weight", 1 + drawn(hidden)
    yield "lm_head.weight", drawn(spec.vocab_size, hidden)
    for index in range(spec.num_hidden_layers):
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{index}.{name}.weight", 1 + drawn(hidden)
        if spec.qk_norm:
            for name in ("self_attn.q_norm", "self_attn.k_norm"):
                yield f"model.layers.{index}.{name}.weight", 1 + drawn(spec.head_dim)
        for name, shape in shapes.items():
            yield f"model.layers.{index}.{name}.weight", drawn(*shape)
            if spec.attention_bias if name.startswith("self_attn") else spec.mlp_bias:
                yield f"model.layers.{index}.{name}.bias", drawn(shape[0])


def runner(spec: ModelSpec, library: Library, in_one_call: bool, quantization: Quantization = "none") -> ModelRunner:
    model = Decoder(spec, torch.bfloat16)
    model.load(weights(spec), Packing(quantization, torch.bfloat16, library))
    model.use(NativePointwise(library))
    kv = allocate_kv(spec, 64, PAGE_SIZE, torch.bfloat16)
    attention = make_attention(
        "native", "cpu", spec.head_dim, torch.bfloat16, spec.attention_layers, library, takes_all=True
    )
    return ModelRunner(model, attention, kv, one_call=OneCall(library, model, kv) if in_one_call else None)


@pytest.mark.parametrize("name", SPECS)
def test_logits_are_the_same_bits_in_whatever_way_the_tokens_come(tile_library: Library, name: str) -> None:
    spec = SPECS[name]
    assert fits_one_call(spec, torch.bfloat16, tile_library)
    expected = whole(runner(spec, tile_library, in_one_call=False))
    assert all(logits.isfinite().all() and logits.std() > 0.5 for logits in expected)
    for way in (whole, chunked, after_a_prefix_hit):
        for found, logits in zip(way(runner(spec, tile_library, in_one_call=True)), expected, strict=True):
            assert torch.equal(found, logits), way.__name__


@pytest.mark.parametrize("quantization", ["int8", "int4", "auto"])
def test_weights_of_fewer_bits_give_the_same_bits_too(tile_library: Library, quantization: Quantization) -> None:
    expected = whole(runner(SPEC, tile_library, in_one_call=False, quantization=quantization))
    for way in (whole, chunked, after_a_prefix_hit):
        ours = way(runner(SPEC, tile_library, in_one_call=True, quantization=quantization))
        theirs = way(runner(SPEC, tile_library, in_one_call=False, quantization=quantization))
        for found, same, logits in zip(ours, theirs, expected, strict=True):
            assert torch.equal(found, same), way.__name__
            assert quantization != "int8" or torch.equal(found, logits)  # others choose their form by rows


@pytest.mark.parametrize(
    "changes",
    [{"norms": "both"}, {"qk_norm": "whole"}, {"residual_multiplier": 0.5}],
)
def test_other_decoders_go_layer_by_layer(tile_library: Library, changes: dict[str, object]) -> None:
    assert not fits_one_call(msgspec.structs.replace(SPEC, **changes), torch.bfloat16, tile_library)
    assert not fits_one_call(SPEC, torch.float32, tile_library)
    assert not fits_one_call(SPEC, torch.bfloat16, tile_library.without_tiles())
    assert not fits_one_call(SPEC, torch.bfloat16, None)


def test_more_threads_than_work_and_one_thread_give_the_same(tile_library: Library) -> None:
    expected = whole(runner(SPEC, tile_library, in_one_call=True))
    threads = tile_library.threads
    try:
        for count in (1, 3, 8):
            tile_library.threads = count
            for found, logits in zip(whole(runner(SPEC, tile_library, in_one_call=True)), expected, strict=True):
                assert torch.equal(found, logits)
    finally:
        tile_library.threads = threads
