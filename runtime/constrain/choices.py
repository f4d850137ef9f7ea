"""`Choices` -> byte expressions: one literal each, which keeps `shortest()` exact."""

from __future__ import annotations

from latticework.lang.errors import ConstraintError
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.builder import Builder


def build_choices(builder: Builder, options: tuple[str, ...], limits: Limits) -> int:
    """The node of exactly these strings."""
    if len(options) > limits.alternatives:
        raise ConstraintError(
            f"{len(options)} choices were given; the limit `alternatives` is {limits.alternatives}", field="choices"
        )
    nodes = []
    size = 0
    for option in options:
        data = option.encode()
        size += len(data)
        if size > limits.schema_bytes:
            raise ConstraintError(
                f"the choices are larger than the limit `schema_bytes`, {limits.schema_bytes}", field="choices"
            )
        nodes.append(builder.literal(data))
    return builder.either(nodes)
