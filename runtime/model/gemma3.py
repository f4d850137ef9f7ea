"""Gemma 3, text only: five layers with a window and a rope base of their own to each that sees everything;
every head of q and k is normed."""

from __future__ import annotations

from latticework.lang.errors import BrokenModel, UnsupportedModel
from latticework.runtime.attention.layer import LayerAttention
from latticework.runtime.model.gemma import query_scale, shared_fields
from latticework.runtime.model.hub_config import FULL, SLIDING, Fields, HubConfig, rope_of


def fields(config: HubConfig) -> Fields:
    pattern = config.get("sliding_window_pattern", int, 6)
    if pattern < 1:
        raise BrokenModel(f"{config.source}: sliding_window_pattern is {pattern}; expected 1 or more")
    types = config.layer_types([SLIDING if (index + 1) % pattern else FULL for index in range(config.layers)])
    window = config.optional("sliding_window", int, 4096)
    scale = query_scale(config)
    return {
        **shared_fields(config),
        **_ropes(config),
        "rope_layers": tuple("local" if kind == SLIDING else "global" for kind in types),
        "attention_layers": tuple(
            LayerAttention(window=window if kind == SLIDING else None, scale=scale) for kind in types
        ),
        "qk_norm": "head",
        "logits_soft_cap": config.optional("final_logit_softcapping", float),
    }


def _ropes(config: HubConfig) -> Fields:
    """By layer type in `rope_parameters` (transformers 5), or in three fields of the config."""
    named = HubConfig(config.get("rope_parameters", dict, {}), config.source)
    whole = named.get(FULL, dict, {}) or config.get("rope_scaling", dict, {})
    local = HubConfig(named.get(SLIDING, dict, {}), config.source)
    if local.get("rope_type", str, "default") != "default":
        raise UnsupportedModel(f"{config.source} stretches the positions of its windows; supported: only of the others")
    return {
        **rope_of(HubConfig(whole, config.source), config, default_theta=1000000.0),
        "local_rope_theta": local.optional("rope_theta", float) or config.get("rope_local_base_freq", float, 10000.0),
    }
