"""OLMo 2: norms after attention and MLP, and over all heads of q and of k together."""

from __future__ import annotations

from latticework.runtime.model.hub_config import Fields, HubConfig, rope_fields


def fields(config: HubConfig) -> Fields:
    return {
        **rope_fields(config),
        "norms": "after",
        "qk_norm": "whole",
        "rms_norm_eps": config.get("rms_norm_eps", float, 1e-5),
    }
