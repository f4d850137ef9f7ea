"""The native families, each with tiny shapes that show what is its own. The docs' table is made from this list.

Pure data: no torch, no transformers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Settings = dict[str, Any]  # of transformers' config


@dataclass(frozen=True)
class Family:
    """architecture: transformers' class. config: the class of its config. models: what it is used for. own: how it
    differs from a Llama. base: settings of every shape. shapes: what is tested, by name."""

    architecture: str
    config: str
    models: str
    own: str
    shapes: dict[str, Settings]
    base: Settings = field(default_factory=dict)
    gguf: str = ""

    def __str__(self) -> str:
        return self.architecture


def windows(*kinds: str) -> list[str]:
    return [f"{kind}_attention" for kind in kinds]


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
GEMMA3_ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0},
}

FAMILIES = [
    Family(
        architecture="LlamaForCausalLM",
        config="LlamaConfig",
        models="Llama 2, 3, 3.1, 3.2, 3.3; SmolLM, SmolLM2; TinyLlama",
        own="rotary scaling `linear` and `llama3`",
        gguf="llama",
        shapes={
            "grouped queries": {},
            "one kv head": {"num_key_value_heads": 1},
            "a kv head per query head": {"num_key_value_heads": 4},
            "wide heads": {"head_dim": 16},
            "tied": {"tie_word_embeddings": True},
            "biases": {"attention_bias": True, "mlp_bias": True},
            "other rope base": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
            "linear rope": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
            "llama3 rope": {"rope_parameters": LLAMA3_ROPE},
        },
    ),
    Family(
        architecture="MistralForCausalLM",
        config="MistralConfig",
        models="Mistral 7B, Mistral Nemo, Mistral Small (text)",
        own="sliding window",
        shapes={"window": {"sliding_window": 7}, "no window": {"sliding_window": None, "head_dim": 16}},
    ),
    Family(
        architecture="SmolLM3ForCausalLM",
        config="SmolLM3Config",
        models="SmolLM3",
        own="layers without positions (NoPE)",
        base={"pad_token_id": 0},
        shapes={
            "no positions in some layers": {"no_rope_layers": [1, 0, 1]},
            "by interval, tied": {"no_rope_layer_interval": 2, "tie_word_embeddings": True},
            "windows where there are no positions": {
                "no_rope_layers": [0, 1, 0],
                "use_sliding_window": True,
                "sliding_window": 6,
            },
        },
    ),
    Family(
        architecture="Qwen2ForCausalLM",
        config="Qwen2Config",
        models="Qwen2, Qwen2.5, QwQ",
        own="biases on q, k, v",
        gguf="qwen2",
        shapes={
            "biases": {},
            "tied": {"tie_word_embeddings": True},
            "windows in later layers": {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
        },
    ),
    Family(
        architecture="Qwen3ForCausalLM",
        config="Qwen3Config",
        models="Qwen3 (dense)",
        own="every head of q and k normed",
        base={"head_dim": 16},
        gguf="qwen3",
        shapes={"head norms": {}, "tied": {"tie_word_embeddings": True}},
    ),
    Family(
        architecture="Gemma2ForCausalLM",
        config="Gemma2Config",
        models="Gemma 2",
        own="windows in every other layer, capped scores and logits, norms on both sides",
        base={"head_dim": 16, "pad_token_id": 0, "tie_word_embeddings": True},
        shapes={
            "windows and caps": {
                "sliding_window": 6,
                "attn_logit_softcapping": 4.0,
                "final_logit_softcapping": 8.0,
                "query_pre_attn_scalar": 9,
            },
            "untied, no caps": {
                "tie_word_embeddings": False,
                "attn_logit_softcapping": None,
                "final_logit_softcapping": None,
            },
        },
    ),
    Family(
        architecture="Gemma3ForCausalLM",
        config="Gemma3TextConfig",
        models="Gemma 3 (text checkpoints)",
        own="windows with a rope base of their own, every head of q and k normed, norms on both sides",
        base={"head_dim": 16, "pad_token_id": 0, "tie_word_embeddings": True, "sliding_window": 6},
        shapes={
            "local and global layers": {"layer_types": windows("sliding", "sliding", "full")},
            "two ropes": {
                "layer_types": windows("sliding", "full", "sliding"),
                "rope_parameters": GEMMA3_ROPES,
                "query_pre_attn_scalar": 9,
            },
            "only windows": {},
        },
    ),
    Family(
        architecture="Phi3ForCausalLM",
        config="Phi3Config",
        models="Phi-3 mini and medium 4k, Phi-4 (not the longrope ones)",
        own="fused matrices in the files, heads turned in part, sliding window",
        base={"pad_token_id": 0},
        shapes={
            "window": {"sliding_window": 7},
            "half a head turns": {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        },
    ),
    Family(
        architecture="Olmo2ForCausalLM",
        config="Olmo2Config",
        models="OLMo 2",
        own="norms after attention and MLP, q and k normed as a whole",
        base={"pad_token_id": 0},
        shapes={"norms after": {}, "biases": {"attention_bias": True}},
    ),
    Family(
        architecture="GraniteForCausalLM",
        config="GraniteConfig",
        models="Granite 3 (dense)",
        own="multipliers on embeddings, scores, residuals and logits",
        shapes={
            "multipliers": {
                "embedding_multiplier": 3.0,
                "attention_multiplier": 0.2,
                "residual_multiplier": 0.4,
                "logits_scaling": 0.5,
            },
            "no multipliers, tied": {"tie_word_embeddings": True},
        },
    ),
]

OTHERS = [  # through transformers' own layers
    Family(
        architecture="GPT2LMHeadModel",
        config="GPT2Config",
        models="GPT-2",
        own="learned positions",
        shapes={"plain": {}, "scores scaled by layer": {"scale_attn_by_inverse_layer_idx": True}},
    ),
    Family(
        architecture="GPTNeoXForCausalLM",
        config="GPTNeoXConfig",
        models="GPT-NeoX, Pythia",
        own="attention and MLP side by side",
        base={"num_key_value_heads": None},
        shapes={"plain": {}, "one after the other": {"use_parallel_residual": False}},
    ),
    Family(
        architecture="StableLmForCausalLM",
        config="StableLmConfig",
        models="StableLM 2",
        own="layer norms, heads turned in part",
        shapes={"grouped queries": {}, "head norms": {"qk_layernorm": True, "use_qkv_bias": True}},
    ),
    Family(
        architecture="Starcoder2ForCausalLM",
        config="Starcoder2Config",
        models="StarCoder2",
        own="sliding window, layer norms",
        shapes={"window": {"sliding_window": 6}},
    ),
    Family(
        architecture="MixtralForCausalLM",
        config="MixtralConfig",
        models="Mixtral",
        own="mixture of experts",
        base={"pad_token_id": 0},
        shapes={"experts": {"num_local_experts": 4}},
    ),
]
