"""Phi-3 and Phi-4 with a short context: a Llama stored with q, k, v in one matrix, and gate and up in one.

Their longrope siblings are refused: longrope turns keys anew once a text outgrows the original context, and keys
that a cache holds cannot be.
"""

from __future__ import annotations

from latticework.runtime.attention.layer import LayerAttention
from latticework.runtime.model.hub_config import (
    Fields,
    HubConfig,
    rope_of,
    rope_parameters,
    rotated_part,
    same_attention,
)


def fields(config: HubConfig) -> Fields:
    rope = rope_parameters(config)
    heads = max(config.get("num_attention_heads", int, 1), 1)
    head_dim = config.get("head_dim", int, config.get("hidden_size", int, 0) // heads)
    return {
        **rope_of(rope, config, default_theta=10000.0, partial=True),
        **same_attention(config, LayerAttention(window=config.optional("sliding_window", int))),
        "rotary_dim": int(head_dim * rotated_part(rope, config)),
        "fused_weights": True,
        "rms_norm_eps": config.get("rms_norm_eps", float, 1e-5),
    }
