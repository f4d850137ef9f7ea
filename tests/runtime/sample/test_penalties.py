"""Penalties and bias against a scalar twin, and tokens that are barred."""

import random
from typing import Any

import numpy as np
import pytest
import torch

from latticework.lang.ir import Sampling
from latticework.runtime.sample.penalties import penalised
from latticework.runtime.sample.sampler import Row, sample
from tests.runtime.sample.test_sampler import pack

V = 40


def reference(logits: list[float], sampling: Sampling, before: list[int], output: list[int]) -> list[float]:
    """One token at a time, as the docstring states it."""
    bias = dict(sampling.logit_bias)
    result = []
    for token, x in enumerate(logits):
        if token in before or token in output:
            x = x / sampling.repetition_penalty if x > 0 else x * sampling.repetition_penalty
        x -= sampling.frequency_penalty * output.count(token)
        x -= sampling.presence_penalty if token in output else 0.0
        result.append(x + bias.get(token, 0.0))
    return result


@pytest.mark.parametrize("seed", range(40))
def test_penalties_equal_the_scalar_rule(seed: int) -> None:
    choose = random.Random(seed)
    logits = [choose.choice((0.0, choose.gauss(0, 4))) for _ in range(V)]
    before = [choose.randrange(V) for _ in range(choose.choice((0, 5, 60)))]
    output = [choose.randrange(V) for _ in range(choose.choice((0, 3, 50)))]
    sampling = Sampling(
        frequency_penalty=choose.choice((0.0, -2.0, 0.3)),
        presence_penalty=choose.choice((0.0, 2.0, -0.7)),
        repetition_penalty=choose.choice((1.0, 1.3, 0.5)),
        logit_bias=tuple((token, choose.uniform(-100, 100)) for token in choose.sample(range(V), 3)),
    )
    given = np.array(logits)
    found = penalised(given, sampling, np.unique(np.array(before, dtype=np.intp)), output)
    assert found.tolist() == pytest.approx(reference(logits, sampling, before, output), abs=1e-12)
    assert given.tolist() == logits


def test_nothing_asked_costs_no_copy() -> None:
    logits = np.zeros(4, dtype=np.float32)
    assert penalised(logits, Sampling(), None, [1, 1]) is logits


def test_a_bias_decides_and_the_mask_has_the_last_word() -> None:
    logits = torch.zeros(1, V)
    sampling = Sampling(temperature=0.0, logit_bias=((7, 100.0), (9, 50.0)))
    assert sample(logits, [Row(sampling, 0)]).tokens == [7]
    assert sample(logits, [Row(sampling, 0, pack({9, 3}, V))]).tokens == [9]


def test_penalties_come_before_the_temperature() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0]])
    sampling = Sampling(temperature=0.01, presence_penalty=1.5, seed=1)
    assert sample(logits, [Row(sampling, 0, output=[0])]).tokens == [1]


def test_logprobs_stay_the_models_own() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0]])
    plain = sample(logits, [Row(Sampling(temperature=0.0, logprobs=3), 0)]).logprobs[0]
    changed = sample(logits, [Row(Sampling(temperature=0.0, logprobs=3, logit_bias=((2, 9.0),)), 0)]).logprobs[0]
    assert plain is not None
    assert changed is not None
    assert plain.top == changed.top
    assert changed.logprob == plain.top[2][1]


@pytest.mark.parametrize("more", [{"temperature": 0.0}, {"seed": 3}, {"seed": 3, "top_k": 2, "top_p": 0.5}])
def test_barred_tokens_come_only_where_nothing_else_is_left(more: dict[str, Any]) -> None:
    logits = torch.arange(8, dtype=torch.float64)[None]
    rows = [
        Row(Sampling(**more), 0, barred=(7, 6)),
        Row(Sampling(**more), 0, pack({2, 7}, 8), barred=(7, 6)),
        Row(Sampling(**more), 0, pack({7}, 8), barred=(7, 6)),
    ]
    first, second, third = sample(logits.repeat(3, 1), rows).tokens
    assert first < 6
    assert (second, third) == (2, 7)
