"""The formats of JSON Schema as texts."""

from __future__ import annotations

from latticework.runtime.constrain.texts import Text

FORMATS: frozenset[str] = frozenset()


def from_format(name: str) -> Text | None:
    return None
