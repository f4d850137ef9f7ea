"""A Hugging Face config.json with its values checked as they are read, and what several families read alike.

Reads, never guesses: a value of the wrong type is an error that names it. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from latticework.lang.errors import BrokenModel, UnsupportedModel
from latticework.runtime.attention.layer import LayerAttention
from latticework.runtime.model.spec import LinearScaling, RopeScaling

T = TypeVar("T", bound="int | float | bool | str | list[Any] | dict[str, Any]")

Fields = dict[str, Any]
"""Values of `ModelSpec` fields."""

SLIDING, FULL = "sliding_attention", "full_attention"
_MAX_LAYERS = 1 << 14


@dataclass(frozen=True, slots=True)
class HubConfig:
    """values: the file's. source: its path, for messages."""

    values: Mapping[str, Any]
    source: str

    def get(self, name: str, kind: type[T], missing: T) -> T:
        """Absent and null are `missing`. Raises BrokenModel for another type."""
        found = self.optional(name, kind, missing)
        return missing if found is None else found

    def optional(self, name: str, kind: type[T], missing: T | None = None) -> T | None:
        """Absent is `missing`, null is None. Raises BrokenModel for another type."""
        value = self.values.get(name, missing)
        if value is None:
            return None
        if kind is float and isinstance(value, int):
            value = float(value)
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise BrokenModel(f"{self.source}: {name} is {value!r}; expected {kind.__name__}")
        return value

    @property
    def layers(self) -> int:
        count = self.get("num_hidden_layers", int, 0)
        if not 0 < count <= _MAX_LAYERS:
            raise BrokenModel(f"{self.source}: num_hidden_layers is {count}; expected 1 to {_MAX_LAYERS}")
        return count

    def layer_types(self, missing: list[str]) -> list[str]:
        """One of SLIDING and FULL a layer."""
        types = self.get("layer_types", list, missing)
        if len(types) != self.layers:
            raise BrokenModel(f"{self.source} has {len(types)} layer_types for {self.layers} layers")
        unknown = next((kind for kind in types if kind not in (SLIDING, FULL)), None)
        if unknown is not None:
            raise UnsupportedModel(f"{self.source} has layers of type {unknown!r}; supported: {SLIDING!r}, {FULL!r}")
        return types

    def refuse(self, name: str, why: str) -> None:
        """Raises UnsupportedModel where the switch `name` is on."""
        if self.get(name, bool, False):
            raise UnsupportedModel(f"{self.source} has {name}: {why}")


def same_attention(config: HubConfig, how: LayerAttention) -> Fields:
    """Every layer attends like this."""
    return {"attention_layers": (how,) * config.layers}


def switched_windows(config: HubConfig) -> Fields:
    """Qwen's windows: in layers from max_window_layers on, if use_sliding_window."""
    if not config.get("use_sliding_window", bool, False):
        return {}
    window = config.optional("sliding_window", int, 4096)
    first = config.get("max_window_layers", int, 28)
    types = config.layer_types([SLIDING if index >= first else FULL for index in range(config.layers)])
    return {"attention_layers": tuple(LayerAttention(window=window if kind == SLIDING else None) for kind in types)}


def rope_fields(config: HubConfig, default_theta: float = 10000.0) -> Fields:
    """rope_theta and scaling, from `rope_parameters` (transformers 5) or the older fields."""
    return rope_of(rope_parameters(config), config, default_theta)


def rope_parameters(config: HubConfig) -> HubConfig:
    return HubConfig(config.get("rope_parameters", dict, {}) or config.get("rope_scaling", dict, {}), config.source)


def rope_of(parameters: HubConfig, config: HubConfig, default_theta: float, partial: bool = False) -> Fields:
    """parameters: the rope's own; a base that they lack is looked for in the config. partial: whether the family
    may rotate only part of a head."""
    if not partial and rotated_part(parameters, config) != 1.0:
        raise UnsupportedModel(f"{config.source} rotates only part of each head; supported: all of it")
    theta = parameters.optional("rope_theta", float) or config.get("rope_theta", float, default_theta)
    return {"rope_theta": theta, "rope_scaling": _scaling(parameters)}


def rotated_part(parameters: HubConfig, config: HubConfig) -> float:
    """The share of a head's dimensions that turn."""
    return parameters.optional("partial_rotary_factor", float) or config.get("partial_rotary_factor", float, 1.0)


def _scaling(parameters: HubConfig) -> RopeScaling | LinearScaling | None:
    kind = parameters.get("rope_type", str, parameters.get("type", str, "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return LinearScaling(factor=_number(parameters, "factor", float))
    if kind != "llama3":
        raise UnsupportedModel(
            f"{parameters.source} has rope_type {kind!r}; supported: 'default', 'linear' and 'llama3'",
            hint="models with longrope or yarn often have a sibling with a shorter context"
            if kind in ("longrope", "su", "yarn")
            else None,
        )
    return RopeScaling(
        factor=_number(parameters, "factor", float),
        low_freq_factor=_number(parameters, "low_freq_factor", float),
        high_freq_factor=_number(parameters, "high_freq_factor", float),
        original_max_position_embeddings=_number(parameters, "original_max_position_embeddings", int),
    )


def _number(parameters: HubConfig, name: str, kind: type[T]) -> T:
    found = parameters.optional(name, kind)
    if not found:
        raise BrokenModel(f"{parameters.source}: the rope parameters are incomplete: {name} is {found}")
    return found
