"""The longest text of a compiled constraint, against texts that it has."""

from __future__ import annotations

import pytest

from latticework.lang.ir import After, Choices, Constraint, JsonSchema, Lark, Regex, constraint_key
from latticework.runtime.constrain.compile import to_rules
from latticework.runtime.constrain.rules import encode_rules
from latticework.runtime.programs.bounds import Longest, longest_text

CLOSED = {"type": "object", "additionalProperties": False, "required": ["a"]}


@pytest.mark.parametrize(
    ("constraint", "longest"),
    [
        (Regex("[0-9]{4}-[0-9]{2}"), "2026-11"),
        (Regex("(yes|no|maybe)"), "maybe"),
        (Regex("(ab?){3}"), "ababab"),
        (Regex("é{2,3}"), "ééé"),
        (Regex(""), ""),
        (Choices(("a", "bcd", "ef")), "bcd"),
        (JsonSchema({"type": "boolean"}), "false"),
        (JsonSchema({"enum": [1, "two", None]}), '"two"'),
        (JsonSchema({"type": "integer", "minimum": 0, "maximum": 99}), "99"),
        (JsonSchema({"type": "array", "items": {"enum": ["x"]}, "maxItems": 3}), '["x","x","x"]'),
        (JsonSchema({**CLOSED, "properties": {"a": {"type": "null"}, "b": {"enum": [12]}}}), '{"a":null,"b":12}'),
        (Lark('start: "a" tail\ntail: "x" | "yy"'), "ayy"),
    ],
)
def test_no_text_is_longer_than_the_bound_and_the_bound_is_near(constraint: Constraint, longest: str) -> None:
    found = longest_text(to_rules(constraint))
    assert found is not None
    assert len(longest.encode()) <= found <= len(longest.encode()) + 5  # a comma more, say: it is a bound from above


@pytest.mark.parametrize(
    "constraint",
    [
        Regex("a+"),
        Regex("a*b"),
        Lark('start: "a" start | "b"'),
        After("</think>", Regex("a")),
        JsonSchema({"type": "string"}),
        JsonSchema({"type": "array", "items": {"type": "null"}}),
        JsonSchema({"type": "object"}),
    ],
)
def test_what_has_no_longest_text_has_no_bound(constraint: Constraint) -> None:
    assert longest_text(to_rules(constraint)) is None


def test_each_constraint_is_looked_through_once() -> None:
    longest, constraint = Longest(), Regex("abc")
    key, rules = constraint_key(constraint), encode_rules(to_rules(constraint))
    assert longest.of(key, rules) == 3
    assert longest.of(key, b"not looked at") == 3
