"""Which architectures are supported, and the class that runs each.

`SUPPORTED` can be read without torch; `model_class` imports the family it names.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from latticework.lang.errors import UnsupportedModel

if TYPE_CHECKING:
    from latticework.runtime.model.llama import Llama

_FAMILIES = {"LlamaForCausalLM": ("latticework.runtime.model.llama", "Llama")}

SUPPORTED = tuple(_FAMILIES)
"""transformers' class names."""


def check_architecture(architecture: str, source: str) -> None:
    """Raises UnsupportedModel listing what is supported."""
    if architecture not in _FAMILIES:
        raise UnsupportedModel(f"{source} is a {architecture}; supported: {', '.join(SUPPORTED)}")


def model_class(architecture: str) -> type[Llama]:
    check_architecture(architecture, "the model")
    module, name = _FAMILIES[architecture]
    kind: type[Llama] = getattr(import_module(module), name)
    return kind
