"""Qwen 3 (dense): a Llama that norms every head of q and k."""

from __future__ import annotations

from latticework.runtime.model.hub_config import Fields, HubConfig, rope_fields, switched_windows


def fields(config: HubConfig) -> Fields:
    return {
        **rope_fields(config),
        **switched_windows(config),
        "head_dim": config.get("head_dim", int, 128),
        "qk_norm": "head",
    }
