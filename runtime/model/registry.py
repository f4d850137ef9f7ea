"""Which architectures are supported, and the file that knows each. No torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from latticework.lang.errors import UnsupportedModel

if TYPE_CHECKING:
    from latticework.runtime.model.hub_config import Fields, HubConfig

_FAMILIES = {  # transformers' class: the file beside this one
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "SmolLM3ForCausalLM": "smollm3",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
    "Phi3ForCausalLM": "phi3",
    "Olmo2ForCausalLM": "olmo2",
    "GraniteForCausalLM": "granite",
}

SUPPORTED = tuple(_FAMILIES)
"""transformers' class names of the native families."""

_DECODERS = ("ForCausalLM", "LMHeadModel")  # how transformers names those it may run for us


def check_architecture(architecture: str, source: str) -> None:
    """Raises UnsupportedModel listing what is supported."""
    if not architecture.endswith(_DECODERS):
        raise UnsupportedModel(
            f"{source} is a {architecture}; supported: {', '.join(SUPPORTED)}, and decoders that transformers runs"
        )


def check_native(architecture: str, source: str) -> None:
    """Raises UnsupportedModel listing the native families."""
    if architecture not in _FAMILIES:
        raise UnsupportedModel(
            f"{source} is a {architecture}; supported: {', '.join(SUPPORTED)}",
            hint="model_impl='transformers' runs most other decoders",
            field="model_impl",
        )


def family_fields(architecture: str, config: HubConfig) -> Fields:
    """What the family's file reads from the config. Raises UnsupportedModel or BrokenModel."""
    found: Fields = import_module(f"latticework.runtime.model.{_FAMILIES[architecture]}").fields(config)
    return found
