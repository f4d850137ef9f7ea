"""Gemma 2: every other layer looks through a window; scores and logits are capped."""

from __future__ import annotations

from latticework.runtime.attention.layer import LayerAttention
from latticework.runtime.model.gemma import query_scale, shared_fields
from latticework.runtime.model.hub_config import FULL, SLIDING, Fields, HubConfig, rope_fields


def fields(config: HubConfig) -> Fields:
    types = config.layer_types([FULL if index % 2 else SLIDING for index in range(config.layers)])
    window = config.optional("sliding_window", int, 4096)
    cap, scale = config.optional("attn_logit_softcapping", float, 50.0), query_scale(config)
    return {
        **shared_fields(config),
        **rope_fields(config),
        "attention_layers": tuple(
            LayerAttention(window=window if kind == SLIDING else None, soft_cap=cap, scale=scale) for kind in types
        ),
        "logits_soft_cap": config.optional("final_logit_softcapping", float, 30.0),
    }
