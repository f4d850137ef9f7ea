"""Types as JSON Schema, and generated text as values of those types.

A pydantic model is recognised by its methods, so pydantic is never imported; everything else (dataclass,
TypedDict, Enum, Literal, builtin and union types) goes through msgspec. What a schema may contain is decided by
the constraint core, which refuses what it cannot enforce; nothing is dropped here except annotations.

Dates, times, durations, UUIDs, decimals and IP addresses are strings of a form (`forms.py`) that text is held to. A
type whose strings have another inner form (bytes, networks, e-mail addresses) is refused here: its schema says so only
in annotations, and text that keeps the schema would seldom be such a value.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import typing
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from latticework.lang.errors import InvalidArgument, InvalidValue, SchemaError
from latticework.lang.forms import FORMS, custom_schema, name_times, read_custom
from latticework.lang.ir import JsonSchema

ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"}
)
SHOWN_CHARACTERS = 200
NAMED_SCHEMAS = ("properties", "$defs", "patternProperties")  # hold names, not keywords
_HARMLESS_FORMATS = frozenset({"password", "path"})  # every string is one
_CONTENT = ("contentEncoding", "contentMediaType", "contentSchema")
_INNER_FORMS = ("Bytes", "ByteArray", "MemoryView", "Ext")
_PYDANTIC_FORMS = ("date", "datetime", "time", "timedelta")
_UNSAID = ("gt", "ge", "lt", "le", "now_op")  # of these forms, what their JSON Schema does not say
_PYDANTIC_KEYS = ("int", "float", "bool", "none", "decimal", "complex", "date", "time", "datetime", "timedelta", "uuid")
_PYDANTIC_VALUES = ("default", "metadata", "expected", "members", "config", "serialization")  # hold no schema
_INNER_FORM_HINT = "use str, int or float for it and convert the value yourself, or give the schema as json_schema="


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

    kind: a pydantic model or TypeAdapter, or any type msgspec knows: dataclass, TypedDict, NamedTuple, Enum, Literal,
    int, float, str, bool, None, date, datetime, time, timedelta, UUID, Decimal, list[...], unions of them; also IP
    addresses and paths. Raises InvalidArgument.
    """
    for schema_method, read_method in (("model_json_schema", "model_validate_json"), ("json_schema", "validate_json")):
        if hasattr(kind, schema_method) and hasattr(kind, read_method):
            schema = _tidy(getattr(kind, schema_method)(**_schema_options()))
            _hold_to_forms(schema, _name(kind), "")
            core = getattr(kind, "core_schema", None) or getattr(kind, "__pydantic_core_schema__", None)
            _refuse_pydantic_parts(core, _name(kind))
            return JsonSchema(schema), Decoder(_name(kind), getattr(kind, read_method))
    if isinstance(kind, str | dict):
        raise InvalidArgument(
            f"schema is a {type(kind).__name__}; expected a type", field="schema", hint="use json_schema= for a schema"
        )
    try:
        (schema,), definitions = msgspec.json.schema_components(
            [kind], schema_hook=custom_schema, ref_template="#/$defs/{name}"
        )
        _restore_order(kind, definitions)
        description = msgspec.inspect.type_info(kind)
        name_times(description, schema, definitions)
        reader = msgspec.json.Decoder(kind, dec_hook=read_custom)
    except (TypeError, NameError, AttributeError, NotImplementedError) as error:
        raise InvalidArgument(
            f"schema={_name(kind)} cannot be turned into a JSON Schema: {str(error).splitlines()[0]}",
            field="schema",
            hint="expected a pydantic model, dataclass, TypedDict, Enum, Literal or builtin type, "
            "whose own fields are of such types",
        ) from error
    if definitions:
        schema = {**schema, "$defs": definitions}
    schema = _tidy(schema)
    _hold_to_forms(schema, _name(kind), "")
    _refuse_msgspec_parts(description, _name(kind), set())
    return JsonSchema(schema), Decoder(_name(kind), reader.decode)


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", None) or str(kind)


def _schema_options() -> dict[str, Any]:
    """How pydantic is to write a schema: a Decimal as a number alone. As a string it would have no bounds."""
    pydantic = sys.modules.get("pydantic.json_schema")
    if pydantic is None:
        return {}

    class Generator(pydantic.GenerateJsonSchema):  # type: ignore[name-defined]
        def decimal_schema(self, schema: Any) -> Any:
            found = super().decimal_schema(schema)
            return next((part for part in found.get("anyOf", ()) if part.get("type") == "number"), found)

    return {"schema_generator": Generator}


# ---------------------------------------------------------------- schemas


