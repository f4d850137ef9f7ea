from __future__ import annotations

import enum
import json
import math
import random
from decimal import Decimal
from typing import Any, Literal

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from latticework.lang.errors import ConstraintError, SchemaError
from latticework.lang.ir import JsonSchema
from latticework.runtime.constrain import Automaton, Limits, compile_constraint, to_rules
from tests.runtime.constrain.oracle import accepts, byte_vocabulary, walk

VOCABULARY = byte_vocabulary(
    b'":', b'","', b'{"', b"}}", b"true", b"null", b"12", b"0.", b"\xc3\xa9", b"\xf0\x9f", b"\\u00", b"name", b'": "'
)


def compiled(schema: Any, whitespace: Literal["compact", "spaced"] = "compact") -> Automaton:
    return compile_constraint(JsonSchema(schema, whitespace), VOCABULARY)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Address(BaseModel):
    street: str = Field(max_length=30, description="with the number")
    zip: int = Field(ge=0, lt=100_000)


class Person(BaseModel):
    """A person."""

    name: str
    age: int | None = Field(default=None, ge=0, le=150)
    colour: Colour
    kind: Literal["a", "b"] = "a"
    one: Literal["only"] = "only"
    home: Address
    others: list[Address] = Field(default_factory=list, max_length=2)
    score: float = Field(gt=0, lt=1, default=0.5)
    notes: dict[str, int] = {}
    anything: Any = None
    union: int | str | None = None


SCHEMAS: list[Any] = [
    Person.model_json_schema(),
    {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}, "c": {}}, "required": ["b"]},
    {"type": "object", "properties": {"a": {"type": "boolean"}, "b": False}, "required": []},
    {"type": "object", "required": ["x", "y"], "additionalProperties": {"type": "integer"}},
    {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "null"}}},
    {"type": "object", "additionalProperties": False},
    {"type": "array", "items": {"type": "string", "maxLength": 5}, "minItems": 1, "maxItems": 3},
    {"type": "array", "items": False},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}], "items": {"const": 0}, "minItems": 1},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}], "minItems": 2, "maxItems": 2},
    {"type": "array", "items": {"$ref": "#/$defs/p~1q%25"}, "$defs": {"p/q%": {"type": "integer", "maximum": -3}}},
    {"type": ["string", "null", "number"], "minLength": 2, "maxLength": 4, "minimum": 1.5, "maximum": 1.75},
    {"type": "number"},
    {"type": "number", "exclusiveMinimum": 0.1, "exclusiveMaximum": 0.2},
    {"type": "number", "minimum": 0},
    {"type": "number", "maximum": -0.5},
    {"type": "integer"},
    {"type": "integer", "minimum": -1.5, "exclusiveMaximum": 12.0},
    {"type": "integer", "exclusiveMinimum": 10**16},
    {"minLength": 1},
    {"properties": {"a": {"maxLength": 3}}, "minItems": 2},
    {"enum": [1, "é\n", {"k": [1.5, None]}, [], True], "title": "mixed", "x-note": 3},
    {"type": "integer", "enum": [1, 1.0, True, "1", 2.5]},
    {"const": {"a": "b"}},
    {"anyOf": [{"type": "integer", "minimum": 3}, {"type": "string", "maxLength": 2}, {"const": None}]},
    {"oneOf": [{"type": "integer", "minimum": 3}, {"type": ["string", "null"]}, {"type": "array"}]},
    {"allOf": [{"type": "string", "maxLength": 2}]},
    {"type": "string", "format": "unheard-of", "contentEncoding": "base64"},
    {"type": "string", "minimum": 3, "pattern": "x"} | {"type": "integer"},
    True,
    {},
    {"definitions": {"unused": {"not": {}}}, "type": "null"},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:60])
@pytest.mark.parametrize("whitespace", ["compact", "spaced"])
def test_every_walk_is_json_that_a_validator_accepts(schema: Any, whitespace: Literal["compact", "spaced"]) -> None:
    automaton = compiled(schema, whitespace)
    rng = random.Random(11)
    for spare in (0, 2, 9, 40):
        text = walk(automaton, automaton.matcher().shortest() + spare, rng).decode()
        value = json.loads(text)
        jsonschema.validate(value, schema, cls=jsonschema.Draft202012Validator)
        if isinstance(value, float):
            assert math.isfinite(value)
        if not isinstance(value, str):
            assert "\n" not in text


