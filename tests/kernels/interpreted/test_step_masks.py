"""The masks of one step (rows within a budget, barred tokens) against their twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from latticework.kernels.affordable import UNBOUNDED, Automata, affordable, affordable_reference
from latticework.kernels.automaton import TokenBytes, mask_rows
from latticework.kernels.barred import bar, bar_reference
from tests.kernels.interpreted.device import DEVICE, tensor_of


def make_automata(states: int, tokens: int, seed: int) -> tuple[Automata, TokenBytes]:
    """A random automaton over three bytes, with made-up costs, and tokens of none to nine of those and a fourth."""
    random = np.random.default_rng(seed)
    transitions = np.full((states, 256), -1, dtype=np.int32)
    transitions[:, [0, 97, 255]] = random.integers(-1, states, (states, 3))
    words = [
        bytes(random.choice([0, 97, 255, 98], random.integers(0, 10), p=[0.32, 0.32, 0.32, 0.04]))
        for _ in range(tokens)
    ]
    vocabulary = TokenBytes.of(words, DEVICE)
    table = tensor_of(transitions)
    masks = mask_rows(table, vocabulary)
    masks[:, tokens // 64] |= 1 << 5  # an end token, say
    costs = tensor_of(random.integers(0, 12, states).astype(np.int32))
    return Automata(table, masks, costs, torch.full_like(costs, 13)), vocabulary


@pytest.mark.parametrize(("states", "tokens"), [(1, 1), (7, 40), (9, 700)])
def test_rows_within_a_budget_equal_their_twin(states: int, tokens: int) -> None:
    automata, vocabulary = make_automata(states, tokens, seed=tokens)
    rows = [*range(states), -1, -2, 0]
    where = tensor_of(np.array(rows, np.int32))
    left = tensor_of(np.array([*(3 * s % 14 for s in range(states)), 1, 1, UNBOUNDED], np.int32))
    out = [torch.zeros(len(rows), -(-tokens // 32), dtype=torch.int32) for _ in range(2)]
    affordable(where, left, automata, vocabulary, out[0])
    affordable_reference(where, left, automata, vocabulary, out[1])
    assert _known(out[0], tokens).tolist() == _known(out[1], tokens).tolist()
    assert _known(out[0][-3:-1], tokens).all()  # without a constraint
    assert out[0][-1].tolist() == automata.masks[0].tolist()  # as it is


def _known(rows: Tensor, tokens: int) -> Tensor:
    """bool [R, V]"""
    bits = (rows[:, :, None] >> torch.arange(32)) & 1
    return bits.flatten(1)[:, :tokens].bool()


@pytest.mark.parametrize("tokens", [32, 40, 700])
def test_barred_tokens_are_left_out_unless_they_are_all(tokens: int) -> None:
    everything = torch.full((4, -(-tokens // 32)), -1, dtype=torch.int32)
    everything[2] = 0
    everything[2, 0] = -(1 << 31) + 1  # tokens 0 and 31: both are barred
    barred = tensor_of(np.array([[0, 31, -1]] * 3 + [[tokens - 1, 3, 0]], np.int64))
    until = tensor_of(np.array([[5, 5, 0], [5, 9, 0], [9, 9, 9], [9, 9, 1]], np.int64))
    positions = tensor_of(np.array([4, 5, 0, 1], np.int64))
    out = [everything.clone(), everything.clone()]
    bar(out[0], barred, until, positions, tokens)
    bar_reference(out[1], barred, until, positions, tokens)
    found = _known(out[0], tokens)
    assert found.tolist() == _known(out[1], tokens).tolist()
    left_out = [(~row).nonzero().flatten().tolist() for row in found]
    assert left_out[:2] == [[0, 31], [31]]
    assert out[0][2].tolist() == everything[2].tolist()
    assert left_out[3] == [3, tokens - 1]


def test_wrong_columns_are_named() -> None:
    automata, vocabulary = make_automata(3, 40, seed=1)
    states = torch.zeros(2, dtype=torch.int32)
    out = torch.zeros(2, 2, dtype=torch.int32)
    with pytest.raises(TypeError, match="remaining"):
        affordable(states, states.long(), automata, vocabulary, out)
    with pytest.raises(TypeError, match="until"):
        bar(out, torch.zeros(2, 3, dtype=torch.int64), states, states.long(), 40)
