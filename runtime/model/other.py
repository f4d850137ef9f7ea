"""The shape of a decoder that is no native family and runs through transformers. No torch.

Configs name the same sizes in several ways; transformers knows which is whose, but importing it takes seconds and
brings torch along. `through_transformers.py` checks what is read here against the model.
"""

from __future__ import annotations

import msgspec

from latticework.lang.errors import BrokenModel
from latticework.runtime.model.hub_config import HubConfig
from latticework.runtime.model.spec import ModelSpec

_NAMES = {
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "hidden_size": ("n_embd", "d_model"),
    "num_attention_heads": ("n_head", "n_heads"),
    "num_key_value_heads": ("n_head_kv", "num_kv_heads"),
    "max_position_embeddings": ("n_positions", "n_ctx", "max_seq_len"),
    "vocab_size": (),
    "head_dim": (),
}


def other_spec(config: HubConfig, architecture: str) -> ModelSpec:
    """Raises BrokenModel where a size is missing."""
    found = {name: _size(config, (name, *others)) for name, others in _NAMES.items()}
    heads, hidden = found["num_attention_heads"], found["hidden_size"]
    found["num_key_value_heads"] = found["num_key_value_heads"] or heads
    found["head_dim"] = found["head_dim"] or (hidden // heads if hidden and heads and heads > 0 else None)
    sizes = {name: size for name, size in found.items() if size is not None}
    missing = next((name for name in found if name not in sizes), None)
    if missing is not None:
        raise BrokenModel(f"{config.source} has no {missing}, under that name or another that is known")
    return msgspec.convert(
        {"architecture": architecture, "intermediate_size": 4 * sizes["hidden_size"], **sizes}, ModelSpec
    )


def _size(config: HubConfig, names: tuple[str, ...]) -> int | None:
    return next((size for name in names if (size := config.optional(name, int)) is not None), None)
