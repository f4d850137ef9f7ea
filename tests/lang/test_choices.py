"""How a select decides: on numbers alone."""

import math
from collections import Counter
from typing import Any, get_args

import pytest

import latticework as lw
from latticework.lang.choices import ChoicesSamplingMethod, decide, draw, normalised
from latticework.lang.ir import SelectMethod

METHODS: tuple[SelectMethod, ...] = get_args(SelectMethod)


def mean(*options: list[float]) -> tuple[int, tuple[float, ...]]:
    return decide("token_length_normalized", options)[:2]


# ---------------------------------------------------------------- the mean


def test_the_highest_mean_wins() -> None:
    assert mean([-3.0], [-1.0, -2.0], [-2.0, -2.0]) == (1, (-3.0, -1.5, -2.0))


@pytest.mark.parametrize("method", METHODS)
def test_a_logprob_of_exactly_zero_counts(method: SelectMethod) -> None:
    chosen, scores, probabilities = decide(method, [[-0.5], [-1.0, 0.0, 0.0]], unconditional=[-0.5, -1.0])
    expected = {
        "token_length_normalized": (1, (-0.5, -1 / 3)),
        "greedy_token_selection": (0, (3.0, 0.0)),
        "unconditional_likelihood_normalized": (0, (0.0, 0.0)),
        "probability": (0, (-0.5, -1.0)),
    }[method]
    assert (chosen, scores) == (expected[0], pytest.approx(expected[1]))
    assert probabilities == pytest.approx((1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(0.5))))
    assert decide(method, [[-1.0], [0.0]], unconditional=[0.0, 0.0]).chosen == 1


@pytest.mark.parametrize("method", METHODS)
def test_ties_go_to_the_lower_index(method: SelectMethod) -> None:
    assert decide(method, [[-2.0], [-1.0], [-1.0]], unconditional=[0.0] * 3).chosen == 1


@pytest.mark.parametrize("method", METHODS)
def test_an_impossible_option_loses_and_all_impossible_ones_still_decide(method: SelectMethod) -> None:
    assert decide(method, [[-math.inf, 0.0], [-9.0, -9.0]], unconditional=[-math.inf, 0.0]).chosen == 1
    assert decide(method, [[-math.inf], [-math.inf]], unconditional=[0.0, 0.0]).chosen == 0


def test_the_mean_does_not_depend_on_the_order_of_the_tokens() -> None:
    numbers = [-1e-9, -30.0, -0.1, -1e-3, -7.7]
    assert len(set(mean(numbers, numbers[::-1], sorted(numbers))[1])) == 1


# ---------------------------------------------------------------- the other methods


def test_greedy_selection_goes_token_by_token_and_fills_short_options_up_with_their_mean() -> None:
    options = [[-1.0, -5.0], [-1.0, -2.0, -9.0], [-1.0], [-2.0, 0.0, 0.0]]
    # After the first token three are left; then -5.0, -2.0 and the mean -1.0 of the third stand against each other.
    assert decide("greedy_token_selection", options)[:2] == (2, (1.0, 1.0, 3.0, 0.0))


def test_the_unconditional_method_takes_off_what_an_option_says_without_the_prefix() -> None:
    options = [[-1.0, -0.1], [-2.0, -2.0]]
    chosen, scores, _ = decide("unconditional_likelihood_normalized", options, unconditional=[-0.1, -6.0])
    assert (chosen, scores) == (1, pytest.approx(((-1.1 + 0.1) / 2, (-4.0 + 6.0) / 2)))


def test_probability_is_that_of_the_whole_option_and_no_mean() -> None:
    long, short = [-0.1] * 10, [-0.5]
    assert mean(long, short)[0] == 0
    chosen, scores, probabilities = decide("probability", [long, short])
    assert (chosen, scores) == (1, pytest.approx((-1.0, -0.5)))
    assert sum(probabilities) == pytest.approx(1.0)


# ---------------------------------------------------------------- drawing


