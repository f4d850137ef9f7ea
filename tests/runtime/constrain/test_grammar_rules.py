"""Random rules against the languages they are defined to have: least fixpoints, computed on sets of short texts."""

from __future__ import annotations

import random
from itertools import product

import pytest

from latticework.lang.errors import ConstraintError
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.builder import NEVER, Builder
from latticework.runtime.constrain.grammar import build_rules, connected
from latticework.runtime.constrain.rules import Call, RuleGraph, check_rules
from tests.runtime.constrain.reference import ends

LENGTH = 5
TEXTS = [bytes(text) for length in range(LENGTH + 1) for text in product(b"ab", repeat=length)]

# Expressions: bytes; an int is a call; ("then" | "either", parts…); ("repeat", part, low, high)
Expression = bytes | int | tuple
Language = frozenset[bytes]


def short_texts(rules: list[Expression]) -> list[Language]:
    """The texts of each rule that are not longer than LENGTH."""
    found: list[Language] = [frozenset()] * len(rules)
    while True:
        following = [texts_of(rule, found) for rule in rules]
        if following == found:
            return found
        found = following


def joined(left: Language, right: Language) -> Language:
    return frozenset(a + b for a in left for b in right if len(a) + len(b) <= LENGTH)


def texts_of(expression: Expression, rules: list[Language]) -> Language:
    match expression:
        case bytes():
            return frozenset([expression])
        case int():
            return rules[expression]
        case ("then", *parts):
            found = frozenset([b""])
            for part in parts:
                found = joined(found, texts_of(part, rules))
            return found
        case ("either", *parts):
            return frozenset().union(*(texts_of(part, rules) for part in parts))
        case ("repeat", part, low, high):
            item = texts_of(part, rules)
            found, power = frozenset[bytes](), frozenset([b""])
            for count in range(high + 1 if high is not None else low + LENGTH + 1):
                found |= power if count >= low else frozenset()
                power = joined(power, item)
            return found
    raise AssertionError(expression)


def build(rules: list[Expression]) -> RuleGraph | None:
    builder = Builder(Limits(), "grammar")
    numbers = [builder.rule() for _ in rules]

    def node(expression: Expression) -> int:
        match expression:
            case bytes():
                literal = builder.literal(expression)
                return builder.terminal(literal) if expression.startswith(b"a") else literal
            case int():
                return builder.call(numbers[expression])
            case ("then", *parts):
                return builder.sequence([node(part) for part in parts])
            case ("either", *parts):
                return builder.either([node(part) for part in parts])
            case ("repeat", part, low, high):
                return builder.repeat(node(part), low, high)
        raise AssertionError(expression)

    root = build_rules(builder, {number: node(rule) for number, rule in zip(numbers, rules, strict=True)}, numbers[0])
    graph = builder.finish(root)
    if graph is not None:
        check_rules(graph)
    return graph


def random_expression(rng: random.Random, rules: int, depth: int) -> Expression:
    kind = rng.random()
    if depth == 0 or kind < 0.25:
        return rng.choice([b"a", b"b", b"ab", b"", *range(rules), *range(rules)])
    parts = [random_expression(rng, rules, depth - 1) for _ in range(rng.randint(1, 3))]
    if kind < 0.6:
        return ("then", *parts)
    if kind < 0.85:
        return ("either", *parts)
    low = rng.randint(0, 2)
    return ("repeat", parts[0], low, rng.choice([None, low, low + 2]))


@pytest.mark.parametrize("seed", range(150))
def test_random_rules_keep_their_language(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randint(1, 4)
    rules = [random_expression(rng, count, rng.randint(1, 3)) for _ in range(count)]
    wanted = short_texts(rules)[0]
    graph = build(rules)
    if graph is None:
        assert not wanted, rules
        return
    assert {text for text in TEXTS if ends(graph, text)} == wanted, rules


LEFT_RECURSIVE: list[tuple[list[Expression], bool]] = [
    ([("either", ("then", 0, b"a"), b"b")], True),
    ([("either", ("then", b"a", 0), b"b")], True),
    ([("either", ("then", 1, b"a"), b"b"), ("either", ("then", 0, b"b"), b"a", 0)], True),
    ([("either", ("then", b"a", 0, b"b"), b"")], False),
    ([("either", ("then", 0, 0), b"a", b"")], False),
    ([("then", ("either", b"", b"a"), ("either", 0, b"b"))], True),
]


@pytest.mark.parametrize(("rules", "is_regular"), LEFT_RECURSIVE, ids=str)
def test_rules_that_recur_at_one_end_call_nothing(rules: list[Expression], is_regular: bool) -> None:
    graph = build(rules)
    assert graph is not None
    assert is_regular == (not any(isinstance(node, Call) for node in graph.nodes))
    assert {text for text in TEXTS if ends(graph, text)} == short_texts(rules)[0]


def test_rules_without_any_text_are_never() -> None:
    assert build([("then", b"a", 0)]) is None
    assert build([("either", 0, ("then", 1, 0)), ("then", b"a", 1)]) is None


def test_many_rules_end_in_bounded_time() -> None:
    builder = Builder(Limits(), "grammar")
    rules = [builder.rule() for _ in range(2_000)]
    calls = [builder.call(rule) for rule in rules]
    bodies = {rule: builder.optional(call) for rule, call in zip(rules, [*calls[1:], calls[0]], strict=True)}
    bodies[rules[7]] = builder.sequence([calls[8], builder.literal(b"x")])
    assert builder.finish(build_rules(builder, bodies, rules[0])) is not None

    limits = Limits(seconds=1.0)
    builder = Builder(limits, "grammar")
    rules = [builder.rule() for _ in range(200)]
    calls = [builder.call(rule) for rule in rules]
    letters = [builder.literal(b"%d" % number) for number in range(200)]
    bodies = {
        rule: builder.either([builder.sequence([call, letter]) for call, letter in zip(calls, letters, strict=True)])
        for rule in rules
    }
    bodies[rules[0]] = builder.optional(bodies[rules[0]])
    with pytest.raises(ConstraintError, match=r"the limit `(seconds|states)`"):
        builder.finish(
            build_rules(builder, {rule: builder.sequence([n, letters[rule]]) for rule, n in bodies.items()}, 0)
        )


def test_groups_come_after_those_they_lead_to() -> None:
    edges = {0: {1}, 1: {2, 3}, 2: {1}, 3: {4}, 4: {4}, 5: {0, 5}}
    assert list(connected(edges)) == [[4], [3], [1, 2], [0], [5]]


def test_never_is_no_rule_text() -> None:
    builder = Builder(Limits(), "grammar")
    rule = builder.rule()
    assert build_rules(builder, {rule: NEVER}, rule) == NEVER
