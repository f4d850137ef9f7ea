"""Sets of numbers: bounds, multiples and their opposites against exact arithmetic, and against doubles."""

from __future__ import annotations

import itertools
import json
import math
import random
from decimal import Decimal
from fractions import Fraction
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latticework.lang.ir import JsonSchema
from latticework.runtime.constrain import Automaton, compile_constraint
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.builder import NEVER, Builder
from latticework.runtime.constrain.json_number_sets import Numbers, is_never, meet_numbers
from latticework.runtime.constrain.json_numbers import build_numbers
from tests.runtime.constrain.oracle import accepts, byte_vocabulary
from tests.runtime.constrain.reference import ends

VOCABULARY = byte_vocabulary()
STEPS = [Fraction(1), Fraction(2), Fraction(3), Fraction(10), Fraction(1, 2), Fraction(1, 10), Fraction(7, 4)]
EDGES = [None, *map(Fraction, (-13, -1, 0, 3, 20)), Fraction(-3, 2), Fraction(1, 4), Fraction(99, 10)]
TEXTS = [
    *(str(n) for n in (*range(-31, 32), 99, 100, 101, 1000, -210)),
    *(f"{n / 20:.{places}f}" for n in range(-45, 230, 3) for places in (1, 2)),
    *("0.0", "0.10", "0.05", "0.125", "9.9", "9.90", "9.91", "1.75", "-1.75", "3.50", "10.5", "-1.51"),
]


def compiled(schema: Any, whitespace: Any = "flexible") -> Automaton:
    return compile_constraint(JsonSchema(schema, whitespace=whitespace), VOCABULARY)


def node_texts(numbers: Numbers, *, is_single: bool) -> set[str]:
    """Those of TEXTS that are written for `numbers`."""
    builder = Builder(Limits(), "numbers")
    root = build_numbers(builder, numbers, has_whole_floats=True, is_single=is_single)
    graph = None if root == NEVER else builder.finish(root)
    return {text for text in TEXTS if graph is not None and ends(graph, text.encode())}


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(EDGES),
    st.sampled_from(EDGES),
    st.booleans(),
    st.booleans(),
    st.sets(st.sampled_from(STEPS), max_size=2),
    st.sets(st.sampled_from(STEPS), max_size=2),
)
def test_the_texts_of_a_set_are_those_of_its_numbers(
    low: Fraction | None, high: Fraction | None, above: bool, below: bool, steps: set[Fraction], others: set[Fraction]
) -> None:
    numbers = Numbers(
        low, high, above and low is not None, below and high is not None, frozenset(steps), frozenset(others)
    )
    wanted = {text for text in TEXTS if numbers.has(Fraction(Decimal(text))) and text not in ("-0.0", "-0.00")}
    if is_never(numbers):
        assert not wanted
        return
    found = node_texts(numbers, is_single=False)
    assert found <= wanted
    missing = {text for text in wanted - found if not _is_written_otherwise(text, numbers)}
    assert not missing
    single = node_texts(numbers, is_single=True)
    assert single <= wanted
    values = [Fraction(Decimal(text)) for text in single]
    assert len(values) == len(set(values))


def _is_written_otherwise(text: str, numbers: Numbers) -> bool:
    """1.00 is 1.0 where only whole numbers are wanted, and a number alone is written as Python does."""
    is_whole = Fraction(Decimal(text)).denominator == 1
    has_zeros = "." in text and text.endswith("0") and not text.endswith(".0")
    return has_zeros and (numbers.is_point or (is_whole and numbers.multiples == {Fraction(1)}))


def test_meeting_sets_keeps_exactly_the_common_numbers() -> None:
    rng = random.Random(3)
    sets = [
        Numbers(
            low, high, rng.random() < 0.5 and low is not None, False, frozenset(rng.sample(STEPS, rng.randint(0, 1)))
        )
        for low, high in itertools.product(EDGES[::2], EDGES[1::2])
    ]
    values = [Fraction(Decimal(text)) for text in TEXTS]
    for _ in range(200):
        one, other = rng.choice(sets), rng.choice(sets)
        both = meet_numbers((one,), (other,))
        for value in rng.sample(values, 20):
            assert (one.has(value) and other.has(value)) == any(part.has(value) for part in both)


DOUBLE = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**22), 10**22).map(float)


@settings(max_examples=150, deadline=None)
@given(
    DOUBLE, st.lists(DOUBLE, min_size=4, max_size=8), st.sampled_from(["minimum", "exclusiveMinimum"]), st.booleans()
)
def test_no_double_is_on_the_wrong_side_and_all_on_the_right_side_are_written(
    bound: float, others: list[float], keyword: str, is_upper: bool
) -> None:
    if not abs(bound) < 1e299:
        return
    if is_upper:
        keyword = keyword.replace("Minimum", "Maximum").replace("minimum", "maximum")
    schema = {"type": "number", keyword: bound}
    validator = jsonschema.Draft202012Validator(schema)
    automaton = compiled(schema)
    near = [bound, *(math.nextafter(bound, side) for side in (-math.inf, math.inf))]
    for value in [*near, *others]:
        written = json.dumps(value)
        is_accepted = accepts(automaton, written.encode())
        if not validator.is_valid(value):
            assert not is_accepted, value
        elif abs(value) < 2**53 or abs(value - bound) > abs(bound) / 1e12:
            assert is_accepted or not 1e-300 < abs(value) < 1e307, value


@pytest.mark.parametrize(
    ("schema", "yes", "no"),
    [
        ({"type": "number", "multipleOf": 0.01}, ["1.25", "3", "0.30", "-7.1", "0", "0.0"], ["1.255", "0.001", "1e2"]),
        ({"type": "integer", "multipleOf": 3}, ["0", "3", "-6", "300000000000000000003"], ["1", "-0", "4", "3.5"]),
        ({"type": "number", "multipleOf": 1e-8}, ["12391239123", "1.00000001"], ["1.000000001"]),
        ({"type": "integer", "multipleOf": 1000}, ["0", "5000"], ["500", "5001"]),
        ({"type": "number", "not": {"multipleOf": 1}}, ["0.5", "2.25"], ["1", "1.0", "0", "2.00"]),
        ({"type": "number", "minimum": 10, "multipleOf": 2.5}, ["10", "12.5", "15.0"], ["7.5", "11", "-10"]),
        ({"const": 1e16}, ["10000000000000000", "1e+16"], ["1e16", "10000000000000001"]),
        ({"const": 0.1}, ["0.1"], ["0.10", "0.10000000000000001"]),
        ({"not": {"const": 0.5}}, ["0.4", "0.51", "1e-07"], ["0.5", "0.50", "0.50000000000000000001"]),
        ({"type": "number", "exclusiveMinimum": 0}, ["1e-07", "5.5e-323", "1.5e+300"], ["0", "0.0", "-1e-07"]),
        ({"type": "number", "maximum": 2.5e20}, ["2.5e+20", "1e+20", "-1e+300"], ["2.6e+20", "1e+21"]),
    ],
)
def test_texts_of_numbers(schema: Any, yes: list[str], no: list[str]) -> None:
    automaton = compiled(schema)
    assert [text for text in yes if not accepts(automaton, text.encode())] == []
    assert [text for text in no if accepts(automaton, text.encode())] == []
