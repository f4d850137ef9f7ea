"""Qwen 2 and 2.5: a Llama with biases on q, k and v."""

from __future__ import annotations

from latticework.runtime.model.hub_config import Fields, HubConfig, rope_fields, switched_windows


def fields(config: HubConfig) -> Fields:
    return {
        **rope_fields(config),
        **switched_windows(config),
        "attention_bias": True,
        "output_bias": False,
    }