def test_a_draw_depends_on_the_seed_alone_and_has_the_probabilities_of_the_options() -> None:
    options = [[math.log(0.6)], [math.log(0.3)], [math.log(0.1)]]
    chosen = [decide("probability", options, temperature=1.0, seed=seed).chosen for seed in range(3000)]
    assert chosen == [decide("probability", options, temperature=1.0, seed=seed).chosen for seed in range(3000)]
    counts = Counter(chosen)
    for index, expected in enumerate((0.6, 0.3, 0.1)):
        assert counts[index] / 3000 == pytest.approx(expected, abs=0.04)


def test_temperature_sharpens_and_flattens() -> None:
    scores = (-1.0, -2.0)
    assert normalised(scores, 0.01)[0] > 0.999
    assert normalised(scores, 100.0)[0] == pytest.approx(0.5, abs=0.01)
    assert normalised((-math.inf, -math.inf)) == (0.5, 0.5)
    assert [draw((0.0, 1.0, 0.0), seed) for seed in range(50)] == [1] * 50


# ---------------------------------------------------------------- SGLang's objects

CHOICES = ["yes", "not at all", "maybe so"]
GIVEN: dict[str, Any] = {
    "choices": CHOICES,
    "normalized_prompt_logprobs": [-0.3, -0.2, -0.4],
    "input_token_logprobs": [
        [[-0.3, 1, None]],
        [[-0.6, 2, None], [0.0, 3, None], [0.0, 4, None]],
        [[-0.2, 5, None], [-0.6, 6, None]],
    ],
    "output_token_logprobs": [[[-1.0, 9, None]]] * 3,
    "unconditional_token_logprobs": [
        [[None, 1, None]],
        [[None, 2, None], [0.0, 3, None], [0.0, 4, None]],
        [[None, 5, None], [-2.6, 6, None]],
    ],
}


@pytest.mark.parametrize(
    ("method", "decision", "name", "numbers"),
    [
        (lw.token_length_normalized, "not at all", "normalized_prompt_logprobs", [-0.3, -0.2, -0.4]),
        (
            lw.greedy_token_selection,
            "maybe so",
            "greedy_logprob_matrix",
            [[-0.3, -0.3, -0.3], [-0.6, 0.0, 0.0], [-0.2, -0.6, -0.4]],
        ),
        (
            lw.unconditional_likelihood_normalized,
            "maybe so",
            "normalized_unconditional_prompt_logprobs",
            [-0.3, -0.2, 0.9],
        ),
        (lw.probability, "yes", "normalized_prompt_logprobs", [-0.3, -0.2, -0.4]),
    ],
)
def test_a_method_decides_on_sglangs_arguments(
    method: ChoicesSamplingMethod, decision: str, name: str, numbers: list[Any]
) -> None:
    found = method(**GIVEN)
    assert found.decision == decision
    for row, expected in zip(found.meta_info[name], numbers, strict=True):
        assert row == pytest.approx(expected, abs=0.01)
    assert found.meta_info["input_token_logprobs"] == GIVEN["input_token_logprobs"]


def test_a_method_computes_the_means_it_is_not_given() -> None:
    given = {**GIVEN, "normalized_prompt_logprobs": None}
    assert lw.token_length_normalized(**given).meta_info["normalized_prompt_logprobs"] == pytest.approx(
        [-0.3, -0.2, -0.4]
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"input_token_logprobs": [[[-1.0, 1, None]]]},
        {"input_token_logprobs": [[], [[-1.0, 1, None]], [[-1.0, 1, None]]]},
        {"unconditional_token_logprobs": None},
        {"choices": [], "input_token_logprobs": []},
    ],
)
def test_numbers_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(lw.InvalidArgument):
        lw.unconditional_likelihood_normalized(**{**GIVEN, **wrong})


def test_every_method_of_the_ir_has_an_object_of_its_name() -> None:
    assert [getattr(lw, name).name for name in METHODS] == list(METHODS)
