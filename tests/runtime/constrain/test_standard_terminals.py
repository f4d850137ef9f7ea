"""What a warm vocabulary has ready for JSON: masks are the same as without it, and nothing in it ever changes."""

from __future__ import annotations

import json
import random
from threading import Thread
from typing import Any

import pytest

from latticework.lang.ir import Constraint, Gbnf, JsonSchema, Regex
from latticework.runtime.constrain import Automaton, Vocabulary, to_rules
from tests.runtime.constrain.oracle import allowed, byte_vocabulary

SCHEMAS: list[dict[str, Any]] = [
    {},
    {"type": "array", "items": {"type": ["integer", "string"]}, "maxItems": 3},
    {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "number"}}, "required": ["b"]},
    {"type": "object", "additionalProperties": {"type": "boolean"}, "minProperties": 1, "maxProperties": 2},
    {"type": "array", "items": {"type": "string", "maxLength": 3}, "uniqueItems": True},
    {"type": "string", "minLength": 1},
]
CONSTRAINTS: list[Constraint] = [
    *(JsonSchema(schema, whitespace=space) for schema in SCHEMAS for space in ("compact", "spaced", "flexible")),
    JsonSchema(SCHEMAS[2], whitespace=2),
    Regex('"[^"]*"'),
    Gbnf('root ::= "[" [0-9]+ ("," [0-9]+)* "]"'),
]
PIECES = ["a", "b", "1", '"', '":', '",', " ", "\n", "{", "}", "[", "]", ",", ": ", "true", "\\n", "é", "0.5", '""']


def longer() -> list[bytes]:
    rng = random.Random(9)
    return sorted({"".join(rng.choices(PIECES, k=rng.randint(2, 5))).encode() for _ in range(700)})


@pytest.fixture(scope="module")
def warm() -> Vocabulary:
    return byte_vocabulary(*longer()).warm()


@pytest.fixture(scope="module")
def plain() -> Vocabulary:
    return byte_vocabulary(*longer())


def walk(left: Automaton, right: Automaton, seed: int) -> None:
    """Random tokens through both, with the same masks and prices everywhere."""
    rng = random.Random(seed)
    ours, theirs = left.matcher(), right.matcher()
    for _ in range(14):
        mask = allowed(ours, left.vocabulary)
        assert mask == allowed(theirs, right.vocabulary)
        assert ours.shortest() == theirs.shortest()
        for remaining in (ours.shortest(), ours.shortest() + 2):
            assert allowed(ours, left.vocabulary, remaining) == allowed(theirs, right.vocabulary, remaining)
        going_on = sorted(mask - set(left.vocabulary.end_ids))
        if not going_on:
            return
        token = rng.choice(going_on)
        assert ours.accept(token)
        assert theirs.accept(token)


def held(vocabulary: Vocabulary) -> tuple[int, ...]:
    """All that must not change."""
    standard = vocabulary.standard
    assert standard is not None
    states = [(terminal.states.size, terminal.states.generation) for terminal in standard._terminals.values()]
    parts = standard.parts
    return (*(n for pair in states for n in pair), len(parts._wholes), len(parts._below), len(standard.suffixes._known))


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=str)
def test_masks_are_the_same_with_and_without_it(constraint: Constraint, warm: Vocabulary, plain: Vocabulary) -> None:
    before = held(warm)
    rules = to_rules(constraint)
    left, right = Automaton(rules, warm), Automaton(rules, plain)
    for seed in range(4):
        walk(left, right, seed)
        if seed == 1:
            left.forget()
    assert held(warm) == before


def test_terminals_of_plain_schemas_are_not_made_again(warm: Vocabulary) -> None:
    automaton = Automaton(to_rules(JsonSchema({"properties": {"a": {}}}, whitespace="flexible")), warm)
    matcher = automaton.matcher()
    for byte in json.dumps({"a": [1, "b", None]}).encode():
        allowed(matcher, warm)
        assert matcher.accept(byte)
    assert all(terminal._is_shared for terminal in automaton.frames.terminals.values())
    other = Automaton(to_rules(Regex("a+")), warm)
    allowed(other.matcher(), warm)
    assert not any(terminal._is_shared for terminal in other.frames.terminals.values())


def test_a_vocabulary_that_cannot_write_json_stays_usable() -> None:
    vocabulary = Vocabulary([b"a", b"b", b"ab", b""], end_ids=(3,)).warm()
    matcher = Automaton(to_rules(Regex("a+b")), vocabulary).matcher()
    assert allowed(matcher, vocabulary) == {0, 2}


def test_threads_may_share_it(warm: Vocabulary, plain: Vocabulary) -> None:
    wrong: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for constraint in CONSTRAINTS[:9]:
                rules = to_rules(constraint)
                walk(Automaton(rules, warm), Automaton(rules, plain), seed)
        except BaseException as error:
            wrong.append(error)

    threads = [Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
