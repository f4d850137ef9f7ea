"""JSON schemas made to hurt: part of the corpus of hostile constraints. Plain data."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]


def nested(depth: int, wrap: str) -> Json:
    schema: Json = {"type": "null"}
    for level in range(depth):
        schema = {wrap: [schema, {"type": "object", "properties": {f"p{level}": {"type": "integer"}}}]}
    return schema


def doubling(levels: int) -> Json:
    """2^levels alternatives, in as many definitions as levels."""
    defs: Json = {f"d{levels}": {"type": "string"}}
    for level in range(levels):
        both = [
            {"properties": {f"{side}{level}": {"$ref": f"#/$defs/d{level + 1}"}}, "required": [f"{side}{level}"]}
            for side in "ab"
        ]
        defs[f"d{level}"] = {"type": "object", "oneOf": both}
    return {"$ref": "#/$defs/d0", "$defs": defs}


def product(factors: int, choices: int) -> Json:
    """choices^factors combinations of properties."""
    return {
        "type": "object",
        "allOf": [
            {"anyOf": [{"properties": {f"p{f}": {"const": c}}, "required": [f"p{f}"]} for c in range(choices)]}
            for f in range(factors)
        ],
    }


def chain(length: int) -> Json:
    defs: Json = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": defs | {f"d{length}": {"type": "integer"}}}


def conditions(count: int) -> Json:
    def one(n: int) -> Json:
        condition = {"properties": {f"p{n}": {"const": n}}, "required": [f"p{n}"]}
        return {"if": condition, "then": {"required": [f"q{n}"]}, "else": {"required": [f"r{n}"]}}

    return {"type": "object", "allOf": [one(n) for n in range(count)], "unevaluatedProperties": False}


def overlapping_patterns(count: int) -> Json:
    patterns = {f"[a-z]*{chr(97 + n)}[a-z]{{{n + 3}}}": {"minimum": n} for n in range(count)}
    return {"type": "object", "patternProperties": patterns, "minProperties": 1, "additionalProperties": False}


def required(count: int) -> Json:
    return {"type": "object", "required": [f"name{n}" for n in range(count)]}


def properties(count: int) -> Json:
    return {"type": "object", "properties": {f"key {n}": {"type": "string"} for n in range(count)}, "minProperties": 3}


def dependent(count: int) -> Json:
    names = [f"p{n}" for n in range(count)]
    return {"type": "object", "dependentRequired": {name: names[n + 1 :][:20] for n, name in enumerate(names)}}


INTEGER: Json = {"type": "integer"}
SCHEMAS: dict[str, Callable[[], Json | str]] = {
    "10,000 values": lambda: {"enum": [f"item {n}" for n in range(10_000)]},
    "10,000 objects": lambda: {"enum": [{"a": n, "b": [n, str(n)]} for n in range(10_000)]},
    "30,000 values": lambda: {"enum": list(range(30_000))},
    "100 nested oneOf": lambda: nested(100, "oneOf"),
    "100 nested anyOf": lambda: nested(100, "anyOf"),
    "oneOf that doubles": lambda: doubling(24),
    "product of anyOf": lambda: product(20, 3),
    "1,000 allOf": lambda: {"allOf": [{"properties": {f"p{n}": INTEGER}, "minProperties": 1} for n in range(1000)]},
    "1,000 overlapping allOf": lambda: {"allOf": [{"pattern": f"{n}.*x.{{{n % 9}}}"} for n in range(1000)]},
    "60 conditions": lambda: conditions(60),
    "12 conditions": lambda: conditions(12),
    "negations": lambda: {"type": "object", "allOf": [{"not": {"required": [f"p{n}"]}} for n in range(300)]},
    "recursion without a base": lambda: {
        "$ref": "#/$defs/a",
        "$defs": {
            "a": {"type": "object", "properties": {"b": {"$ref": "#/$defs/b"}}, "required": ["b"]},
            "b": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]},
        },
    },
    "reference to itself": lambda: {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}},
    "mutual references": lambda: {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
    },
    "chain of 150 references": lambda: chain(150),
    "chain of 20,000 references": lambda: chain(20_000),
    "2,000 required": lambda: required(2000),
    "100,000 required": lambda: required(100_000),
    "2,000 properties": lambda: properties(2000),
    "20,000 properties": lambda: properties(20_000),
    "dependentRequired": lambda: dependent(400),
    "8 overlapping patterns": lambda: overlapping_patterns(8),
    "16 overlapping patterns": lambda: overlapping_patterns(16),
    "unique values of 10,000": lambda: {
        "type": "array",
        "items": {"enum": list(range(10_000))},
        "uniqueItems": True,
        "minItems": 5000,
    },
    "unique texts": lambda: {
        "type": "array",
        "items": {"type": "string", "maxLength": 1000},
        "uniqueItems": True,
        "minItems": 3,
    },
    "a million items": lambda: {"type": "array", "items": INTEGER, "minItems": 1_000_000},
    "up to a billion items": lambda: {"type": "array", "items": INTEGER, "maxItems": 1_000_000_000},
    "a billion characters": lambda: {"type": "string", "minLength": 1_000_000_000},
    "up to a billion characters": lambda: {"type": "string", "maxLength": 1_000_000_000},
    "contains": lambda: {
        "type": "array",
        "contains": {"multipleOf": 7},
        "minContains": 1000,
        "maxContains": 100_000,
    },
    "five contains": lambda: {
        "type": "array",
        "allOf": [{"contains": {"multipleOf": n}, "minContains": 5 * n} for n in (2, 3, 5, 7, 11)],
    },
    "multiples": lambda: {"type": "integer", "allOf": [{"multipleOf": n} for n in (9973, 9967, 9949, 9941)]},
    "multiple of a prime": lambda: {"type": "integer", "multipleOf": 999_999_937},
    "multiple of little": lambda: {"type": "number", "multipleOf": 1e-300},
    "bounds of 10,000 digits": lambda: f'{{"type":"integer","minimum":1{"0" * 10_000},"maximum":3{"7" * 10_000}}}',
    "exponents": lambda: '{"type":"number","minimum":-1e308,"exclusiveMaximum":1e-308,"multipleOf":1e-9}',
    "a pattern of a megabyte": lambda: {"type": "string", "pattern": "[a-c]x?" * 140_000},
    "an explosive pattern": lambda: {"type": "string", "pattern": "^(a|b)*a(a|b){16}$", "maxLength": 1000},
    "patterns that meet": lambda: {
        "type": "string",
        "allOf": [{"pattern": f"[a-z]*{c}[a-z]{{{n}}}"} for n, c in enumerate("abcdef", 6)],
    },
    "names with patterns": lambda: {
        "type": "object",
        "propertyNames": {"pattern": "^(a|b)*a(a|b){12}$"},
        "minProperties": 5,
    },
    "formats": lambda: {"type": "array", "items": {"type": "string", "format": "iri"}, "minItems": 3},
    "60,000 deep": lambda: '{"a":' * 60_000 + "1" + "}" * 60_000,
    "250 deep": lambda: nested(250, "anyOf"),
    "190 deep objects": lambda: json.loads('{"type":"object","properties":{"a":' * 90 + "true" + "}}" * 90),
    "larger than the limit": lambda: {"description": "x" * (5 << 20)},
    "a megabyte of text": lambda: {"const": "x" * 1_000_000},
}