def test_a_pydantic_model_validates_what_its_schema_gives() -> None:
    automaton = compiled(Person.model_json_schema())
    rng = random.Random(2)
    for _ in range(10):
        text = walk(automaton, automaton.matcher().shortest() + 60, rng)
        assert isinstance(Person.model_validate_json(text), Person)


TEXTS = [
    (
        {"type": "string"},
        ['""', '"a"', '"\\né😀"', '"\\"\\\\"', '"\\u001f"', '"\x7f"'],
        ['"', '"\n"', '"\\ud83d\\ude00"', '"\\u00e9"', '"\\u001F"', '"\\/"', '"\\x"', '"\\u12"', "'a'", ' "a"'],
    ),
    (
        {"type": "string", "minLength": 2, "maxLength": 3},
        ['"ab"', '"é😀中"', '"\\n\\"\\u0000"'],
        ['"a"', '"abcd"', '"\\n"', '"😀"'],
    ),
    (
        {"type": "integer"},
        ["0", "-1", "1" * 60],
        ["-0", "01", "1.0", "1e3", "+1", "-", "", "1" * 61],
    ),
    (
        {"type": "number"},
        ["0", "-0.5", "1e10", "1.25E-7", "-0", "12.0", "1.5e+300"],
        ["01", ".5", "5.", "1e", "1e400", "NaN", "--1"],
    ),
    (
        {"type": "number", "minimum": 0, "maximum": 1},
        ["0", "1", "0.0", "1.00", "0.5", "0.99999999999999", "1e-07", "-0.0"],
        ["-0.1", "1.01", "2", "1e0", "-0", "1e+16", "-1e-07"],
    ),
    (
        {"type": "number", "exclusiveMinimum": 0, "maximum": 0.25},
        ["0.1", "0.25", "0.250", "0.00000000000001"],
        ["0", "0.0", "0.251", "0.2500000001", "1"],
    ),
    (
        {"type": "number", "minimum": -1.5, "maximum": -1.25},
        ["-1.5", "-1.25", "-1.3", "-1.250"],
        ["-1.2", "-1.6", "-1", "1.3", "-1.24999"],
    ),
    ({"type": "number", "minimum": 2.5, "maximum": 2.5}, ["2.5"], ["2", "2.51", "3"]),
    ({"type": "boolean"}, ["true", "false"], ["True", "1", "null"]),
    ({"type": "array", "maxItems": 0}, ["[]"], ["[1]", "[ ]"]),
    (
        {"type": "array", "items": {"type": "null"}, "minItems": 2},
        ["[null,null]", "[null,null,null]"],
        ["[null]", "[]", "[null,null,]", "[null, null]"],
    ),
    (
        {"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}}, "required": ["b"]},
        ['{"a":null,"b":null}', '{"b":null}', '{"b":null,"c":1}', '{"d":[],"a":null,"c":1,"b":null,"ab":2}'],
        [
            "{}",
            '{"a":null}',
            '{"b":null,"a":null}',
            '{"b":null,"b":null}',
            '{"c":1,"b":null,"c":1}',
            '{"a":1,"b":null}',
        ],
    ),
    ({"type": "object"}, ["{}", '{"a":[{"b":1}],"c":{}}'], ["[]", "{a:1}", '{"a":1,}']),
    ({"type": "object", "properties": {'q"\\é': {"const": 1}}}, ['{"q\\"\\\\é":1}', "{}"], []),
]


@pytest.mark.parametrize(("schema", "yes", "no"), TEXTS, ids=lambda value: json.dumps(value)[:50])
def test_texts_that_are_and_are_not_in_the_language(schema: Any, yes: list[str], no: list[str]) -> None:
    automaton = compiled(schema)
    for text in yes:
        jsonschema.validate(json.loads(text), schema)
        assert accepts(automaton, text.encode()), text
    for text in no:
        assert not accepts(automaton, text.encode()), text


def test_spaced_text_is_what_json_dumps_writes() -> None:
    value = {"a": [1, 2, {"b": None}], "c": "x, y: z"}
    text = json.dumps(value).encode()
    assert accepts(compiled(True, "spaced"), text)
    assert not accepts(compiled(True), text)
    assert accepts(compiled({"const": value}, "spaced"), text)


def test_properties_keep_the_order_of_the_schema() -> None:
    one, other = {"type": "integer"}, {"type": "null"}
    required = ["a", "b"]
    closed = {"type": "object", "required": required, "additionalProperties": False}
    forward = compiled({**closed, "properties": {"a": one, "b": other}})
    backward = compiled({**closed, "properties": {"b": other, "a": one}})
    assert accepts(forward, b'{"a":1,"b":null}')
    assert accepts(backward, b'{"b":null,"a":1}')
    assert not accepts(forward, b'{"b":null,"a":1}')
    assert forward.matcher().forced() == b'{"a":'


# ---------------------------------------------------------------- numbers against decimal comparison

BOUND = st.one_of(
    st.integers(-130, 130),
    st.integers(-(10**17), 10**17),
    st.decimals(-50, 50, places=3).map(float),
    st.floats(-1e6, 1e6, allow_nan=False),
    st.sampled_from([0.1, 0.30000000000000004, 1e-9, 5e-324, 1e20, -1e15, 9007199254740993]),
)


@settings(max_examples=120, deadline=None)
@given(BOUND, BOUND, st.booleans(), st.booleans(), st.sampled_from(["both", "low", "high"]), st.integers(0, 999))
@example(0.30000000000000004, 1, True, False, "both", 0)
def test_bounded_numbers_are_exactly_those_within_the_bounds(
    low: float, high: float, low_exclusive: bool, high_exclusive: bool, sides: str, seed: int
) -> None:
    schema: dict[str, Any] = {"type": "number"}
    if sides != "high":
        schema["exclusiveMinimum" if low_exclusive else "minimum"] = low
    if sides != "low":
        schema["exclusiveMaximum" if high_exclusive else "maximum"] = high
    validator = jsonschema.Draft202012Validator(schema)
    rng = random.Random(seed)
    near = [Decimal(repr(bound)) for bound in (low, high)]
    texts = set()
    for bound in near:
        for places in (0, 1, 3, 6):
            unit = Decimal(1).scaleb(-places)
            texts |= {f"{(bound + step * unit).quantize(unit):f}" for step in range(-2, 3) if abs(bound) < 10**12}
    texts |= {f"{rng.uniform(-200, 200):.{rng.randint(1, 5)}f}" for _ in range(5)}
    texts -= {text for text in texts if float(text) == 0 and text.startswith("-")}
    try:
        automaton = compiled(schema)
    except SchemaError as error:
        if "no JSON value" not in str(error):
            raise
        assert not any(validator.is_valid(json.loads(text)) for text in texts)
        return
    is_point = "minimum" in schema and schema["minimum"] == schema.get("maximum")  # which is written in one way
    for text in () if is_point else texts:
        whole = len(text.lstrip("-").partition(".")[0])
        most = max(len(str(int(abs(bound)))) for bound in near)
        if max(whole, most) <= 8 or not validator.is_valid(json.loads(text)):
            assert accepts(automaton, text.encode()) == validator.is_valid(json.loads(text)), text
    for _ in range(3):
        text = walk(automaton, automaton.matcher().shortest() + rng.randint(0, 18), rng).decode()
        assert validator.is_valid(json.loads(text)), text


HUGE_BOUND = st.one_of(
    st.integers(-(10**40), 10**40),
    st.floats(-1e30, 1e30, allow_nan=False),
    st.floats(-1e299, 1e299, allow_nan=False),
    st.integers(-200, 200).map(lambda power: (-1 if power < 0 else 1) * 2.0 ** abs(power)),
    st.sampled_from([1.8446744073709552e19, 1e23, -(2.0**63), 2.0**53, -(2.0**53), 2.0**53 - 1, 9007199254740993]),
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["integer", "number"]),
    st.lists(st.sampled_from(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]), min_size=1, max_size=3),
    st.lists(HUGE_BOUND | BOUND, min_size=3, max_size=3),
    st.integers(0, 999),
)
@example("integer", ["maximum"], [1.8446744073709552e19, 0, 0], 1)
@example("number", ["exclusiveMinimum"], [1e23, 0, 0], 1)
@example("integer", ["minimum"], [-(2.0**63), 0, 0], 1)
def test_no_number_is_on_the_wrong_side_of_a_huge_bound(
    kind: str, keys: list[str], bounds: list[Any], seed: int
) -> None:
    schema = {"type": kind, **dict(zip(keys, bounds, strict=False))}
    validator = jsonschema.Draft202012Validator(schema)
    try:
        automaton = compiled(schema)
    except SchemaError as error:
        assert "no JSON value" in str(error)  # noqa: PT017
        return
    rng = random.Random(seed)
    texts = [walk(automaton, automaton.matcher().shortest() + rng.randint(0, 40), rng, 0.05) for _ in range(3)]
    for bound in bounds:
        near = (int(bound), *(int(math.nextafter(bound, side)) for side in (-math.inf, math.inf)))
        numbers = {number + step for number in near for step in (-1, 0, 1)} | {int(Decimal(repr(bound)))}
        texts += [str(n).encode() for n in numbers if accepts(automaton, str(n).encode())]
    for text in texts:
        assert validator.is_valid(json.loads(text)), text


