"""Masks of a batch: each row is its matcher's own, and what does not fit is refused before any row is touched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from latticework.lang.errors import InvalidArgument
from latticework.lang.ir import JsonSchema, Regex
from latticework.runtime.constrain import compile_constraint, fill_masks
from tests.runtime.constrain.oracle import byte_vocabulary

VOCABULARY = byte_vocabulary(b"ab", b'{"', b'":')


def test_a_batch_of_several_constraints_gets_each_matchers_mask() -> None:
    digits, text = compile_constraint(Regex("[0-9]{2,5}"), VOCABULARY), compile_constraint(JsonSchema({}), VOCABULARY)
    matchers = [digits.matcher(), text.matcher(), digits.matcher(), digits.matcher()]
    assert matchers[2].accept(ord("7"))
    budgets = [None, 3, 2, 0]
    for remaining in (None, budgets):
        rows = np.full((4, VOCABULARY.words), -1, np.int32)
        fill_masks(matchers, rows, remaining)
        for matcher, row, budget in zip(matchers, rows, remaining or [None] * 4, strict=True):
            alone = np.full(VOCABULARY.words, -1, np.int32)
            matcher.fill_mask(alone, budget)
            assert np.array_equal(row, alone)
    fill_masks([], np.zeros((0, VOCABULARY.words), np.int32))


@pytest.mark.parametrize(
    ("shape", "kind", "remaining", "field"),
    [
        ((2, VOCABULARY.words), np.int32, None, "rows"),
        ((VOCABULARY.words,), np.int32, None, "rows"),
        ((1, VOCABULARY.words), np.uint32, None, "rows"),
        ((1, VOCABULARY.words), np.int32, [1, 2], "remaining"),
    ],
)
def test_rows_and_budgets_that_do_not_fit_are_refused(
    shape: tuple[int, ...], kind: type, remaining: list[int | None] | None, field: str
) -> None:
    rows: NDArray[Any] = np.full(shape, 3, kind)
    with pytest.raises(InvalidArgument) as raised:
        fill_masks([compile_constraint(Regex("a"), VOCABULARY).matcher()], rows, remaining)
    assert raised.value.field == field
    assert (rows == 3).all()
