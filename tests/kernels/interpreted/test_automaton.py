"""Mask rows and steps of tabulated automata against their twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from latticework.kernels.automaton import (
    DEAD,
    FREE,
    TokenBytes,
    advance,
    advance_reference,
    mask_rows,
    mask_rows_reference,
)
from tests.kernels.interpreted.device import DEVICE, tensor_of


def make(states: int, tokens: int, seed: int) -> tuple[Tensor, TokenBytes]:
    """A random automaton over three bytes that dies now and then, and tokens of none to nine of those and a fourth."""
    random = np.random.default_rng(seed)
    transitions = torch.full((states, 256), -1, dtype=torch.int32)
    transitions[:, [0, 97, 255]] = tensor_of(random.integers(-1, states, (states, 3))).int()
    words = [
        bytes(random.choice([0, 97, 255, 98], random.integers(0, 10), p=[0.32, 0.32, 0.32, 0.04]))
        for _ in range(tokens)
    ]
    return transitions, TokenBytes.of(words, DEVICE)


@pytest.mark.parametrize(("states", "tokens"), [(5, 70), (1, 1), (3, 600)])
def test_mask_rows_equal_their_twin(states: int, tokens: int) -> None:
    tables = make(states, tokens, states)
    assert torch.equal(mask_rows(*tables), mask_rows_reference(*tables))


def test_advancing_equals_its_twin() -> None:
    transitions, vocabulary = make(6, 60, 2)
    states = torch.arange(60).remainder(8).sub(2).int()  # DEAD, FREE, then states
    tokens = torch.arange(60).roll(7)
    tokens[5] = -1
    got, expected = states.clone(), states.clone()
    advance(got, tokens, transitions, vocabulary)
    advance_reference(expected, tokens, transitions, vocabulary)
    assert torch.equal(got, expected)
    assert bool((got == DEAD).any())
    assert bool((got[states == FREE] == FREE).all())


def test_what_automata_cannot_take_is_named() -> None:
    transitions, vocabulary = make(2, 5, 1)
    with pytest.raises(TypeError, match=r"mask_rows: transitions \(2, 255\)"):
        mask_rows(transitions[:, :255], vocabulary)
    with pytest.raises(TypeError, match=r"advance: tokens \(2,\) torch.int32; expected torch.int64"):
        advance(torch.zeros(2).int(), torch.zeros(2).int(), transitions, vocabulary)
