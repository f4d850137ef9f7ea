"""Llama 2 and 3, SmolLM, TinyLlama: norms before attention and MLP, rotary positions, a gated MLP."""

from __future__ import annotations

from latticework.runtime.model.hub_config import Fields, HubConfig, rope_fields


def fields(config: HubConfig) -> Fields:
    return rope_fields(config)
