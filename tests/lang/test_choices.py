"""How a select decides."""

import math
from typing import get_args

import pytest

from latticework.lang.choices import METHODS, Decision, decide, token_length_normalized
from latticework.lang.ir import SelectMethod


def test_the_highest_mean_wins() -> None:
    assert token_length_normalized([[-3.0], [-1.0, -2.0], [-2.0, -2.0]]) == Decision(1, (-3.0, -1.5, -2.0))


def test_a_logprob_of_exactly_zero_counts() -> None:
    chosen, scores = token_length_normalized([[-0.5], [-1.0, 0.0, 0.0]])
    assert chosen == 1
    assert scores == pytest.approx((-0.5, -1 / 3))
    assert token_length_normalized([[-1.0], [0.0]]) == Decision(1, (-1.0, 0.0))


def test_ties_go_to_the_lower_index() -> None:
    assert token_length_normalized([[-2.0], [-1.0], [-1.0, -1.0]]).chosen == 1


def test_an_impossible_option_loses_and_all_impossible_ones_still_decide() -> None:
    assert token_length_normalized([[-math.inf, 0.0], [-9.0]]).chosen == 1
    assert token_length_normalized([[-math.inf], [-math.inf]]) == Decision(0, (-math.inf, -math.inf))


def test_the_mean_does_not_depend_on_the_order_of_the_tokens() -> None:
    numbers = [-1e-9, -30.0, -0.1, -1e-3, -7.7]
    scores = token_length_normalized([numbers, numbers[::-1], sorted(numbers)]).scores
    assert len(set(scores)) == 1


def test_every_method_of_the_ir_is_there() -> None:
    assert set(METHODS) == set(get_args(SelectMethod))
    assert decide("token_length_normalized", [[-1.0]]).chosen == 0