def _tidy(schema: dict[str, Any]) -> dict[str, Any]:
    """Without annotations, so that equal types share one compiled constraint, and closed: an object has the fields of
    its type alone. A root that is only a reference is replaced by what it refers to."""
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
        if key in NAMED_SCHEMAS:
            tidy[key] = {name: _without_annotations(part) for name, part in value.items()}
        elif key in ("enum", "const"):
            tidy[key] = value
        elif isinstance(value, list):
            tidy[key] = [_without_annotations(part) for part in value]
        else:
            tidy[key] = _without_annotations(value)
    if "properties" in tidy and "additionalProperties" not in tidy:
        tidy["additionalProperties"] = False  # a type has its fields and no others, unless it says so
    return tidy


def _hold_to_forms(schema: Any, name: str, pointer: str) -> None:
    """Turns the formats that types have into keywords that say all of it; raises for the first keyword that says what
    a string holds and is not among them."""
    if not isinstance(schema, dict):
        return
    form = schema.get("format")
    if isinstance(form, str) and form in FORMS and form not in _HARMLESS_FORMATS:
        del schema["format"]
        if "pattern" in schema and "pattern" in FORMS[form]:  # both hold
            schema["allOf"] = [*schema.get("allOf", ()), {"pattern": schema["pattern"]}]
        schema |= FORMS[form]
        return
    for key, value in schema.items():
        at = f"{pointer}/{key}"
        is_format = key == "format" and isinstance(value, str) and value not in _HARMLESS_FORMATS
        if is_format or key in _CONTENT:
            message = f"schema={name} has strings of {key} {json.dumps(value)}, which is not enforced (at {at})"
            raise SchemaError(message, hint=_INNER_FORM_HINT, field="schema", pointer=at)
        if key in NAMED_SCHEMAS:
            for part_name, part in value.items():
                escaped = part_name.replace("~", "~0").replace("/", "~1")
                _hold_to_forms(part, name, f"{at}/{escaped}")
        elif isinstance(value, list) and key != "enum":
            for index, part in enumerate(value):
                _hold_to_forms(part, name, f"{at}/{index}")
        elif key not in ("const", "discriminator"):
            _hold_to_forms(value, name, at)


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


# ---------------------------------------------------------------- what a schema leaves unsaid


def _refuse_msgspec_parts(part: Any, place: str, seen: set[int]) -> None:
    """Raises for a part of msgspec's description of a type that its JSON Schema writes as any string, or any key."""
    if isinstance(part, tuple):
        for item in part:
            _refuse_msgspec_parts(item, place, seen)
    if not isinstance(part, msgspec.inspect.Type | msgspec.inspect.Field) or id(part) in seen:
        return
    seen.add(id(part))
    if type(part).__name__.removesuffix("Type") in _INNER_FORMS:
        _refuse_part(f"{place} is a {type(part).__name__.removesuffix('Type').lower()}")
    if getattr(part, "tz", None) is False:
        _refuse_part(f"{place} is a {type(part).__name__.removesuffix('Type').lower()} without an offset from UTC")
    free_keys = msgspec.inspect.StrType | msgspec.inspect.AnyType
    if isinstance(part, msgspec.inspect.DictType) and not isinstance(part.key_type, free_keys):
        _refuse_part(f"{place} has keys other than str")
    for name in part.__struct_fields__:
        inner = f"{place}.{part.name}" if isinstance(part, msgspec.inspect.Field) else place
        _refuse_msgspec_parts(getattr(part, name), inner, seen)


def _refuse_pydantic_parts(part: Any, place: str) -> None:
    """The same for pydantic's core schema, nested dicts and lists that name a `type` each."""
    if isinstance(part, list | tuple):
        for item in part:
            _refuse_pydantic_parts(item, place)
    if not isinstance(part, dict):
        return
    kind = part.get("type")
    if kind == "complex":
        _refuse_part(f"{place} is a complex")
    if kind in _PYDANTIC_FORMS and any(part.get(bound) is not None for bound in _UNSAID):
        _refuse_part(f"{place} is a {kind} with bounds")
    if part.get("tz_constraint") not in (None, "aware"):
        _refuse_part(f"{place} is a {kind} without an offset from UTC, or with a certain one")
    if kind == "decimal" and any(part.get(bound) is not None for bound in ("max_digits", "decimal_places")):
        _refuse_part(f"{place} is a decimal with a number of digits")
    keys = part.get("keys_schema")
    if kind == "dict" and isinstance(keys, dict) and keys.get("type") in _PYDANTIC_KEYS:
        _refuse_part(f"{place} has keys other than str")
    for name, inner in part.items():
        if name == "fields" and isinstance(inner, dict):
            for field, schema in inner.items():
                _refuse_pydantic_parts(schema, f"{place}.{field}")
        elif name not in _PYDANTIC_VALUES:
            _refuse_pydantic_parts(inner, place)


def _refuse_part(what: str) -> NoReturn:
    raise InvalidArgument(f"schema: {what}, which no JSON Schema enforces", field="schema", hint=_INNER_FORM_HINT)
