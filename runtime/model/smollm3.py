"""SmolLM3: a Llama in which every fourth layer has no positions (NoPE, Kazemnejad et al., 2023)."""

from __future__ import annotations

from latticework.lang.errors import BrokenModel
from latticework.runtime.attention.layer import LayerAttention
from latticework.runtime.model.hub_config import FULL, SLIDING, Fields, HubConfig, rope_fields


def fields(config: HubConfig) -> Fields:
    interval = config.get("no_rope_layer_interval", int, 4)
    if interval < 1:
        raise BrokenModel(f"{config.source}: no_rope_layer_interval is {interval}; expected 1 or more")
    # despite its name, 1 means that the layer turns its heads
    turns = config.get("no_rope_layers", list, [int((index + 1) % interval != 0) for index in range(config.layers)])
    turns = turns[: config.layers]
    window = config.optional("sliding_window", int) if config.get("use_sliding_window", bool, False) else None
    types = config.layer_types([FULL if turn or window is None else SLIDING for turn in turns])
    return {
        **rope_fields(config, default_theta=2000000.0),
        "tie_word_embeddings": config.get("tie_word_embeddings", bool, True),
        "rope_layers": tuple("global" if turn else "none" for turn in turns),
        "attention_layers": tuple(LayerAttention(window=window if kind == SLIDING else None) for kind in types),
    }
