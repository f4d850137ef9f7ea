"""`JsonSchema` -> byte expressions.

Enforce or refuse: every text of the language is accepted by a validator, and an assertion that is not enforced here
raises SchemaError with its JSON pointer. The language may be smaller than what the schema allows:

- an object with `properties` (or `required`) holds exactly the listed properties, in the schema's order; one that
  lists none, and whose `additionalProperties` is not false, holds any keys (a key may come twice);
- a schema without assertions is any JSON value that nests at most FREE_DEPTH deep;
- assertions without a `type` also choose the type (`{"minLength": 1}` is a string);
- an integer is never written as 1.0, which draft 4 does not count as one;
- enum and const values are written one way; numbers are bounded in length (`json_numbers.py`).

A keyword means what it means in the draft that `$schema` names (`json_drafts.py`). Keywords unknown to every draft,
and unknown formats, are annotations, as the standard says. No recursion yet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote

from latticework.lang.errors import SchemaError
from latticework.lang.ir import JsonSchema
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.builder import EMPTY, NEVER, Builder
from latticework.runtime.constrain.json_drafts import LATEST, Draft, draft_of, known_drafts
from latticework.runtime.constrain.json_keywords import bounds, counts, fail, has_type, place, shown
from latticework.runtime.constrain.json_numbers import build_integer, build_number
from latticework.runtime.constrain.json_text import build_string

FREE_DEPTH = 8  # how deep a value nests where the schema says nothing

_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
_ENFORCED = {  # assertion -> the types it speaks about
    "minimum": ("integer", "number"),
    "maximum": ("integer", "number"),
    "exclusiveMinimum": ("integer", "number"),
    "exclusiveMaximum": ("integer", "number"),
    "minLength": ("string",),
    "maxLength": ("string",),
    "items": ("array",),
    "prefixItems": ("array",),
    "minItems": ("array",),
    "maxItems": ("array",),
    "properties": ("object",),
    "required": ("object",),
    "additionalProperties": ("object",),
}
_REFUSED = {  # assertion -> the types it speaks about; () for all
    "multipleOf": ("integer", "number"),
    "pattern": ("string",),
    "additionalItems": ("array",),
    "uniqueItems": ("array",),
    "contains": ("array",),
    "minContains": ("array",),
    "maxContains": ("array",),
    "unevaluatedItems": ("array",),
    "patternProperties": ("object",),
    "propertyNames": ("object",),
    "minProperties": ("object",),
    "maxProperties": ("object",),
    "dependencies": ("object",),
    "dependentRequired": ("object",),
    "dependentSchemas": ("object",),
    "unevaluatedProperties": ("object",),
    "not": (),
    "if": (),
    "then": (),
    "else": (),
    "$dynamicRef": (),
    "$recursiveRef": (),
}
_COMBINERS = ("$ref", "anyOf", "oneOf", "allOf", "const", "enum")
_FORMATS = {
    *("date", "date-time", "time", "duration", "email", "idn-email", "hostname", "idn-hostname", "ipv4", "ipv6"),
    *("uri", "uri-reference", "iri", "iri-reference", "uri-template", "uuid", "regex"),
    *("json-pointer", "relative-json-pointer"),
}


def build_json_schema(builder: Builder, constraint: JsonSchema, limits: Limits) -> int:
    """The node of JSON texts that the schema accepts; NEVER when there is none. Raises SchemaError."""
    text = constraint.text
    if len(text) > limits.schema_bytes or len(text.encode("utf-8", "surrogatepass")) > limits.schema_bytes:
        raise SchemaError(
            f"the schema is larger than the limit `schema_bytes`, {limits.schema_bytes}",
            field="json_schema",
            pointer="",
        )
    try:
        schema = json.loads(text)
        draft = draft_of(schema)
        if draft is None:
            hint = f"the drafts are {', '.join(known_drafts())}; without $schema it is {LATEST.name}"
            fail(f"unknown draft {shown(schema['$schema'])}", "/$schema", hint)
        return _SchemaBuilder(builder, schema, draft, constraint.whitespace, limits).schema(schema, "", 0)
    except RecursionError:
        raise SchemaError("the schema nests too deep", field="json_schema", pointer="") from None


class _SchemaBuilder:
    """One schema on its way into a builder. Pointers are those of the text; depth counts nested schemas."""

    def __init__(self, builder: Builder, root: Any, draft: Draft, whitespace: str, limits: Limits) -> None:
        self.builder = builder
        self.root = root
        self.draft = draft
        self.limits = limits
        self.comma, self.colon = (", ", ": ") if whitespace == "spaced" else (",", ":")
        self._by_reference: dict[str, int] = {}
        self._open_references: list[str] = []
        self._free: dict[int, int] = {}

    # ------------------------------------------------------------ any schema

    def schema(self, schema: Any, pointer: str, depth: int) -> int:
        self.builder.tick()
        if depth > self.limits.depth:
            fail(f"schemas nest too deep; the limit `depth` is {self.limits.depth}", pointer)
        if isinstance(schema, bool) and self.draft.has_boolean_schemas:
            return self.free_value(FREE_DEPTH) if schema else NEVER
        if not isinstance(schema, dict):
            kinds = (
                "an object or a boolean" if self.draft.has_boolean_schemas else f"an object in draft {self.draft.name}"
            )
            fail(f"a schema is {kinds}; got {shown(schema)}", pointer)
        if pointer:
            self._refuse_roots(schema, pointer)
        types = self._types(schema, pointer)
        self._refuse(schema, types, pointer)
        combiners = [key for key in _COMBINERS if key in schema]
        if combiners:
            return self._combined(schema, combiners, types, pointer, depth)
        if types is None:
            types = self._implied_types(schema)
            if types is None:
                return self.free_value(FREE_DEPTH)
        return self.builder.either([self._typed(kind, schema, pointer, depth) for kind in types])

    def _refuse_roots(self, schema: dict[str, Any], pointer: str) -> None:
        """Raises where a schema inside the schema starts anew: with a name that references would start at, or in
        another draft."""
        name = self.draft.identifier
        if name in schema:
            fail(f"{name} inside a schema is not supported", f"{pointer}/{name}", "references start at the root")
        if "$schema" in schema and draft_of(schema) != self.draft:
            fail("another draft inside a schema is not supported", f"{pointer}/$schema")

    def _types(self, schema: dict[str, Any], pointer: str) -> tuple[str, ...] | None:
        if "type" not in schema:
            return None
        given = schema["type"]
        names = given if isinstance(given, list) else [given]
        if not names or any(name not in _TYPES for name in names if isinstance(name, str)):
            fail(f"unknown type {shown(given)}", f"{pointer}/type", f"the types are {', '.join(_TYPES)}")
        if any(not isinstance(name, str) for name in names):
            fail(f"a type is a string; got {shown(given)}", f"{pointer}/type")
        types = tuple(dict.fromkeys(names))
        return tuple(name for name in types if name != "integer") if "number" in types else types

    def _implied_types(self, schema: dict[str, Any]) -> tuple[str, ...] | None:
        """The types that the schema's assertions speak about; None when it has none."""
        spoken = {kind for key in schema for kind in _ENFORCED.get(key, ())}
        if "number" in spoken:
            spoken.discard("integer")
        return tuple(kind for kind in _TYPES if kind in spoken) or None

    def _refuse(self, schema: dict[str, Any], types: tuple[str, ...] | None, pointer: str) -> None:
        """Raises for the first assertion that is not enforced and could matter."""
        for key, value in schema.items():
            about = _REFUSED.get(key)
            if about is not None:
                is_idle = key in ("then", "else") and "if" not in schema
                is_idle = is_idle or (key == "uniqueItems" and value is False)
                is_idle = is_idle or (key == "additionalItems" and self._has_item_list(schema))  # _array enforces it
                is_idle = is_idle or (bool(about) and types is not None and not set(about) & set(types))
                if not is_idle:
                    fail(f"the keyword {key!r} is not supported yet", place(pointer, key), "remove it or simplify it")
            elif (
                key == "format"
                and isinstance(value, str)
                and value in _FORMATS
                and (types is None or "string" in types)
            ):
                fail(f"the format {value!r} is not supported yet", place(pointer, key), "remove it, or describe it")

    def _has_item_list(self, schema: dict[str, Any]) -> bool:
        return self.draft.has_item_lists and isinstance(schema.get("items"), list)

    # ------------------------------------------------------------ references, combiners, values

    def _combined(
        self, schema: dict[str, Any], combiners: list[str], types: tuple[str, ...] | None, pointer: str, depth: int
    ) -> int:
        keyword = combiners[0]
        at = f"{pointer}/{keyword}"
        if len(combiners) > 1:
            fail(f"{keyword!r} beside {combiners[1]!r} is not supported yet", f"{pointer}/{combiners[1]}")
        for key in schema:
            if key in _ENFORCED:
                fail(f"{key!r} beside {keyword!r} is not supported yet", place(pointer, key))
        if keyword in ("const", "enum"):
            return self._values([schema["const"]] if keyword == "const" else schema["enum"], types, at)
        if types is not None:
            fail(f"'type' beside {keyword!r} is not supported yet", f"{pointer}/type")
        if keyword == "$ref":
            return self._reference(schema["$ref"], at, depth)
        branches = schema[keyword]
        if not isinstance(branches, list) or not branches:
            fail(f"{keyword!r} is a list of schemas; got {shown(branches)}", at)
        if keyword == "allOf" and len(branches) > 1:
            fail("'allOf' of several schemas is not supported yet", at, "merge them into one")
        if keyword == "oneOf" and len(branches) > 1:
            self._check_disjoint(branches, at)
        if len(branches) > self.limits.alternatives:
            fail(f"{len(branches)} schemas; the limit `alternatives` is {self.limits.alternatives}", at)
        return self.builder.either([self.schema(b, f"{at}/{i}", depth + 1) for i, b in enumerate(branches)])

    def _check_disjoint(self, branches: list[Any], at: str) -> None:
        """Raises unless no value satisfies two branches, judged by their types alone."""
        seen: set[str] = set()
        for branch in branches:
            types = self._types(branch, at) if isinstance(branch, dict) else None
            if types is None:
                fail("'oneOf' is supported only where each schema has a `type` of its own", at, "use anyOf")
            wide = {"number" if kind == "integer" else kind for kind in types}
            if wide & seen:
                fail("'oneOf' is supported only where the types differ", at, "use anyOf")
            seen |= wide

    def _reference(self, reference: Any, at: str, depth: int) -> int:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            fail(f"only references into this schema are supported (#/…); got {shown(reference)}", at)
        if reference in self._open_references:
            fail(f"recursive references are not supported yet: {reference} leads back to itself", at)
        if reference not in self._by_reference:
            target = self._resolve(reference, at)
            self._open_references.append(reference)
            self._by_reference[reference] = self.schema(target, unquote(reference[1:]), depth + 1)
            self._open_references.pop()
        return self._by_reference[reference]

    def _resolve(self, reference: str, at: str) -> Any:
        target = self.root
        for part in reference.split("/")[1:]:
            if target is not self.root and isinstance(target, dict):
                self._refuse_names_on_the_way(target, reference, at)
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and name in target:
                target = target[name]
            elif isinstance(target, list) and name.isascii() and name.isdigit() and int(name) < len(target):
                target = target[int(name)]
            else:
                fail(f"nothing is at {reference}", at)
        return target

    def _refuse_names_on_the_way(self, schema: dict[str, Any], reference: str, at: str) -> None:
        """A reference inside a schema that has a name starts there, not at the root."""
        if isinstance(schema.get(self.draft.identifier), str):
            fail(f"{reference} leads through a schema with {self.draft.identifier}, which is not supported", at)

    def _values(self, values: Any, types: tuple[str, ...] | None, at: str) -> int:
        if not isinstance(values, list):
            fail(f"'enum' is a list of values; got {shown(values)}", at)
        if len(values) > self.limits.alternatives:
            fail(f"{len(values)} values; the limit `alternatives` is {self.limits.alternatives}", at)
        kept = [value for value in values if types is None or any(has_type(value, kind) for kind in types)]
        if types is not None and "integer" in types:  # in draft 4, and for many readers, 1.0 is none
            kept = [int(value) if isinstance(value, float) and value.is_integer() else value for value in kept]
        return self.builder.either([self._literal(value, at) for value in kept])

    def _literal(self, value: Any, at: str) -> int:
        separators = (self.comma, self.colon)
        try:
            text = json.dumps(value, ensure_ascii=False, separators=separators, allow_nan=False)
        except ValueError:
            fail("a number is too large for JSON", at)
        try:
            data = text.encode()
        except UnicodeEncodeError:
            fail("a string holds a lone surrogate, which is no text", at)
        return self.builder.literal(data)

    # ------------------------------------------------------------ types

    def _typed(self, kind: str, schema: dict[str, Any], pointer: str, depth: int) -> int:
        match kind:
            case "null":
                return self.builder.literal(b"null")
            case "boolean":
                return self.builder.either([self.builder.literal(b"true"), self.builder.literal(b"false")])
            case "integer":
                return build_integer(self.builder, bounds(schema, self.draft, pointer))
            case "number":
                return build_number(self.builder, bounds(schema, self.draft, pointer))
            case "string":
                low, high = counts(schema, "minLength", "maxLength", pointer)
                return build_string(self.builder, low, high)
            case "array":
                return self._array(schema, pointer, depth)
            case _:
                return self._object(schema, pointer, depth)

    def _array(self, schema: dict[str, Any], pointer: str, depth: int) -> int:
        low, high = counts(schema, "minItems", "maxItems", pointer)
        items = schema.get("items", True)
        if self._has_item_list(schema):
            prefix, at = items, f"{pointer}/items"
            item = self._rest(schema.get("additionalItems", True), f"{pointer}/additionalItems", depth)
        elif isinstance(items, list):
            hint = "use prefixItems, or name an earlier draft in $schema"
            fail(f"a list of schemas in 'items' is not of draft {self.draft.name}", f"{pointer}/items", hint)
        else:
            prefix, at = schema.get("prefixItems", []), f"{pointer}/prefixItems"
            is_free = "items" not in schema or (items is True and self.draft.has_boolean_schemas)
            item = self.schema(items, f"{pointer}/items", depth + 1) if not is_free else self._rest(True, "", depth)
        if "prefixItems" in schema and self.draft.has_item_lists:
            hint = "use a list in 'items', or another $schema"
            fail(f"'prefixItems' is not of draft {self.draft.name}", f"{pointer}/prefixItems", hint)
        if not isinstance(prefix, list):
            fail(f"'prefixItems' is a list of schemas; got {shown(prefix)}", at)
        if not prefix:
            return self._list("[", item, "]", low, high)
        first = [self.schema(value, f"{at}/{i}", depth + 1) for i, value in enumerate(prefix)]
        return self._tuple(first, item, low, high)

    def _rest(self, schema: Any, pointer: str, depth: int) -> int:
        """A value that no schema of its own speaks about. Here every draft allows true and false."""
        if isinstance(schema, bool):
            return self.free_value(FREE_DEPTH - 1) if schema else NEVER
        return self.schema(schema, pointer, depth + 1)

    def _tuple(self, first: list[int], item: int, low: int, high: int | None) -> int:
        """`low` to `high` items: those of `first` in order, then any number of `item`."""
        build = self.builder
        comma = build.literal(self.comma.encode())
        more = None if high is None else max(high - len(first), 0)
        following = build.repeat(build.sequence([comma, item]), max(low - len(first), 0), more)
        for index in range(len(first) - 1, -1, -1):  # following: what can follow once index + 1 items are written
            taken = build.sequence([comma if index else EMPTY, first[index], following])
            taken = NEVER if high is not None and index >= high else taken
            following = taken if index < low else build.either([taken, EMPTY])
        return build.sequence([build.literal(b"["), following, build.literal(b"]")])

    def _list(self, opening: str, item: int, closing: str, low: int, high: int | None) -> int:
        """`low` to `high` items with commas between, in brackets."""
        more = self.builder.sequence([self.builder.literal(self.comma.encode()), item])
        if high == 0:
            items = EMPTY if low == 0 else NEVER
        else:
            following = self.builder.repeat(more, max(low - 1, 0), None if high is None else high - 1)
            items = self.builder.sequence([item, following])
            items = self.builder.optional(items) if low == 0 else items
        return self.builder.sequence(
            [self.builder.literal(opening.encode()), items, self.builder.literal(closing.encode())]
        )

    def _object(self, schema: dict[str, Any], pointer: str, depth: int) -> int:
        properties = schema.get("properties", {})
        if not isinstance(properties, dict):
            fail(f"'properties' is an object; got {shown(properties)}", f"{pointer}/properties")
        required = schema.get("required", [])
        if not isinstance(required, list) or any(not isinstance(name, str) for name in required):
            fail(f"'required' is a list of names; got {shown(required)}", f"{pointer}/required")
        extra = schema.get("additionalProperties", True)
        if not properties and not required:
            return self._free_members(self._rest(extra, f"{pointer}/additionalProperties", depth))
        members: list[tuple[bool, int]] = []
        for name, value in properties.items():
            at = place(f"{pointer}/properties", name)
            members.append((name in required, self._member(name, self.schema(value, at, depth + 1), at)))
        for name in dict.fromkeys(required):
            if name not in properties:
                at = f"{pointer}/additionalProperties"
                members.append((True, self._member(name, self._rest(extra, at, depth), f"{pointer}/required")))
        return self._members(members)

    def _member(self, name: str, value: int, at: str) -> int:
        key = self.builder.sequence([self._literal(name, at), self.builder.literal(self.colon.encode())])
        return self.builder.sequence([key, value])

    def _members(self, members: Iterable[tuple[bool, int]]) -> int:
        """Members in order, commas between those that are there. first: what can follow when none is written yet;
        later: when one is."""
        build = self.builder
        first = later = build.literal(b"}")
        comma = build.literal(self.comma.encode())
        for is_required, member in reversed(list(members)):
            with_this, after_this = build.sequence([member, later]), build.sequence([comma, member, later])
            first = with_this if is_required else build.either([with_this, first])
            later = after_this if is_required else build.either([after_this, later])
        return build.sequence([build.literal(b"{"), first])

    def _free_members(self, value: int) -> int:
        key = build_string(self.builder, 0, None)
        member = self.builder.sequence([key, self.builder.literal(self.colon.encode()), value])
        return self._list("{", member, "}", 0, None)

    def free_value(self, nesting: int) -> int:
        """Any JSON value with at most `nesting` arrays and objects around each other."""
        for level in range(nesting + 1):
            if level not in self._free:
                kinds: list[Callable[[], int]] = [self._scalar]
                if level:
                    inner = self._free[level - 1]
                    kinds.append(lambda inner=inner: self._list("[", inner, "]", 0, None))  # type: ignore[misc]
                    kinds.append(lambda inner=inner: self._free_members(inner))  # type: ignore[misc]
                self._free[level] = self.builder.either([kind() for kind in kinds])
        return self._free[nesting]

    def _scalar(self) -> int:
        kinds = ("null", "boolean", "number", "string")
        return self.builder.either([self._typed(kind, {}, "", 0) for kind in kinds])
