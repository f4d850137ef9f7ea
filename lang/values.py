"""Types as JSON Schema, and generated text as values of those types.

A pydantic model is recognised by its methods, so pydantic is never imported; everything else (dataclass,
TypedDict, Enum, Literal, builtin and union types) goes through msgspec. What a schema may contain is decided by
the constraint core, which refuses what it cannot enforce; nothing is dropped here except annotations.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from typing import Any

import msgspec

from latticework.lang.errors import InvalidArgument, InvalidValue
from latticework.lang.ir import JsonSchema

ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"}
)
SHOWN_CHARACTERS = 200


class Decoder(msgspec.Struct, frozen=True):
    """Turns the text of a variable into the value its gen promised. `read` raises ValueError."""

    kind: str
    read: Callable[[str], Any]

    def decode(self, name: str, text: str) -> Any:
        """Raises InvalidValue, with the text, when it is not of this kind."""
        try:
            return self.read(text)
        except ValueError as error:  # json, msgspec and pydantic all raise a ValueError
            shown = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
            raise InvalidValue(
                f"variable {name!r} is not a valid {self.kind}: {error}\n  text: {shown!r}",
                field=name,
                hint="a stop string or on_length='cut' can end constrained text early",
            ) from error


JSON = Decoder("JSON document", lambda text: msgspec.json.decode(text))
"""For a schema given as JSON: dicts, lists, strings, numbers."""


def constraint_of(kind: Any) -> tuple[JsonSchema, Decoder]:
    """The JSON Schema of a type, and how to read its values.

    kind: a pydantic model or TypeAdapter, or any type msgspec knows: dataclass, TypedDict, Enum, Literal, int,
    float, str, bool, None, list[...], unions of them. Raises InvalidArgument.
    """
    for schema_method, read_method in (("model_json_schema", "model_validate_json"), ("json_schema", "validate_json")):
        if hasattr(kind, schema_method) and hasattr(kind, read_method):
            schema = getattr(kind, schema_method)()
            return JsonSchema(_tidy(schema)), Decoder(_name(kind), getattr(kind, read_method))
    if isinstance(kind, str | dict):
        raise InvalidArgument(
            f"schema is a {type(kind).__name__}; expected a type", field="schema", hint="use json_schema= for a schema"
        )
    try:
        (schema,), definitions = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
        _restore_order(kind, definitions)
        reader = msgspec.json.Decoder(kind)
    except (TypeError, NameError, AttributeError) as error:
        raise InvalidArgument(
            f"schema={_name(kind)} cannot be turned into a JSON Schema: {str(error).splitlines()[0]}",
            field="schema",
            hint="expected a pydantic model, dataclass, TypedDict, Enum, Literal or builtin type, "
            "whose own fields are of such types",
        ) from error
    if definitions:
        schema = {**schema, "$defs": definitions}
    return JsonSchema(_tidy(schema)), Decoder(_name(kind), reader.decode)


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", None) or str(kind)


# ---------------------------------------------------------------- schemas


def _tidy(schema: dict[str, Any]) -> dict[str, Any]:
    """Without annotations, so that equal types share one compiled constraint; a root that is only a reference
    is replaced by what it refers to."""
    definitions = {name: _without_annotations(part) for name, part in schema.get("$defs", {}).items()}
    root = _without_annotations({key: value for key, value in schema.items() if key != "$defs"})
    if definitions and set(root) == {"$ref"}:
        name = root["$ref"].removeprefix("#/$defs/")
        if name in definitions and not _refers(definitions, root["$ref"]):
            root = definitions.pop(name)
    return {**root, "$defs": definitions} if definitions else root


def _without_annotations(schema: Any) -> Any:
    """`properties` maps names to schemas, and a name may be "title"; `enum` and `const` hold plain values."""
    if not isinstance(schema, dict):
        return schema
    tidy: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ANNOTATIONS:
            continue
        if key in ("properties", "$defs", "patternProperties"):
            tidy[key] = {name: _without_annotations(part) for name, part in value.items()}
        elif key in ("enum", "const"):
            tidy[key] = value
        elif isinstance(value, list):
            tidy[key] = [_without_annotations(part) for part in value]
        else:
            tidy[key] = _without_annotations(value)
    return tidy


def _refers(schema: Any, reference: str) -> bool:
    if isinstance(schema, dict):
        return schema.get("$ref") == reference or any(_refers(part, reference) for part in schema.values())
    return isinstance(schema, list) and any(_refers(part, reference) for part in schema)


def _restore_order(kind: Any, definitions: dict[str, Any]) -> None:
    """msgspec sorts the keys of a TypedDict; here the order in the source is the order of generation."""
    found: dict[type, list[str]] = {}
    _collect_typed_dicts(kind, found, set())
    for cls, names in found.items():
        for title, schema in definitions.items():
            properties = schema.get("properties", {})
            if title.split(".")[-1] == cls.__name__ and set(properties) == set(names):
                schema["properties"] = {name: properties[name] for name in names}
                schema["required"] = [name for name in names if name in schema.get("required", ())]


def _collect_typed_dicts(kind: Any, found: dict[type, list[str]], seen: set[int]) -> None:
    for part in typing.get_args(kind):
        _collect_typed_dicts(part, found, seen)
    fields_are_hints = typing.is_typeddict(kind) or dataclasses.is_dataclass(kind)
    if not fields_are_hints or id(kind) in seen:
        return
    seen.add(id(kind))
    hints = typing.get_type_hints(kind, include_extras=True)
    if typing.is_typeddict(kind):
        found[kind] = list(hints)
    for part in hints.values():
        _collect_typed_dicts(part, found, seen)
