"""Schemas that others wrote, with instances: read from where `LATTICEWORK_DATA` says, never kept here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.constraint_cases import OPEN_DATA, Cases, gather
from latticework.lang.errors import ConstraintError, ModelNotFound
from latticework.lang.ir import JsonSchema
from latticework.runtime.constrain import Automaton, Vocabulary, compile_constraint

DATA = Path(os.environ.get("LATTICEWORK_DATA", "../shared/data"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (DATA / OPEN_DATA).is_file(), reason=f"{OPEN_DATA} is not in {DATA}; set LATTICEWORK_DATA"),
]


def cases_of(name: str, sample: int | None) -> Cases:
    try:
        return gather((name,), DATA, sample)
    except ModelNotFound as error:
        pytest.skip(str(error))


def is_accepted(automaton: Automaton, tokens: list[int]) -> bool:
    matcher = automaton.matcher()
    return all(matcher.accept(token) for token in tokens) and matcher.is_complete()


def faults(automaton: Automaton, tests: list[dict[str, Any]]) -> tuple[int, int]:
    """Valid instances that are refused in either form, and invalid ones that are accepted in either."""
    refused = accepted = 0
    for test in tests:
        verdicts = [is_accepted(automaton, form) for form in test["forms"]]
        refused += test["valid"] and not all(verdicts)
        accepted += not test["valid"] and any(verdicts)
    return refused, accepted


@pytest.mark.parametrize(
    ("name", "sample", "share"), [("json", 300, 0.95), ("jsts", None, 0.8), ("keyword", None, 0.95)]
)
def test_nothing_invalid_is_accepted_and_most_schemas_are_fully_right(
    name: str, sample: int | None, share: float
) -> None:
    cases = cases_of(name, sample)
    vocabulary = Vocabulary(cases.tokens, tuple(cases.end_ids))
    right = 0
    with_tests = [case for case in cases.cases if case["tests"]]
    for case in with_tests:
        constraint = JsonSchema(case["source"], whitespace="flexible", key_order="schema", formats="assert")
        refusal: ConstraintError | None = None
        try:
            automaton = compile_constraint(constraint, vocabulary)
        except ConstraintError as error:
            refusal = error
        if refusal is not None:
            assert getattr(refusal, "pointer", None) is not None, f"{case['id']}: {refusal}"
            continue
        refused, accepted = faults(automaton, case["tests"])
        assert not accepted, case["id"]
        right += not refused
    assert right >= share * len(with_tests), f"{right} of {len(with_tests)}"
