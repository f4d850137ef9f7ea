"""What the keywords of a JSON Schema may hold: bounds, counts, types, names, and errors that point.

Each reads one schema's keywords as its draft means them and raises SchemaError, with the JSON pointer, for what no
schema may say. What becomes of them is not known here.
"""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any, NoReturn

from latticework.lang.errors import SchemaError
from latticework.runtime.constrain.json_drafts import Draft
from latticework.runtime.constrain.json_number_sets import Numbers, exact
from latticework.runtime.constrain.rules import MAX_COUNT

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")

_LARGEST_BOUND = 10**300


def types(schema: dict[str, Any], pointer: str) -> frozenset[str] | None:
    """The names in `type`; None where there is none."""
    given = schema.get("type")
    if isinstance(given, str) and given in TYPES:
        return frozenset((given,))
    if given is None and "type" not in schema:
        return None
    names = given if isinstance(given, list) else [given]
    if any(not isinstance(name, str) for name in names):
        fail(f"a type is a string; got {shown(given)}", f"{pointer}/type")
    if not names or any(name not in TYPES for name in names):
        fail(f"unknown type {shown(given)}", f"{pointer}/type", f"the types are {', '.join(TYPES)}")
    return frozenset(names)


def interval(schema: dict[str, Any], draft: Draft, pointer: str) -> Numbers:
    """The tightest of the four bound keywords on each side."""
    low, high = _bound(schema, "minimum", pointer), _bound(schema, "maximum", pointer)
    if draft.has_boolean_bounds:
        return Numbers(
            low, high, _flag(schema, "exclusiveMinimum", pointer), _flag(schema, "exclusiveMaximum", pointer)
        )
    above, below = _bound(schema, "exclusiveMinimum", pointer), _bound(schema, "exclusiveMaximum", pointer)
    low_exclusive = above is not None and (low is None or above >= low)
    high_exclusive = below is not None and (high is None or below <= high)
    return Numbers(above if low_exclusive else low, below if high_exclusive else high, low_exclusive, high_exclusive)


def divisor(schema: dict[str, Any], pointer: str) -> Fraction:
    """The number in `multipleOf`."""
    value = _bound(schema, "multipleOf", pointer)
    if value is None or value <= 0:
        fail(f"'multipleOf' is a number above 0; got {shown(schema['multipleOf'])}", f"{pointer}/multipleOf")
    return value


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
        if keyword in schema and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            fail(f"{keyword!r} is a whole number from 0; got {shown(value)}", f"{pointer}/{keyword}")
        if value is not None and value > MAX_COUNT:
            if keyword == low_keyword:
                fail(f"{keyword!r} is at most {MAX_COUNT} here; got {shown(value)}", f"{pointer}/{keyword}")
            value = None  # as good as no bound
        found.append(value)
    return found[0] or 0, found[1]


def names(value: Any, at: str) -> list[str]:
    """A list of keys."""
    if not isinstance(value, list) or any(not isinstance(name, str) for name in value):
        fail(f"{at.rpartition('/')[2]!r} is a list of names; got {shown(value)}", at)
    return value


def schemas_by_name(schema: dict[str, Any], keyword: str, pointer: str) -> dict[str, Any]:
    """The object of schemas in `keyword`; empty where there is none."""
    value = schema.get(keyword)
    if value is None and keyword not in schema:
        return {}
    if not isinstance(value, dict):
        fail(f"{keyword!r} is an object; got {shown(value)}", f"{pointer}/{keyword}")
    return value


def list_of_schemas(schema: dict[str, Any], keyword: str, pointer: str) -> list[Any]:
    """The list of schemas in `keyword`, which may not be empty."""
    value = schema[keyword]
    if not isinstance(value, list) or not value:
        fail(f"{keyword!r} is a list of schemas; got {shown(value)}", f"{pointer}/{keyword}")
    return value


def flag(schema: dict[str, Any], keyword: str, pointer: str) -> bool:
    value = schema.get(keyword, False)
    if not isinstance(value, bool):
        fail(f"{keyword!r} is true or false; got {shown(value)}", f"{pointer}/{keyword}")
    return value


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
