"""Masks of grammars, tags and markers against all short texts of what they say."""

from __future__ import annotations

import random

import pytest

from latticework.lang.ir import After, Choices, Constraint, Gbnf, JsonSchema, Lark, Regex, Tag, Triggered
from latticework.runtime.constrain import Automaton, to_rules
from tests.runtime.constrain.oracle import allowed
from tests.runtime.constrain.reference import words
from tests.runtime.constrain.test_masks_by_brute_force import check_budgets, check_forced, vocabulary_of

CASES: list[tuple[Constraint, int]] = [
    (Gbnf('root ::= "(" root ")" root | ""'), 12),
    (Gbnf('root ::= root "a" | "b" root "b" | "a"'), 11),
    (Gbnf('root ::= ("a" | x){2} x?\nx ::= "b" root "b" | "ab"'), 13),
    (Gbnf('root ::= a b\na ::= "a"? b?\nb ::= "b" a "(" | "ab"'), 12),
    (Lark('start: "(" start ")" | W\nW: /a+/\n%ignore "b"'), 9),
    (Lark('start: W ("(" start ")")? W?\nW: /[ab]{1,2}/'), 11),
    (Lark('start: W "a" W | W "b"\nW: /b+/\n%ignore "("'), 9),
    (Lark('start: start "a" start | N\nN: /b(ab)?/'), 11),
    (Lark('start: (W | "(" start ")")+\nW: "a" | "ab"'), 9),
    (Triggered((Tag("(", Gbnf('root ::= "a" root | ""'), ")"),)), 7),
    (Triggered((Tag("ab", Regex("a*"), ")"), Tag("aa", Choices(("b", "(")))), ("a",), at_least_one=True), 8),
    (After("ab", Gbnf('root ::= "(" root ")" | "a"')), 8),
    (After("a", JsonSchema({"enum": [[], [[]]]})), 8),
]


@pytest.mark.parametrize(("constraint", "length"), CASES, ids=range(len(CASES)))
def test_masks_are_exactly_the_tokens_that_can_be_completed(constraint: Constraint, length: int) -> None:
    graph = to_rules(constraint)
    letters = b"a[]," if "Json" in repr(constraint) else b"ab()"
    language = words(graph, length, alphabet=letters)
    assert language
    prefixes = {text[:end] for text in language for end in range(len(text) + 1)}
    vocabulary = vocabulary_of(letters, [b"ab", b"(a", b")("])
    automaton = Automaton(graph, vocabulary)
    rng = random.Random(1)
    for _ in range(10):
        matcher, text = automaton.matcher(), b""
        for _ in range(2):
            expected = {i for i, token in enumerate(vocabulary.tokens) if token and text + token in prefixes}
            expected |= {0} if text in language else set()
            assert allowed(matcher, vocabulary) == expected, text
            check_budgets(matcher.shortest(), expected, automaton, matcher.copy())
            check_forced(matcher.forced(), text, language)
            going_on = sorted(expected - {0})
            if not going_on:
                break
            token = rng.choice(going_on)
            assert matcher.accept(token)
            text += vocabulary.tokens[token]
