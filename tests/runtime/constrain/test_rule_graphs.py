from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latticework.lang.errors import ConstraintError
from latticework.lang.ir import Choices, Constraint, JsonSchema, Regex
from latticework.runtime.constrain import Automaton, RuleGraph, compile_constraint, decode_rules, encode_rules, to_rules
from latticework.runtime.constrain.rules import Bytes, Either, Empty, Literal, Node, Repeat, Then
from tests.runtime.constrain.oracle import byte_vocabulary

CONSTRAINTS: list[Constraint] = [
    Regex(r"(\w+|é{2,}|[^a-z])*x{3,70}"),
    Choices(("a", "bc", "")),
    JsonSchema({"type": "object", "properties": {"a": {"type": "number", "minimum": 3}}}),
]


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=str)
def test_a_graph_survives_the_wire_and_is_the_same_every_time(constraint: Constraint) -> None:
    rules = to_rules(constraint)
    assert decode_rules(encode_rules(rules)) == rules
    assert encode_rules(to_rules(constraint)) == encode_rules(rules)


def test_equal_expressions_are_one_node_and_counters_are_never_copied() -> None:
    assert len(to_rules(Regex("(abc|abc|abc)(abc)")).nodes) == 1
    assert len(to_rules(Regex("[ab]{1000,2000}[ab]{1000,2000}")).nodes) <= 3
    assert to_rules(Regex("((a+)+)+")) == to_rules(Regex("a+"))
    assert to_rules(Regex("((a*)+)*")) == to_rules(Regex("a*"))


BROKEN: list[tuple[tuple[Node, ...], int]] = [
    ((), 0),
    ((Empty(),), 1),
    ((Empty(),), -1),
    ((Bytes(()),), 0),
    ((Bytes(((3, 2),)),), 0),
    ((Bytes(((0, 5), (5, 9))),), 0),
    ((Bytes(((0, 256),)),), 0),
    ((Literal(b""),), 0),
    ((Then(0, 0),), 0),
    ((Empty(), Then(0, 2)), 1),
    ((Empty(), Either(())), 1),
    ((Empty(), Either((0, -1))), 1),
    ((Empty(), Repeat(0, 3, 2)), 1),
    ((Empty(), Repeat(0, -1, None)), 1),
    ((Empty(), Repeat(1, 0, None)), 1),
    ((Empty(), Repeat(0, 0, 1 << 40)), 1),
]


@pytest.mark.parametrize(("nodes", "root"), BROKEN, ids=str)
def test_a_broken_graph_is_refused(nodes: tuple[Node, ...], root: int) -> None:
    with pytest.raises(ConstraintError, match="rule graph"):
        decode_rules(encode_rules(RuleGraph(nodes, root)))


def test_another_version_is_refused() -> None:
    with pytest.raises(ConstraintError, match="version 9"):
        decode_rules(encode_rules(RuleGraph((Empty(),), 0, (), 9)))


@given(st.binary(max_size=60))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ConstraintError):
        decode_rules(data)


@given(st.integers(0, 200), st.integers(0, 255))
def test_a_graph_with_one_byte_changed_is_refused_or_runs(position: int, byte: int) -> None:
    data = bytearray(encode_rules(to_rules(CONSTRAINTS[2])))
    data[position % len(data)] = byte
    try:
        rules = decode_rules(bytes(data))
    except ConstraintError:
        return
    matcher = Automaton(rules, byte_vocabulary()).matcher()
    for _ in range(5):
        matcher.forced()
        matcher.accept(ord("{"))


def test_nodes_of_unknown_kinds_are_refused() -> None:
    data = msgspec.msgpack.encode({"nodes": [[99, 1]], "root": 0, "version": 1})
    with pytest.raises(ConstraintError, match="not a rule graph"):
        decode_rules(data)


def test_an_epsilon_automaton_is_complete_at_once() -> None:
    matcher = compile_constraint(Regex("(a{0}){5}"), byte_vocabulary()).matcher()
    assert matcher.is_complete()
    assert matcher.is_finished()
    assert matcher.shortest() == 0
