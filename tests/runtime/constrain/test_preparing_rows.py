"""Rows made under deadlines: a row is left in the middle, goes on at the next deadline, and comes out the same."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from latticework.lang.ir import Constraint, Gbnf, JsonSchema, Regex
from latticework.runtime.constrain import Automaton, Matcher, Vocabulary, to_rules
from tests.runtime.constrain.oracle import allowed, byte_vocabulary

CONSTRAINTS: list[Constraint] = [
    Regex("(a|b)*a(a|b){8}"),
    Regex(r"(\w{1,20}\s){1,10}END"),
    JsonSchema({"properties": {"a": {"type": "integer"}, "ab": {"enum": ["x", 1]}}, "required": ["ab"]}),
    JsonSchema({"type": "array", "items": {"enum": [1, 12, "a"]}, "uniqueItems": True}, whitespace="flexible"),
    JsonSchema({"type": "string", "minLength": 2, "maxLength": 9, "pattern": "a.*b|[0-9]+"}),
    Gbnf('root ::= item ("," item)*\nitem ::= [ab]+ | "(" root ")" | "a" root "b"'),
]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    rng = random.Random(3)
    pieces = ["a", "b", "ab", " ", "END", '"', '":', ",", "1", "12", "(", '{"', "[", "é", "x", "語"]
    return byte_vocabulary(*sorted({"".join(rng.choices(pieces, k=rng.randint(2, 4))).encode() for _ in range(900)}))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that goes on by one whenever it is looked at."""
    fake = SimpleNamespace(now=0)

    def monotonic() -> int:
        fake.now += 1
        return int(fake.now)

    monkeypatch.setattr("latticework.runtime.constrain.clock.time", SimpleNamespace(monotonic=monotonic))
    return fake


def prepared(matcher: Matcher, clock: SimpleNamespace) -> int:
    """How many deadlines a row takes, each of which comes before the clock is looked at for the second time."""
    for calls in range(1, 20_000):
        if matcher.prepare(clock.now + 2):
            return calls
    raise AssertionError("no end of it")


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=str)
def test_rows_left_again_and_again_are_finished_and_right(
    constraint: Constraint, vocabulary: Vocabulary, clock: SimpleNamespace
) -> None:
    rules = to_rules(constraint)
    automaton, plain = Automaton(rules, vocabulary), Automaton(rules, vocabulary)
    rng = random.Random(6)
    most = 0
    for _ in range(4):
        matcher, other = automaton.matcher(), plain.matcher()
        for _ in range(8):
            most = max(most, prepared(matcher, clock))
            expected = allowed(other, vocabulary)
            assert allowed(matcher, vocabulary) == expected
            shortest = matcher.shortest()
            assert allowed(matcher, vocabulary, shortest) == allowed(other, vocabulary, shortest)
            going_on = sorted(expected - set(vocabulary.end_ids))
            if not going_on:
                break
            token = rng.choice(going_on)
            assert matcher.accept(token)
            assert other.accept(token)
    assert most > 3, "no row was left in the middle"


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=str)
def test_a_row_left_in_the_middle_disturbs_nobody(
    constraint: Constraint, vocabulary: Vocabulary, clock: SimpleNamespace
) -> None:
    rules = to_rules(constraint)
    automaton = Automaton(rules, vocabulary)
    rng = random.Random(2)
    written: list[tuple[Matcher, list[int]]] = [(automaton.matcher(), []) for _ in range(3)]
    for _ in range(8):
        for matcher, _ in written:
            for _ in range(rng.randint(0, 5)):
                matcher.prepare(clock.now + rng.randint(1, 4))
            if rng.random() < 0.1:
                automaton.forget()
        for matcher, tokens in written:
            twin = Automaton(rules, vocabulary).matcher()
            assert all(twin.accept(token) for token in tokens)
            expected = allowed(twin, vocabulary)
            assert allowed(matcher, vocabulary) == expected
            going_on = sorted(expected - set(vocabulary.end_ids))
            if going_on:
                tokens.append(rng.choice(going_on))
                assert matcher.accept(tokens[-1])
