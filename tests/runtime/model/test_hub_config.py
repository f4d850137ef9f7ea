"""Configs as they are published: older field names, absent defaults, and what must be refused."""

from __future__ import annotations

from typing import Any

import pytest

from latticework.lang.errors import BrokenModel, UnsupportedModel
from latticework.runtime.attention.layer import PLAIN, LayerAttention
from latticework.runtime.model.folder import folder_spec
from latticework.runtime.model.spec import LinearScaling, ModelSpec

SHAPE = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_hidden_layers": 26,
    "vocab_size": 256000,
    "max_position_embeddings": 8192,
}
GEMMA2 = {
    **SHAPE,
    "architectures": ["Gemma2ForCausalLM"],
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
}
GEMMA3 = {
    **SHAPE,
    "architectures": ["Gemma3ForCausalLM"],
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "rope_local_base_freq": 10000,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
}
QWEN2 = {**SHAPE, "architectures": ["Qwen2ForCausalLM"], "sliding_window": 131072, "max_window_layers": 21}
PHI3 = {**SHAPE, "architectures": ["Phi3ForCausalLM"], "head_dim": 96, "num_hidden_layers": 2}
MISTRAL = {**SHAPE, "architectures": ["MistralForCausalLM"], "num_hidden_layers": 2}
GRANITE = {**SHAPE, "architectures": ["GraniteForCausalLM"], "attention_multiplier": 0.015625}
SMOLLM3 = {**SHAPE, "architectures": ["SmolLM3ForCausalLM"], "rope_theta": 5e6}


def read(config: dict[str, Any], **changes: Any) -> ModelSpec:
    return folder_spec(config | changes, "config.json")


def test_gemma_2() -> None:
    spec = read(GEMMA2)
    assert spec.tie_word_embeddings  # published configs leave it out
    assert spec.attention_layers[0] == LayerAttention(window=4096, soft_cap=50.0, scale=1 / 16)
    assert spec.attention_layers[1] == LayerAttention(window=None, soft_cap=50.0, scale=1 / 16)
    assert (spec.logits_soft_cap, spec.embedding_multiplier, spec.norm_offset) == (30.0, 48.0, 1.0)
    assert spec.hidden_act == "gelu_pytorch_tanh"


def test_gemma_3_with_the_older_rope_fields() -> None:
    spec = read(GEMMA3)
    assert [layer.window for layer in spec.attention_layers[:7]] == [512] * 5 + [None, 512]
    assert spec.rope_layers[:7] == ("local",) * 5 + ("global", "local")
    assert (spec.rope_theta, spec.local_rope_theta) == (1000000.0, 10000.0)
    assert spec.rope_scaling == LinearScaling(factor=8.0)
    assert spec.logits_soft_cap is None


def test_mistral_without_a_window_is_not_mistral_with_the_default_one() -> None:
    assert read(MISTRAL, sliding_window=None).attention_layers == (PLAIN, PLAIN)
    assert read(MISTRAL).attention_layers == (LayerAttention(window=4096),) * 2


def test_qwens_window_counts_only_when_it_is_switched_on() -> None:
    assert read(QWEN2, use_sliding_window=False).attention_layers == ()
    windows = [layer.window for layer in read(QWEN2, use_sliding_window=True).attention_layers]
    assert windows == [None] * 21 + [131072] * 5


def test_smollm3_has_no_positions_in_every_fourth_layer() -> None:
    spec = read(SMOLLM3)
    assert spec.rope_layers[:5] == ("global", "global", "global", "none", "global")
    assert spec.tie_word_embeddings
    assert spec.rope_theta == 5e6


def test_phi_3_turns_the_part_of_a_head_that_it_says() -> None:
    assert read(PHI3, partial_rotary_factor=0.75).rotary_dim == 72
    assert read(PHI3).rotary_dim == 96


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (PHI3, {"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, r"config\.json has rope_type 'longrope'"),
        (PHI3, {"rope_scaling": {"type": "su"}}, "'su'"),
        (QWEN2, {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "'yarn'"),
        (QWEN2, {"partial_rotary_factor": 0.5}, "part of each head"),
        (QWEN2, {"use_sliding_window": True, "layer_types": ["linear_attention"] * 26}, "'linear_attention'"),
        (GEMMA3, {"use_bidirectional_attention": True}, "look back only"),
        (GEMMA3, {"rope_parameters": {"sliding_attention": {"rope_type": "linear"}}}, "positions of its windows"),
        (GEMMA2, {"hidden_activation": "gelu"}, "'gelu'"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused(
    config: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        read(config, **changes)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (GEMMA2, {"sliding_window": "wide"}, "sliding_window is 'wide'; expected int"),
        (GEMMA2, {"sliding_window": 0}, "sliding_window is 0; expected more than 0"),
        (GEMMA2, {"attn_logit_softcapping": 0.0}, "soft cap of scores is 0"),
        (GEMMA2, {"final_logit_softcapping": -1.0}, "soft cap of logits is -1"),
        (QWEN2, {"rope_theta": -1.0}, "rope_theta is -1"),
        (GRANITE, {"logits_scaling": 0}, "logits_scaling is 0"),
        (GEMMA2, {"layer_types": ["full_attention"]}, "1 layer_types for 26 layers"),
        (GEMMA2, {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0"),
        (GEMMA2, {"hidden_size": "big"}, "hidden_size"),
        (GEMMA3, {"sliding_window_pattern": 0}, "sliding_window_pattern is 0"),
        (GEMMA3, {"rope_scaling": {"rope_type": "linear"}}, "incomplete: factor"),
        (SMOLLM3, {"no_rope_layers": [1, 0]}, "26"),
        (SMOLLM3, {"no_rope_layer_interval": 0}, "no_rope_layer_interval is 0"),
        (QWEN2, {"use_sliding_window": "yes"}, "use_sliding_window is 'yes'; expected bool"),
        (QWEN2, {"num_hidden_layers": 10**9, "use_sliding_window": True}, "num_hidden_layers is 1000000000"),
        (MISTRAL, {"rope_parameters": [1]}, "rope_parameters"),
        (PHI3, {"partial_rotary_factor": 2.0}, "192 rotated"),
    ],
)
def test_a_damaged_value_is_named(config: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BrokenModel, match=message):
        read(config, **changes)
