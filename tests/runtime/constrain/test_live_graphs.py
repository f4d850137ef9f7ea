"""What of a graph can be written: what is looked at again for a vocabulary comes to what looking at all of it does."""

from __future__ import annotations

import random
from typing import Any

import pytest

from latticework.lang.ir import Constraint, Gbnf, JsonSchema, Lark
from latticework.runtime.constrain.compile import to_rules
from latticework.runtime.constrain.distinct import MANY, few_texts
from latticework.runtime.constrain.live import live_graph
from latticework.runtime.constrain.renumbering import compact
from latticework.runtime.constrain.rules import Bytes, Machine, MachineState, Node

SCHEMAS: list[Any] = [
    {},
    {"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"enum": ["x", "é", 3]}}, "required": ["b"]},
    {"type": "array", "items": {"anyOf": [{"const": "ab"}, {"$ref": "#"}]}, "minItems": 1},
    {"type": "array", "items": {"enum": list("abcdef")}, "uniqueItems": True, "minItems": 3},
    {"patternProperties": {"^a": {"type": "integer"}}, "minProperties": 2, "additionalProperties": False},
    {"type": "string", "minLength": 2, "pattern": "^(?:ab|é)*$", "not": {"const": "abab"}},
]
CONSTRAINTS: list[Constraint] = [
    *(JsonSchema(schema, whitespace="flexible") for schema in SCHEMAS),
    Gbnf('root ::= "(" root ")" | "[" root "]" | "x" | other\nother ::= "y" root | "z" other'),
    Lark('start: sum\nsum: sum "+" atom | atom\natom: /[0-9]+/ | "(" sum ")" | /[a-z]é/'),
]


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=range(len(CONSTRAINTS)))
def test_a_live_graph_loses_the_same_parts_as_one_that_is_looked_through(constraint: Constraint) -> None:
    graph = to_rules(constraint)
    rng = random.Random(0)
    likely = sorted({byte for node in graph.nodes for byte in getattr(node, "data", b"")})
    for _ in range(40):
        writable = frozenset(range(256)) - set(rng.sample(likely, rng.randint(0, 3))) - set(rng.sample(range(256), 9))
        found = live_graph(graph, writable, lambda: None, is_live=True)
        expected = live_graph(graph, writable, lambda: None)
        assert (found is None) == (expected is None)
        assert found is None or expected is None or compact(found) == compact(expected)


def _few(machine: Machine, letters: int) -> int | None:
    nodes: list[Node] = [Bytes(((0x61, 0x61 + letters - 1),)), machine]
    found = few_texts(nodes, 1)
    return None if found is None else len(found)


def test_the_texts_of_a_machine_are_counted_exactly_up_to_many() -> None:
    once = Machine((MachineState(False, ((0, 1),)), MachineState(True, ())))
    assert _few(once, 3) == 3
    twice = Machine((MachineState(True, ((0, 1),)), MachineState(True, ((0, 2),)), MachineState(True, ())))
    assert _few(twice, 15) == 1 + 15 + 225
    assert MANY <= 1 + 16 + 256
    assert _few(twice, 16) is None
    endless = (MachineState(True, ((0, 0),)),)
    assert _few(Machine(endless), 1) is None
    assert _few(Machine(endless, 2, 6), 2) == 4 + 8 + 16 + 32 + 64
    assert _few(Machine(endless, 2, 7), 2) == 252
    assert _few(Machine(endless, 2, 8), 2) is None
