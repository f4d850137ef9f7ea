"""What the keywords of a JSON Schema may hold: bounds, counts, values of a type, and errors that point.

Each reads one schema's keywords as its draft means them and raises SchemaError, with the JSON pointer, for what no
schema may say. Which keywords there are, and what becomes of them, is in `json_schema.py`.
"""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any, NoReturn

from latticework.lang.errors import SchemaError
from latticework.runtime.constrain.json_drafts import Draft
from latticework.runtime.constrain.json_numbers import Bounds, exact
from latticework.runtime.constrain.rules import MAX_COUNT

_LARGEST_BOUND = 10**300


def bounds(schema: dict[str, Any], draft: Draft, pointer: str) -> Bounds:
    """The tightest of the four bound keywords on each side."""
    low, high = _bound(schema, "minimum", pointer), _bound(schema, "maximum", pointer)
    if draft.has_boolean_bounds:
        return Bounds(low, high, _flag(schema, "exclusiveMinimum", pointer), _flag(schema, "exclusiveMaximum", pointer))
    above, below = _bound(schema, "exclusiveMinimum", pointer), _bound(schema, "exclusiveMaximum", pointer)
    low_exclusive = above is not None and (low is None or above >= low)
    high_exclusive = below is not None and (high is None or below <= high)
    return Bounds(above if low_exclusive else low, below if high_exclusive else high, low_exclusive, high_exclusive)


def _bound(schema: dict[str, Any], keyword: str, pointer: str) -> Fraction | None:
    if keyword not in schema:
        return None
    value = schema[keyword]
    at = f"{pointer}/{keyword}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        hint = "true and false are of draft 4, which $schema must name" if isinstance(value, bool) else None
        fail(f"{keyword!r} is a number; got {shown(value)}", at, hint)
    if not -_LARGEST_BOUND < value < _LARGEST_BOUND:  # also false for NaN
        fail(f"{keyword!r} is out of range: {shown(value)}", at)
    return exact(value)


def _flag(schema: dict[str, Any], keyword: str, pointer: str) -> bool:
    value = schema.get(keyword, False)
    if not isinstance(value, bool):
        fail(f"{keyword!r} is true or false in draft 4; got {shown(value)}", f"{pointer}/{keyword}")
    return value


def counts(schema: dict[str, Any], low_keyword: str, high_keyword: str, pointer: str) -> tuple[int, int | None]:
    """A lower count, 0 by default, and an upper one."""
    found: list[int | None] = []
    for keyword in (low_keyword, high_keyword):
        value = schema.get(keyword)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT
        if keyword in schema and not is_count:
            fail(f"{keyword!r} is a whole number from 0; got {shown(value)}", f"{pointer}/{keyword}")
        found.append(value)
    return found[0] or 0, found[1]


def has_type(value: Any, kind: str) -> bool:
    """Whether a parsed JSON value is of the schema type `kind`; 1.0 is an integer."""
    match value:
        case None:
            return kind == "null"
        case bool():
            return kind == "boolean"
        case int():
            return kind in ("integer", "number")
        case float():
            return kind == "number" or (kind == "integer" and value.is_integer())
        case str():
            return kind == "string"
        case list():
            return kind == "array"
        case _:
            return kind == "object"


def place(pointer: str, name: str) -> str:
    """The pointer one name further."""
    return f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"


def shown(value: Any) -> str:
    """A JSON value as text, cut where it is long."""
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:79] + "…"


def fail(message: str, pointer: str, hint: str | None = None) -> NoReturn:
    """Raises the SchemaError that points there."""
    raise SchemaError(f"{message} (at {pointer or 'the root'})", hint=hint, field="json_schema", pointer=pointer)
