"""How dates, times, durations, ids, decimals and addresses are written, so that every text is read as a value.

Each form is one of the standard's formats, or less: whoever reads the text (msgspec, pydantic) has no leap seconds, no
more than six digits of a second, no years and months in a duration. Dates and times of day carry an offset from UTC.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import inspect

Schema = dict[str, Any]

_OFFSET = "(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
_PERIOD = r"([0-9]{1,6}D)?(T(?=[0-9])([0-9]{1,6}H)?([0-9]{1,6}M)?([0-9]{1,6}S)?)?"

FORMS: dict[str, Schema] = {
    "date": {"format": "date"},
    "date-time": {"format": "date-time", "pattern": f"T{_CLOCK}{_OFFSET}$"},
    "time": {"format": "time", "pattern": f"^{_CLOCK}{_OFFSET}$"},
    "duration": {"format": "duration", "pattern": f"^P(?=[0-9T]){_PERIOD}$"},
    "uuid": {"format": "uuid"},
    **{f"uuid{v}": {"format": "uuid", "pattern": f"^.{{14}}{v}.{{4}}[89ab]"} for v in range(1, 9)},
    "decimal": {"pattern": r"^-?(0|[1-9][0-9]{0,27})(\.[0-9]{1,28})?$"},
    "ipv4": {"format": "ipv4"},
    "ipv6": {"format": "ipv6"},
}
"""By the name that msgspec or pydantic writes as `format`: the keywords that enforce it."""

_CUSTOM: dict[str, Schema] = {
    "ipaddress.IPv4Address": {"type": "string", "format": "ipv4"},
    "ipaddress.IPv6Address": {"type": "string", "format": "ipv6"},
    "pathlib.Path": {"type": "string"},
    "pathlib.PurePath": {"type": "string"},
}
"""Types that msgspec does not know, by name: importing them costs time that most programs do not need to spend."""


def custom_schema(kind: type) -> Schema:
    """msgspec's schema_hook. Raises NotImplementedError for types that are not known here either."""
    name = _full_name(kind)
    if name not in _CUSTOM:
        raise NotImplementedError(f"Type {kind.__name__!r} is not supported")
    return dict(_CUSTOM[name])


def read_custom(kind: type, value: Any) -> Any:
    """msgspec's dec_hook. Raises ValueError for text that is none of the kind."""
    if _full_name(kind) not in _CUSTOM or not isinstance(value, str):
        raise ValueError(f"{value!r} is no {kind.__name__}")
    return kind(value)


def _full_name(kind: type) -> str:
    return f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}"


def name_times(part: Any, schema: Schema, definitions: dict[str, Schema], seen: set[str] | None = None) -> None:
    """msgspec writes a datetime or time that may lack its offset as any string: gives its schema the format.
    part: msgspec's description of the type that `schema` belongs to."""
    seen = set() if seen is None else seen
    name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
    if name in seen:
        return
    if name in definitions:
        seen.add(name)
        schema = definitions[name]
    for inner, below in _inside(part, schema, definitions):
        name_times(inner, below, definitions, seen)
    if isinstance(part, inspect.DateTimeType | inspect.TimeType) and "format" not in schema:
        schema["format"] = "date-time" if isinstance(part, inspect.DateTimeType) else "time"


def _inside(part: Any, schema: Schema, definitions: dict[str, Schema]) -> Iterator[tuple[Any, Schema]]:
    """The parts of a type, each with its schema."""
    match part:
        case inspect.Metadata(type=inner):
            yield inner, schema
        case inspect.UnionType(types=types):
            for below in schema.get("anyOf", ()):
                yield from ((inner, below) for inner in types if _fits(inner, below, definitions))
        case inspect.DictType(value_type=inner) if isinstance(schema.get("additionalProperties"), dict):
            yield inner, schema["additionalProperties"]
        case inspect.TupleType(item_types=types):
            yield from zip(types, schema.get("prefixItems", ()), strict=False)
        case inspect.CollectionType(item_type=inner) if isinstance(schema.get("items"), dict):
            yield inner, schema["items"]
        case _ if hasattr(part, "fields") and "prefixItems" in schema:
            yield from zip((field.type for field in part.fields), schema["prefixItems"], strict=False)
        case _ if hasattr(part, "fields"):
            properties = schema.get("properties", {})
            yield from ((f.type, properties[f.encode_name]) for f in part.fields if f.encode_name in properties)


def _fits(part: Any, schema: Schema, definitions: dict[str, Schema]) -> bool:
    """Whether it may be this member of a union that the schema describes: of strings, lists and dicts a union has one
    each, and objects tell themselves apart by their members."""
    kind = schema.get("type")
    match part:
        case inspect.Metadata(type=inner):
            return _fits(inner, schema, definitions)
        case inspect.DateTimeType() | inspect.TimeType():
            return kind == "string"
        case inspect.CollectionType() | inspect.TupleType():
            return kind == "array"
        case inspect.DictType():
            return kind == "object"
        case _ if hasattr(part, "fields"):
            known = definitions.get(str(schema.get("$ref", "")).removeprefix("#/$defs/"), {})
            return bool(known) and (
                "prefixItems" in known
                or {field.encode_name for field in part.fields} <= set(known.get("properties", ()))
            )
        case _:
            return False


__all__ = ["FORMS", "custom_schema", "name_times", "read_custom"]
