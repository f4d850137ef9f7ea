"""Every keyword of JSON Schema: exactly the values that a validator accepts are in the language."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from latticework.lang.errors import InvalidArgument, SchemaError
from latticework.lang.ir import JsonSchema, constraint_key
from latticework.runtime.constrain import Automaton, Limits, compile_constraint, to_rules
from tests.runtime.constrain.oracle import accepts, byte_vocabulary

VOCABULARY = byte_vocabulary()
SCALARS: list[Any] = [None, True, False, 0, 1, 5, 1.5, -3, "", "a", "ab", "bad"]
ARRAYS: list[Any] = [[], [1], [5], [1, 5], [1, "a"], ["a", 1], [1, 1], ["a", "b", "a"], [5, 5, 5], [[], 1], [None]]
OBJECTS: list[Any] = [
    *({}, {"a": 1}, {"a": "x"}, {"b": 1}, {"a": 1, "b": 2}, {"a": 1, "b": "x"}, {"b": 1, "c": 2}, {"x_a": 1}),
    *({"x_a": "s"}, {"A": 1}, {"a": 1, "b": 2, "c": 3}, {"k": "x", "v": 1}, {"k": "y", "v": 1}, {"k": "y", "v": "s"}),
    *({"a": {"a": 1}}, {"a": {"a": {"b": 1}}}, {"a": None, "x_b": 2}, {"t": "a"}, {"t": "b"}, {"t": "a", "n": 1}),
]
VALUES = [*SCALARS, *ARRAYS, *OBJECTS]


def compiled(schema: Any, **options: Any) -> Automaton:
    return compile_constraint(JsonSchema(schema, **options), VOCABULARY)


def text(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def integer(**more: Any) -> dict[str, Any]:
    return {"type": "integer", **more}


PAIR = {"properties": {"a": integer(), "b": integer()}}
X = {"properties": {"k": {"const": "x"}, "v": integer()}, "required": ["k", "v"], "additionalProperties": False}
Y = {"properties": {"k": {"const": "y"}, "v": {"type": "string"}}, "required": ["k", "v"]}
SCHEMAS: list[Any] = [
    {"not": {"type": "string"}},
    {"not": {"type": ["array", "object", "null"]}},
    {"not": {"type": "integer"}},
    {"type": "string", "not": {"const": "bad"}},
    {"type": "integer", "not": {"enum": [1, 2, "a"]}},
    {"not": {"enum": [None, 0, "a", [1], {"a": 1}]}},
    {"not": {"const": {"a": 1, "b": 2}}},
    {"not": {"const": [1, 5]}},
    {"not": {"const": 1.0}},
    {"const": 1.0},
    {"enum": [1.5, {"b": 1}, [5], False]},
    {"not": {"minLength": 2}},
    {"not": {"minimum": 1, "maximum": 4}},
    {"not": {"multipleOf": 5}},
    {"not": {"pattern": "^a"}},
    {"not": {"required": ["a"]}},
    {"not": {"required": ["a", "b"], "properties": {"a": integer()}}},
    {"not": PAIR},
    {"not": {"additionalProperties": integer()}},
    {"not": {"additionalProperties": False, "properties": {"a": True}}},
    {"not": {"patternProperties": {"^x_": integer()}}},
    {"not": {"propertyNames": {"maxLength": 1}}},
    {"not": {"minProperties": 1}},
    {"not": {"maxProperties": 1}},
    {"not": {"items": integer()}},
    {"not": {"prefixItems": [integer(), {"type": "string"}]}},
    {"not": {"prefixItems": [integer()], "items": False}},
    {"not": {"contains": {"const": 5}}},
    {"not": {"contains": {"const": 5}, "minContains": 2, "maxContains": 2}},
    {"not": {"minItems": 1, "maxItems": 1}},
    {"not": {"allOf": [{"required": ["a"]}, {"required": ["b"]}]}},
    {"not": {"anyOf": [{"required": ["a"]}, {"type": "array"}]}},
    {"not": {"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}},
    {"not": {"if": {"required": ["a"]}, "then": {"required": ["b"]}, "else": {"type": "array"}}},
    {"not": {"dependentRequired": {"a": ["b"]}}},
    {"not": {"dependentSchemas": {"a": {"maxProperties": 1}}}},
    {"not": {"not": {"type": "integer"}}},
    {"not": {"properties": {"a": True}, "unevaluatedProperties": False}},
    {"not": {"prefixItems": [True], "unevaluatedItems": {"type": "string"}}},
    {"oneOf": [integer(minimum=0), integer(maximum=3)]},
    {"oneOf": [{"type": "number"}, integer()]},
    {"oneOf": [X, Y]},
    {"oneOf": [{"required": ["a"]}, {"required": ["b"]}, {"required": ["c"]}]},
    {"oneOf": [{"type": "object"}, {"type": "object", **PAIR, "required": ["a"]}, {"minItems": 1}]},
    {"anyOf": [{"required": ["a"]}, {"required": ["b"]}], **PAIR, "additionalProperties": False},
    {"anyOf": [{"type": "string", "maxLength": 1}, integer(minimum=3), {"type": "array", "maxItems": 1}]},
    {"allOf": [{**PAIR, "required": ["a"]}, {"properties": {"b": {"minimum": 2}}}, {"maxProperties": 2}]},
    {"allOf": [integer(minimum=1), integer(maximum=3)], "not": {"const": 1}},
    {"allOf": [{"prefixItems": [integer()]}, {"items": {"type": ["integer", "string"]}}, {"maxItems": 2}]},
    {"if": {"properties": {"t": {"const": "a"}}, "required": ["t"]}, "then": {"required": ["n"]}, "type": "object"},
    {"if": {"type": "array"}, "then": {"minItems": 2}, "else": {"type": "object"}},
    {"if": True, "then": {"type": "array"}},
    {"else": {"type": "array"}, "then": {"type": "null"}},
    {"dependentRequired": {"a": ["b"], "b": ["a"]}, "type": "object"},
    {"dependentSchemas": {"a": {"properties": {"b": integer(minimum=2)}, "required": ["b"]}}},
    {"dependentSchemas": {"a": False}},
    {"contains": {"const": 5}, "type": "array"},
    {"contains": integer(), "minContains": 2, "type": "array"},
    {"contains": {"const": 5}, "minContains": 0, "maxContains": 1, "type": "array"},
    {"contains": {"const": 5}, "allOf": [{"contains": {"const": 1}}], "type": "array"},
    {"prefixItems": [integer(), {"type": "string"}], "items": False},
    {"prefixItems": [True], "items": integer()},
    {"items": False, "minItems": 0},
    {"uniqueItems": True, "items": {"type": ["integer", "string"]}},
    {"uniqueItems": True, "items": {"type": "object", "properties": {"a": {"enum": [1, 2]}}}},
    {"uniqueItems": True, "minItems": 2, "items": {"type": ["array", "object"]}},
    {"patternProperties": {"^x_": integer(), "a": {"not": {"type": "string"}}}, "additionalProperties": False},
    {"patternProperties": {"a": integer()}, "additionalProperties": {"type": "string"}, "type": "object"},
    {"propertyNames": {"pattern": "^[a-z]$"}, "type": "object"},
    {"propertyNames": {"enum": ["a", "b"]}, "required": ["b"]},
    {"propertyNames": False},
    {"minProperties": 1, "maxProperties": 2, "properties": {"a": True, "b": True}, "type": "object"},
    {"required": ["c", "b"], "type": "object"},
    {"properties": {"a": False}, "type": "object"},
    {"properties": {"a": integer()}, "allOf": [{"properties": {"b": integer()}}], "unevaluatedProperties": False},
    {
        "type": "object",
        "properties": {"a": True},
        "anyOf": [{"properties": {"b": integer()}, "required": ["b"]}, {"properties": {"c": True}, "required": ["c"]}],
        "unevaluatedProperties": False,
    },
    {
        "type": "object",
        "oneOf": [X, {"properties": {"a": integer()}, "required": ["a"]}],
        "unevaluatedProperties": {"type": "string"},
    },
    {
        "type": "object",
        "if": {"properties": {"t": {"const": "a"}}, "required": ["t"]},
        "then": {"properties": {"n": True}},
        "else": {"patternProperties": {"^[a-c]$": True}},
        "unevaluatedProperties": False,
    },
    {"dependentSchemas": {"a": {"properties": {"b": True}}}, "properties": {"a": True}, "unevaluatedProperties": False},
    {"$ref": "#/$defs/a", "unevaluatedProperties": False, "$defs": {"a": PAIR}},
    {"prefixItems": [integer()], "unevaluatedItems": False},
    {"anyOf": [{"prefixItems": [integer(), True]}, {"prefixItems": [{"type": "string"}]}], "unevaluatedItems": False},
    {"contains": {"type": "string"}, "unevaluatedItems": integer()},
    {"$ref": "#/$defs/a", "maximum": 3, "$defs": {"a": integer(minimum=1)}},
    {"$defs": {"n": {"properties": {"a": {"$ref": "#/$defs/n"}}, "type": "object", "additionalProperties": False}},
     "$ref": "#/$defs/n"},
    {"type": ["object", "null"], "properties": {"a": {"$ref": "#"}}},
    {"$id": "https://example.org/root", "items": {"$ref": "item"}, "$defs": {"i": {"$id": "item", **integer()}}},
    {"$id": "https://example.org/root", "items": {"$ref": "/root#i"}, "$defs": {"i": {"$anchor": "i", **integer()}}},
    {
        "$id": "https://example.org/strict",
        "$dynamicAnchor": "node",
        "$ref": "tree",
        "unevaluatedProperties": False,
        "$defs": {
            "tree": {
                "$id": "tree",
                "$dynamicAnchor": "node",
                "type": "object",
                "properties": {"a": {"$dynamicRef": "#node"}, "b": True},
            }
        },
    },
    {
        "$schema": "https://json-schema.org/draft/2019-09/schema",
        "$id": "https://example.org/strict",
        "$recursiveAnchor": True,
        "$ref": "tree",
        "unevaluatedProperties": False,
        "$defs": {
            "tree": {
                "$id": "tree",
                "$recursiveAnchor": True,
                "type": "object",
                "properties": {"a": {"$recursiveRef": "#"}, "b": True},
            }
        },
    },
    {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "dependencies": {"a": ["b"], "b": {"maxProperties": 2}},
        "definitions": {"i": {"$id": "#i", **integer()}},
        "properties": {"c": {"$ref": "#i", "minimum": 100}},
    },
    {"$schema": "http://json-schema.org/draft-04/schema#", "type": "object", "properties": {"a": {"type": "integer"}}},
    {"$schema": "http://json-schema.org/draft-04/schema#", "const": 7, "if": {}, "contains": {"type": "null"}},
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:70])
def test_exactly_the_valid_values_are_in_the_language(schema: Any) -> None:
    validator = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)(schema)
    automaton = compiled(schema, key_order="any")
    for value in VALUES:
        assert accepts(automaton, text(value)) == validator.is_valid(value), value


@pytest.mark.parametrize(
    "draft", ["http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2020-12/schema"]
)
def test_the_schema_of_a_draft_is_known(draft: str) -> None:
    automaton = compiled({"$ref": draft}, key_order="any")
    good: list[Any] = [
        {},
        {"type": "integer", "minimum": 3},
        {"properties": {"a": {"enum": [1]}}},
        {"anyOf": [{}, True]},
    ]
    bad: list[Any] = [
        [],
        {"type": "int"},
        {"properties": {"a": {"minLength": -1}}},
        {"anyOf": []},
        {"items": {"not": 1}},
    ]
    for value in good:
        assert accepts(automaton, text(value)), value
    for value in bad:
        assert not accepts(automaton, text(value)), value


@pytest.mark.parametrize("schema", SCHEMAS[:30:3], ids=lambda schema: json.dumps(schema)[:70])
def test_the_opposite_of_the_opposite_is_the_schema(schema: Any) -> None:
    once, twice = compiled(schema, key_order="any"), compiled({"not": {"not": schema}}, key_order="any")
    for value in VALUES:
        assert accepts(once, text(value)) == accepts(twice, text(value)), value


# ---------------------------------------------------------------- layout

VALUE = {"a": [1, {"b": []}, "x"], "c": {}}
LOOSE = '{ "a" :\n[1\t, {"b":[ ]},"x" ] , "c":{\r\n} }'


def test_flexible_whitespace_takes_every_layout_and_is_bounded() -> None:
    automaton = compiled({"type": "object"}, whitespace="flexible")
    for layout in ({"separators": (",", ":")}, {}, {"indent": 3}):
        assert accepts(automaton, json.dumps(VALUE, **layout).encode())
    assert accepts(automaton, LOOSE.encode())
    assert accepts(automaton, b"{" + b" " * 20 + b"}")
    assert not accepts(automaton, b"{" + b" " * 21 + b"}")


@pytest.mark.parametrize("indent", [0, 2])
def test_indented_text_is_what_json_dumps_writes(indent: int) -> None:
    automaton = compiled({"type": "object"}, whitespace=indent)
    assert accepts(automaton, json.dumps(VALUE, indent=indent).encode())
    assert not accepts(automaton, json.dumps(VALUE).encode())
    recursive = {"type": "array", "items": {"$ref": "#"}}
    assert accepts(compiled(recursive, whitespace=indent), json.dumps([[[]], []], indent=indent).encode())


def test_whole_numbers_with_a_point_come_only_where_anything_that_is_json_does() -> None:
    for schema in (integer(), {"const": 3}, {"enum": [3, 4]}, integer(multipleOf=3)):
        for number, has_point in (("3", False), ("3.0", True)):
            assert accepts(compiled(schema, whitespace="flexible"), number.encode())
            assert accepts(compiled(schema), number.encode()) != has_point
    draft_4 = {"$schema": "http://json-schema.org/draft-04/schema#", "type": "integer"}
    assert not accepts(compiled(draft_4, whitespace="flexible"), b"3.0")


def test_listed_keys_come_in_order_or_in_any() -> None:
    schema = {"properties": {"a": True, "b": True}, "required": ["c"], "type": "object"}
    for keys, is_ordered in (("abc", True), ("acb", False), ("bac", False), ("cab", False), ("xaybcz", True)):
        data = text(dict.fromkeys(keys, 1))
        assert accepts(compiled(schema), data) == is_ordered
        assert accepts(compiled(schema, key_order="any"), data)
    for order in ("schema", "any"):
        assert not accepts(compiled(schema, key_order=order), b'{"c":1,"x":1,"x":2}')
        assert not accepts(compiled(schema, key_order=order), b'{"a":1,"c":1,"c":2}')


def test_properties_of_what_is_put_together_come_in_the_order_of_the_keywords() -> None:
    own, other = {"properties": {"a": True}}, {"allOf": [{"properties": {"b": True}}]}
    for schema, first, then in (({**own, **other}, "a", "b"), ({**other, **own}, "b", "a")):
        automaton = compiled({"type": "object", **schema})
        assert accepts(automaton, text({first: 1, then: 1}))
        assert not accepts(automaton, text({then: 1, first: 1}))


def test_formats_are_assertions_or_say_nothing() -> None:
    schema = {"type": "string", "format": "date"}
    assert accepts(compiled(schema), b'"2024-02-29"')
    assert not accepts(compiled(schema), b'"2023-02-29"')
    assert accepts(compiled(schema, formats="annotate"), b'"2023-02-29"')
    assert accepts(compiled({"type": "string", "format": "unheard-of"}), b'"x"')


@pytest.mark.parametrize("options", [{"whitespace": "wide"}, {"whitespace": True}, {"whitespace": 99}, {"formats": ""}])
def test_an_option_that_does_not_exist_is_refused(options: Any) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(options))):
        JsonSchema({}, **options)


def test_options_are_part_of_the_identity() -> None:
    keys = {constraint_key(JsonSchema({}, **options)) for options in ({}, {"whitespace": 2}, {"key_order": "any"})}
    assert len(keys) == 3
    assert constraint_key(JsonSchema({})) == constraint_key(JsonSchema({}, whitespace="compact", formats="assert"))


# ---------------------------------------------------------------- size


def test_discriminated_schemas_stay_as_many_as_they_are() -> None:
    branches = [
        {"type": "object", "properties": {"kind": {"const": f"k{n}"}, f"v{n}": integer()}, "required": ["kind"]}
        for n in range(40)
    ]
    rules = to_rules(JsonSchema({"oneOf": branches}))
    assert len(rules.nodes) < 1500
    assert len(to_rules(JsonSchema({"not": {"oneOf": branches}})).nodes) < 10_000


def test_cases_that_multiply_are_refused_with_the_keyword() -> None:
    pairs = [{"anyOf": [{"required": [f"a{n}"]}, {"required": [f"b{n}"]}]} for n in range(16)]
    with pytest.raises(SchemaError, match="cases") as caught:
        to_rules(JsonSchema({"allOf": pairs}))
    assert caught.value.pointer == "/allOf"


def test_deep_nests_of_alternatives_end_within_the_limits() -> None:
    schema: Any = integer()
    for depth in range(100):
        schema = {"oneOf": [schema, {"type": "object", "required": [f"a{depth}"]}]}
    try:
        to_rules(JsonSchema(schema), Limits(seconds=5))
    except SchemaError as error:
        assert error.pointer  # noqa: PT017


def test_a_schema_that_no_value_can_end_is_refused() -> None:
    for schema in (
        {"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}},
        {"type": "array", "minItems": 1, "items": {"$ref": "#"}},
        {"allOf": [{"type": "string"}, integer()]},
        {"const": 1, "not": {"const": 1.0}},
        {"oneOf": [True, True]},
    ):
        with pytest.raises(SchemaError, match="no JSON value"):
            to_rules(JsonSchema(schema))
