"""Constraints meant to hurt: each compiles within its limits or is refused by name, and what compiles gives masks."""

from __future__ import annotations

import random
from typing import Any

import pytest

from latticework.lang.errors import ConstraintError
from latticework.lang.ir import Choices, Constraint, JsonSchema, Regex
from latticework.runtime.constrain import Limits, compile_constraint, to_rules
from tests.runtime.constrain.oracle import allowed, byte_vocabulary

VOCABULARY = byte_vocabulary(b"ab", b"aaaa", b"abab", b"aaaaaaaa", b"END", b"\xc3\xa9", b" the", b'","')


def nested(depth: int, wrap: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {wrap: [schema]}
    return schema


ACCEPTED: list[Constraint] = [
    Regex("(a|b)*a(a|b){16}"),
    Regex("(a|b)*a(a|b){20000}"),
    Regex("(a+)+$"),
    Regex("((((a+)+)+)+)+b"),
    Regex("(a*)*(a*)*(a*)*"),
    Regex("((a?b?){1000}c?){1000}"),
    Regex("(a?){100000}"),
    Regex("(a{1,50}b?){1,100}"),
    Regex("((a{1,30}b?){1,30}c?){1,30}"),
    Regex("a{0,100000000}"),
    Regex(".{0,100000}"),
    Regex(r"(\w{1,50}\s){1,100}END"),
    Regex("(.|x)*x.{50}"),
    Regex("a?" * 500),
    Regex("(" * 199 + "a" + ")" * 199),
    Regex("a" * 200_000),
    Regex("|".join(f"{i}x*" for i in range(3000))),
    Choices(tuple(f"item_{i:05d}" for i in range(10_000))),
    JsonSchema({"enum": [f"item {i}" for i in range(10_000)]}),
    JsonSchema({"type": "string", "maxLength": 100_000}),
    JsonSchema({"type": "array", "maxItems": 1_000_000}),
    JsonSchema({"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(400)}}),
    JsonSchema(
        {"type": "object", "required": [f"p{i}" for i in range(2000)], "additionalProperties": {"type": "null"}}
    ),
    JsonSchema(nested(100, "oneOf")),
    JsonSchema(nested(100, "anyOf")),
]


@pytest.mark.parametrize("constraint", ACCEPTED, ids=lambda constraint: str(constraint)[:40])
def test_what_is_accepted_compiles_small_and_gives_masks(constraint: Constraint) -> None:
    rules = to_rules(constraint)
    assert len(rules.nodes) < 50_000
    matcher = compile_constraint(constraint, VOCABULARY).matcher()
    rng = random.Random(0)
    for _ in range(3):
        going_on = sorted(allowed(matcher, VOCABULARY) - set(VOCABULARY.end_ids))
        if not going_on:
            assert matcher.is_finished()
            break
        assert matcher.accept(rng.choice(going_on))


REFUSED: list[tuple[Constraint, str]] = [
    (Regex("(" * 60_000 + ")" * 60_000), "depth"),
    (Regex("(" * 60_000), "depth"),
    (Regex("a?" * 3000), "too ambiguous"),
    (Regex("x" * (2 << 20)), "pattern_bytes"),
    (Regex("[ab]" * 65_000), "states"),
    (Regex("|".join(f"{i}x*" for i in range(22_000))), "alternatives"),
    (Regex("((a{1000}){1000}){1000}"), "shortest text"),
    (Regex("a{4294967296}"), "too large"),
    (Choices(tuple(map(str, range(30_000)))), "alternatives"),
    (JsonSchema({"enum": list(range(30_000))}), "alternatives"),
    (JsonSchema(nested(250, "anyOf")), "depth"),
    (JsonSchema({"type": "object", "required": [f"p{n}" for n in range(10_001)]}), "properties"),
]


@pytest.mark.parametrize(("constraint", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_refused_names_its_limit(constraint: Constraint, message: str) -> None:
    with pytest.raises(ConstraintError, match=message):
        to_rules(constraint, Limits(states=60_000))


def test_an_instance_nested_to_the_limit_compiles_without_deep_recursion() -> None:
    deep: dict[str, Any] = {"type": "null"}
    for _ in range(190):
        deep = {"type": "object", "properties": {"a": deep}, "required": ["a"], "additionalProperties": False}
    matcher = compile_constraint(JsonSchema(deep), VOCABULARY).matcher()
    assert matcher.forced() == b'{"a":' * 190 + b"null" + b"}" * 190
