"""What Gemma 2 and 3 share: norms on both sides that multiply by 1 + weight, scaled embeddings, tied by default."""

from __future__ import annotations

from latticework.lang.errors import BrokenModel, UnsupportedModel
from latticework.runtime.model.hub_config import Fields, HubConfig


def shared_fields(config: HubConfig) -> Fields:
    """Raises UnsupportedModel for the encoders made of Gemmas."""
    config.refuse("use_bidirectional_attention", "supported: decoders, which look back only")
    act = config.get("hidden_activation", str, "gelu_pytorch_tanh")
    if act != "gelu_pytorch_tanh":
        raise UnsupportedModel(f"{config.source} has hidden_activation {act!r}; supported: 'gelu_pytorch_tanh'")
    return {
        "hidden_act": act,
        "head_dim": config.get("head_dim", int, 256),
        "norms": "both",
        "norm_offset": 1.0,
        "embedding_multiplier": max(config.get("hidden_size", int, 0), 0) ** 0.5,
        "tie_word_embeddings": config.get("tie_word_embeddings", bool, True),
    }


def query_scale(config: HubConfig) -> float:
    scalar = config.get("query_pre_attn_scalar", float, 256.0)
    if scalar <= 0:
        raise BrokenModel(f"{config.source}: query_pre_attn_scalar is {scalar}; expected more than 0")
    return float(scalar**-0.5)