def test_a_huge_float_bound_is_the_double_and_not_its_shortest_decimal() -> None:
    automaton = compiled({"type": "integer", "maximum": 1.8446744073709552e19})
    assert accepts(automaton, b"18446744073709551616")
    assert not accepts(automaton, b"18446744073709551617")
    assert not accepts(automaton, b"18446744073709551999")


@settings(max_examples=120, deadline=None)
@given(st.integers(-2000, 2000), st.integers(0, 1500), st.integers(0, 9))
def test_bounded_integers_are_exactly_those_within_the_bounds(low: int, size: int, seed: int) -> None:
    automaton = compiled({"type": "integer", "minimum": low, "maximum": low + size})
    rng = random.Random(seed)
    for number in {
        low - 1,
        low,
        low + 1,
        low + size,
        low + size + 1,
        0,
        *(rng.randint(-4000, 4000) for _ in range(30)),
    }:
        assert accepts(automaton, str(number).encode()) == (low <= number <= low + size), number


# ---------------------------------------------------------------- drafts

DRAFTS: list[Any] = [
    jsonschema.Draft4Validator,
    jsonschema.Draft6Validator,
    jsonschema.Draft7Validator,
    jsonschema.Draft201909Validator,
    jsonschema.Draft202012Validator,
]
OF_SOME_DRAFT: list[dict[str, Any]] = [
    {"type": "array", "items": [{"type": "integer"}, {"type": "null"}], "minItems": 3, "maxItems": 4},
    {"type": "array", "items": [{"const": 1}], "additionalItems": {"type": "null"}, "minItems": 2},
    {"type": "array", "items": [{"type": "integer"}, {"type": "null"}], "additionalItems": False},
    {"type": "array", "items": [{}], "additionalItems": True, "minItems": 2},
    {"type": "array", "items": {"type": "null"}, "additionalItems": False, "minItems": 1},
    {"type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "null"}, "minItems": 2},
    {"type": "array", "prefixItems": [{"type": "integer"}], "items": [{"type": "null"}], "minItems": 2},
    {"type": "array", "items": True},
    {"type": "array", "items": False},
    {"type": "object", "properties": {"a": True}, "additionalProperties": False},
    {"type": "object", "required": ["a"], "additionalProperties": True},
    {"type": "integer", "minimum": 3, "exclusiveMinimum": True, "maximum": 4},
    {"type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": 0.25, "exclusiveMaximum": True},
    {"type": "integer", "minimum": 3, "exclusiveMinimum": False, "maximum": 3},
    {"type": "integer", "exclusiveMaximum": True},
    {"type": "integer", "minimum": 5, "exclusiveMinimum": 3, "maximum": 5},
    {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5},
    {"type": "integer", "enum": [1.0, -0.0, 1e22]},
    {"type": ["integer", "string"], "const": 3.0},
    {"type": ["integer", "number"], "enum": [1.0, 2.5]},
    {"type": "integer"},
    {"type": "number", "minimum": 1, "maximum": 2},
    {"definitions": {"a": {"type": "integer"}}, "items": {"$ref": "#/definitions/a"}, "minItems": 1},
    {"definitions": {"a": {"type": "null"}}, "$ref": "#/definitions/a"},
    {"definitions": {"a": {"type": "null"}}, "$ref": "#/definitions/a", "maxLength": 0},
    {"type": "object", "dependencies": {"a": ["b"]}, "properties": {"a": {}, "b": {}}},
    {"type": "object", "dependentRequired": {"a": ["b"]}, "properties": {"a": {}, "b": {}}},
    {"if": {"type": "integer"}, "then": {"minimum": 3}},
    {"type": "array", "items": {"id": "#x", "type": "integer"}},
    {"properties": {"id": {"type": "string"}, "$id": {"type": "integer"}}, "required": ["id"]},
]


@pytest.mark.parametrize("cls", DRAFTS, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("schema", OF_SOME_DRAFT, ids=lambda schema: json.dumps(schema)[:60])
def test_the_validator_of_the_draft_accepts_every_walk_or_the_schema_is_refused(schema: Any, cls: Any) -> None:
    schema = {"$schema": cls.META_SCHEMA["$schema"], **schema}
    try:
        automaton = compiled(schema)
    except SchemaError as error:
        assert error.pointer  # noqa: PT017
        return
    rng = random.Random(5)
    for _ in range(12):
        text = walk(automaton, automaton.matcher().shortest() + 12, rng, 0.15)
        cls(schema).validate(json.loads(text))


DRAFT_4, DRAFT_7 = "http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-07/schema"


@pytest.mark.parametrize(
    ("schema", "yes", "no"),
    [
        ({"$schema": DRAFT_4, "type": "integer", "minimum": 3, "exclusiveMinimum": True}, ["4"], ["3", "4.0"]),
        ({"$schema": DRAFT_4, "type": "integer", "enum": [1.0]}, ["1"], ["1.0"]),
        ({"$schema": DRAFT_7, "type": "array", "items": [{"type": "null"}]}, ["[null,1]", "[]"], ["[1]"]),
        (
            {"$schema": DRAFT_7, "type": "array", "items": [{"type": "null"}], "additionalItems": False},
            ["[null]", "[]"],
            ["[null,null]"],
        ),
        ({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "null"}, ["null"], []),
    ],
)
def test_a_keyword_means_what_it_does_in_the_draft(schema: Any, yes: list[str], no: list[str]) -> None:
    automaton = compiled(schema)
    assert all(accepts(automaton, text.encode()) for text in yes)
    assert not any(accepts(automaton, text.encode()) for text in no)


@pytest.mark.parametrize(
    ("schema", "pointer", "message"),
    [
        ({"$schema": "https://example.org/mine"}, "/$schema", "unknown draft"),
        ({"$schema": "http://json-schema.org/draft-03/schema#"}, "/$schema", "unknown draft"),
        ({"$schema": 7}, "/$schema", "unknown draft"),
        ({"items": {"$schema": "urn:mine"}}, "/items/$schema", "unknown draft"),
        ({"$schema": DRAFT_7, "type": "integer", "exclusiveMinimum": True}, "/exclusiveMinimum", "is a number"),
        ({"$schema": DRAFT_4, "type": "integer", "exclusiveMinimum": 3}, "/exclusiveMinimum", "true or false"),
        ({"$schema": DRAFT_4, "properties": {"a": True}}, "/properties/a", "an object in draft 4"),
        ({"$schema": DRAFT_4, "items": True}, "/items", "an object in draft 4"),
        (
            {"$ref": "#/$defs/a/$defs/b", "$defs": {"a": {"$id": "x", "$defs": {"b": {"$ref": "#/$defs/c"}}}}},
            "/$defs/a/$defs/b/$ref",
            "nothing is at",
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_is_not_of_the_draft_is_refused_with_its_pointer(schema: Any, pointer: str, message: str) -> None:
    with pytest.raises(SchemaError, match=message) as caught:
        to_rules(JsonSchema(schema))
    assert caught.value.pointer == pointer


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("schema", "pointer", "message"),
    [
        ({"type": "string", "pattern": r"(a)\1"}, "/pattern", "backreference"),
        ({"type": "string", "pattern": 3}, "/pattern", "a pattern is a string"),
        ({"type": "string", "pattern": "("}, "/pattern", r"at /pattern"),
        ({"type": "integer", "multipleOf": 0}, "/multipleOf", "above 0"),
        ({"type": "number", "multipleOf": 0.123456789}, "", "multipleOf is not supported here"),
        ({"type": "array", "uniqueItems": 1}, "/uniqueItems", "true or false"),
        ({"not": {"uniqueItems": True}}, "", "no JSON value"),
        ({"items": {"$ref": "http://json-schema.org/draft-99/schema"}}, "/items/$ref", "only references"),
        ({"type": "array", "prefixItems": {}}, "/prefixItems", "prefixItems"),
        ({"type": "object", "properties": {"a/b": {"not": 3}}}, "/properties/a~1b/not", "a schema is"),
        ({"type": "array", "contains": {}, "minContains": -1}, "/minContains", "whole number"),
        ({"type": "array", "items": [{}, {}]}, "/items", "not of draft 2020-12"),
        ({"type": "object", "dependentRequired": {"a": 1}}, "/dependentRequired/a", "lists of names"),
        (
            {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}},
            "/$defs/a/anyOf/0/$ref",
            "itself",
        ),
        ({"$ref": "#"}, "/$ref", "leads back to itself"),
        ({"$ref": "https://example.org/s"}, "/$ref", "only references into this schema"),
        ({"$ref": "#/$defs/b", "$defs": {}}, "/$ref", "nothing is at"),
        ({"$ref": "#b"}, "/$ref", "nothing is named"),
        ({"$ref": 3}, "/$ref", "is a string"),
        ({"type": "text"}, "/type", "unknown type"),
        ({"type": []}, "/type", "unknown type"),
        ({"type": [3]}, "/type", "a type is a string"),
        ({"type": "string", "maxLength": -1}, "/maxLength", "whole number"),
        ({"type": "string", "maxLength": None}, "/maxLength", "whole number"),
        ({"type": "array", "minItems": 1.5}, "/minItems", "whole number"),
        ({"type": "integer", "minimum": "3"}, "/minimum", "is a number"),
        ({"type": "integer", "exclusiveMinimum": True}, "/exclusiveMinimum", "is a number"),
        ({"type": "integer", "minimum": 10**400}, "/minimum", "out of range"),
        ({"type": "object", "properties": []}, "/properties", "is an object"),
        ({"type": "object", "properties": {"a": 3}}, "/properties/a", "a schema is"),
        ({"type": "object", "required": "a"}, "/required", "list of names"),
        ({"enum": "a"}, "/enum", "list of values"),
        ({"anyOf": []}, "/anyOf", "list of schemas"),
        ({"const": "\ud800"}, "/const", "surrogate"),
        (False, "", "no JSON value"),
        ({"enum": []}, "", "no JSON value"),
        ({"type": "null", "enum": [1]}, "", "no JSON value"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "", "no JSON value"),
        ({"type": "integer", "minimum": 0.2, "maximum": 0.8}, "", "no JSON value"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "", "no JSON value"),
        ({"type": "object", "required": ["a"], "additionalProperties": False}, "", "no JSON value"),
        ({"type": "array", "items": False, "minItems": 1}, "", "no JSON value"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_is_not_enforced_is_refused_with_its_pointer(schema: Any, pointer: str, message: str) -> None:
    with pytest.raises(SchemaError, match=message) as caught:
        to_rules(JsonSchema(schema))
    assert caught.value.pointer == pointer
    assert caught.value.field == "json_schema"


def test_keywords_about_other_types_and_idle_ones_are_not_refused() -> None:
    for schema, text in (
        ({"type": "integer", "pattern": "a", "uniqueItems": True, "format": "date"}, b"7"),
        ({"type": "array", "uniqueItems": False}, b"[1,1]"),
        ({"type": "null", "then": {}, "else": {}}, b"null"),
    ):
        assert accepts(compiled(schema), text)


def test_schema_limits_are_named() -> None:
    deep: dict[str, Any] = {"type": "null"}
    for _ in range(150):
        deep = {"type": "array", "items": deep}
    with pytest.raises(SchemaError, match="depth"):
        to_rules(JsonSchema(deep), Limits(depth=100))
    to_rules(JsonSchema(deep))
    with pytest.raises(SchemaError, match="schema_bytes"):
        to_rules(JsonSchema({"const": "x" * 1000}), Limits(schema_bytes=500))
    with pytest.raises(SchemaError, match="alternatives"):
        to_rules(JsonSchema({"enum": list(range(50))}), Limits(alternatives=20))
    with pytest.raises(ConstraintError, match="seconds"):
        to_rules(JsonSchema({"enum": list(range(5000))}), Limits(seconds=0))


def test_references_that_double_each_time_stay_small() -> None:
    names = [f"d{i}" for i in range(60)]
    pair = {
        name: {"type": "object", "properties": {k: {"$ref": f"#/$defs/{after}"} for k in "ab"}}
        for name, after in zip(names, [*names[1:], "end"], strict=True)
    }
    rules = to_rules(JsonSchema({"$ref": "#/$defs/d0", "$defs": {**pair, "end": {"type": "null"}}}))
    assert len(rules.nodes) < 1000
