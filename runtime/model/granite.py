"""Granite 3 (dense): a Llama with multipliers on embeddings, attention scores, residuals and logits."""

from __future__ import annotations

from latticework.runtime.attention.layer import LayerAttention
from latticework.runtime.model.hub_config import Fields, HubConfig, rope_fields, same_attention


def fields(config: HubConfig) -> Fields:
    return {
        **rope_fields(config),
        **same_attention(config, LayerAttention(scale=config.get("attention_multiplier", float, 1.0))),
    }
