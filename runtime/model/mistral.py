"""Mistral: a Llama whose layers all look through a sliding window (none from version 0.2 on)."""

from __future__ import annotations

from latticework.runtime.attention.layer import LayerAttention
from latticework.runtime.model.hub_config import Fields, HubConfig, rope_fields, same_attention


def fields(config: HubConfig) -> Fields:
    window = config.optional("sliding_window", int, 4096)
    return {**rope_fields(config), **same_attention(config, LayerAttention(window=window))}
