"""The learned cost of a step."""

from __future__ import annotations

import random

import pytest

from latticework.runtime.schedule.step_cost import LEAST_TOKENS, StepCost


def test_nothing_is_known_before_the_first_step() -> None:
    assert StepCost().prompt_tokens(1.0, 4) is None


def test_a_line_is_found_through_noise() -> None:
    cost, rng = StepCost(), random.Random(2)
    for _ in range(400):
        tokens = rng.choice([1, 4, 8, 100, 500])
        cost.observe(tokens, (0.010 + 0.0002 * tokens) * rng.uniform(0.9, 1.1))
    fixed, slope = cost.line()
    assert fixed == pytest.approx(0.010, rel=0.5)
    assert slope == pytest.approx(0.0002, rel=0.2)
    assert cost.prompt_tokens(0.050, 8) == pytest.approx((0.050 - 0.010) / 0.0002 - 8, rel=0.3)


def test_a_change_of_speed_is_learned() -> None:
    cost = StepCost()
    for speed in (0.0001, 0.001):
        for n in range(300):
            cost.observe(1 + n % 50, 0.002 + speed * (1 + n % 50))
    assert cost.line()[1] == pytest.approx(0.001, rel=0.05)


def test_steps_that_are_all_alike_are_taken_as_all_per_token() -> None:
    cost = StepCost()
    for _ in range(10):
        cost.observe(4, 0.008)
    assert cost.line() == (0.0, pytest.approx(0.002))


def test_a_limit_that_cannot_be_met_still_lets_prompts_end() -> None:
    cost = StepCost()
    for tokens in (1, 100, 200):
        cost.observe(tokens, 1.0 + tokens)
    assert cost.prompt_tokens(0.001, 50) == LEAST_TOKENS
