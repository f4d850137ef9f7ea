"""Constrained decoding whose states live on the device gives the host matcher's tokens."""

from __future__ import annotations

import random
from typing import TypeAlias

import numpy as np
import pytest
import torch
from torch import Tensor

from latticework.kernels.automaton import TokenBytes, advance, mask_rows
from latticework.kernels.sample import Draws, sample
from latticework.lang.ir import Choices, JsonSchema, Regex, Sampling
from latticework.runtime.constrain import Automaton, Vocabulary, compile_constraint
from latticework.runtime.constrain.tabulate import Table, tabulate
from latticework.runtime.sample import sampler
from tests.kernels.interpreted.device import DEVICE, tensor_of

END = 0
LETTERS = b'abcxyz019 -.,:"{}[]@\\/tfnul'
OBJECT = {"type": "object"}
Kind: TypeAlias = Regex | Choices | JsonSchema
HAND_MADE: list[Kind] = [
    Regex(r"[0-9]{4}-[0-9]{2}"),
    Regex(r"(a|bc)*x?"),
    Regex(r"[a-z]+@[a-z]+\.(com|org)"),
    Regex(r"é+|ü{2,3}a"),
    Choices(("abc", "abx", "xyz")),
    JsonSchema({"properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False, **OBJECT}),
    JsonSchema({"type": "array", "items": {"enum": [0, 1]}, "maxItems": 2}),
    JsonSchema({"enum": ["a", 10, None]}),
    JsonSchema({"type": "string", "maxLength": 3}),
]


def make_vocabulary() -> Vocabulary:
    """An end token, every byte that the constraints need, and longer tokens out of them."""
    pick = random.Random(3)
    longer = {bytes(pick.choices(LETTERS, k=pick.randint(2, 4))) for _ in range(120)}
    whole = ["é", "ü", "ééa", '{"a":', "true", "false", "null", "10", "abc"]
    single = [bytes([byte]) for byte in range(32, 127)] + [b"\xc3", b"\xa9", b"\xbc"]
    tokens = [*single, *sorted(longer - set(single)), *(text.encode() for text in whole)]
    return Vocabulary([b"", *tokens, b""], (END,))


def random_pattern(seed: int) -> Regex:
    pick = random.Random(seed)

    def part(depth: int) -> str:
        kind = pick.randint(0, 4 if depth else 1)
        if kind <= 1:
            return pick.choice(["a", "b", "[xyz]", "[0-9]", "01", "c"])
        if kind == 2:
            return part(depth - 1) + part(depth - 1)
        if kind == 3:
            return f"({part(depth - 1)}|{part(depth - 1)})"
        return f"({part(depth - 1)}){pick.choice(['*', '+', '?', '{2,3}'])}"

    return Regex(part(3) + part(2))


class OnTheDevice:
    """Automata stacked into one table, with end tokens allowed where texts may end."""

    def __init__(self, tables: list[Table], vocabulary: Vocabulary) -> None:
        offsets = np.cumsum([0, *(len(table.transitions) for table in tables)])
        stacked = [
            np.where(table.transitions < 0, -1, table.transitions + offset)
            for table, offset in zip(tables, offsets[:-1], strict=True)
        ]
        self.transitions = tensor_of(np.concatenate(stacked).astype(np.int32))
        self.bytes = TokenBytes.of(list(vocabulary.tokens), DEVICE)
        self.rows = mask_rows(self.transitions, self.bytes)
        accepts = tensor_of(np.concatenate([table.accepts for table in tables]))
        self.rows[accepts, END // 32] |= 1 << (END % 32)
        self.states = tensor_of(offsets[:-1].astype(np.int32))

    def step(self, logits: Tensor, draws: Draws) -> Tensor:
        tokens, status = sample(logits, draws)
        assert not status.any(), status
        advance(self.states, tokens, self.transitions, self.bytes)
        return tokens


def check(constraints: list[Kind], steps: int, temperature: float) -> None:
    vocabulary = make_vocabulary()
    automata: list[Automaton] = [compile_constraint(constraint, vocabulary) for constraint in constraints]
    tables = [table for automaton in automata if (table := tabulate(automaton)) is not None]
    assert len(tables) == len(constraints)
    device = OnTheDevice(tables, vocabulary)
    matchers = [automaton.matcher() for automaton in automata]
    open_rows = list(range(len(matchers)))
    torch.manual_seed(len(constraints))
    seeds = torch.arange(len(matchers)) * 977
    for position in range(steps):
        logits = 2 * torch.randn(len(matchers), vocabulary.size)
        logits[:, END] -= 2.0
        draws = Draws(
            temperature=torch.full((len(matchers),), temperature, dtype=torch.float64),
            top_k=torch.zeros(len(matchers), dtype=torch.int32),
            top_p=torch.ones(len(matchers), dtype=torch.float64),
            min_p=torch.zeros(len(matchers), dtype=torch.float64),
            seeds=seeds,
            positions=torch.full((len(matchers),), position),
            masks=device.rows,
            states=device.states.clone(),
        )
        tokens = device.step(logits, draws).tolist()
        expected = []
        for r in open_rows:
            row = np.empty(-(-vocabulary.size // 32), np.int32)
            matchers[r].fill_mask(row)
            expected.append(sampler.Row(Sampling(temperature=temperature, seed=int(seeds[r])), position, row))
        wanted = sampler.sample(logits[open_rows], expected).tokens
        assert [tokens[r] for r in open_rows] == wanted
        for r, token in zip(open_rows, wanted, strict=True):
            assert matchers[r].accept(token)
        open_rows = [r for r, token in zip(open_rows, wanted, strict=True) if token != END]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_states_on_the_device_give_the_host_matchers_tokens(temperature: float) -> None:
    check(list(HAND_MADE), 6, temperature)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_fifty_automata_on_the_device_give_the_host_matchers_tokens(temperature: float) -> None:
    check([*HAND_MADE, *(random_pattern(seed) for seed in range(42))], 20, temperature)


def test_automata_with_too_many_states_have_no_table() -> None:
    automaton = compile_constraint(Regex(r"[a-z]{100}"), make_vocabulary())
    assert tabulate(automaton, most_states=50) is None
    table = tabulate(automaton, most_states=200)
    assert table is not None
    assert int(table.accepts.sum()) == 1
