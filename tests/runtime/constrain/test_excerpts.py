"""What is built once and pasted, and that a constraint has one graph whatever was compiled before it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from latticework.lang.errors import ConstraintError
from latticework.runtime.constrain.algebra import any_text, both, from_pattern, length
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.builder import Builder, excerpt
from latticework.runtime.constrain.json_number_sets import WHOLE, Numbers
from latticework.runtime.constrain.json_numbers import build_numbers
from latticework.runtime.constrain.rules import RuleGraph
from latticework.runtime.constrain.text_nodes import lower_json, lower_plain

Make = Callable[[Builder], int]

PARTS: dict[str, Make] = {
    "any string": lambda builder: lower_json(builder, any_text()),
    "some characters": lambda builder: lower_plain(builder, from_pattern(r"[^a-c€]+\w", "ecma")),
    "a machine": lambda builder: lower_json(builder, both(from_pattern("^(?:ab|c)*$", "ecma"), length(3, 9))),
    "integers": lambda builder: build_numbers(
        builder, Numbers(multiples=frozenset((WHOLE,))), has_whole_floats=True, is_single=False
    ),
}


def _graph(*makes: Make) -> RuleGraph | None:
    builder = Builder(Limits(), "constraint")
    return builder.finish(builder.sequence([part for make in makes for part in (make(builder), builder.literal(b";"))]))


@pytest.mark.parametrize("name", PARTS)
def test_pasting_makes_the_graph_that_building_in_place_makes(name: str) -> None:
    make = PARTS[name]
    part = excerpt(make)
    for other in PARTS.values():
        assert _graph(other, lambda builder: builder.paste(part)) == _graph(other, make)
        assert _graph(lambda builder: builder.paste(part), other) == _graph(make, other)


def test_an_excerpt_is_pasted_once_and_counts_for_the_limits() -> None:
    part = excerpt(PARTS["any string"])
    builder = Builder(Limits(), "constraint")
    assert builder.paste(part) == builder.paste(part)
    with pytest.raises(ConstraintError, match="`states` is 12"):
        Builder(Limits(states=12), "constraint").paste(part)
    with pytest.raises(ConstraintError, match="`alternatives` is 3"):
        Builder(Limits(alternatives=3), "constraint").paste(part)


_COMPILE = """
import hashlib, json, sys
from latticework.lang.ir import JsonSchema
from latticework.runtime.constrain.compile import to_rules
from latticework.runtime.constrain.rules import encode_rules
for schema in json.loads(sys.stdin.read()):
    rules = to_rules(JsonSchema(schema, whitespace="flexible"))
    print(json.dumps(schema), hashlib.sha256(encode_rules(rules)).hexdigest())
"""


def test_a_constraint_has_the_same_bytes_whatever_was_compiled_before() -> None:
    patterns = [r"^a.*b", "x{2,5}$", "^(?!ab)"]
    schemas: list[object] = [
        {"format": "uuid"},
        {"format": "ipv4", "maxLength": 9},
        {"type": "string", "pattern": "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"},
        {"allOf": [{"pattern": pattern} for pattern in patterns]},
        {"allOf": [{"pattern": pattern} for pattern in reversed(patterns)]},
        {"patternProperties": {pattern: {"type": "integer", "minimum": 1} for pattern in patterns}},
        {"type": ["number", "string"], "not": {"pattern": "^a"}},
    ]
    runs = [
        subprocess.run(
            [sys.executable, "-c", _COMPILE], input=json.dumps(order), capture_output=True, text=True, check=True
        )
        for order in (schemas, schemas[::-1])
    ]
    first, second = (sorted(run.stdout.splitlines()) for run in runs)
    assert first == second
    assert len(first) == len(schemas)
