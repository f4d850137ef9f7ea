"""The logits processor on scores of its own making: no model, the same arithmetic."""

from __future__ import annotations

import random

import pytest
import torch

from latticework.lang.errors import BudgetTooSmall, InvalidArgument
from latticework.lang.ir import Regex
from latticework.runtime.constrain import ConstraintLogitsProcessor, compile_constraint
from tests.runtime.constrain.oracle import byte_vocabulary

VOCABULARY = byte_vocabulary(b"ab", b"bab")
END = VOCABULARY.end_ids[0]
AUTOMATON = compile_constraint(Regex("(ab){1,4}c"), VOCABULARY)


def allowed(scores: torch.Tensor) -> list[set[int]]:
    return [set(torch.nonzero(torch.isfinite(row)).flatten().tolist()) for row in scores]


def step(processor: ConstraintLogitsProcessor, rows: list[list[int]]) -> list[set[int]]:
    return allowed(processor(torch.tensor(rows), torch.zeros(len(rows), VOCABULARY.size)))


def test_rows_are_masked_each_by_what_it_has_written() -> None:
    processor = ConstraintLogitsProcessor(AUTOMATON)
    assert step(processor, [[7], [7]]) == [{ord("a"), 256}] * 2
    assert step(processor, [[7, 256], [7, ord("a")]]) == [{ord("a"), 256, ord("c")}, {ord("b"), 257}]
    swapped = [[7, ord("a"), 257], [7, 256, ord("c")]]  # beams change places
    assert step(processor, swapped) == [{ord("a"), 256, ord("c")}, {END}]
    after_the_end = step(processor, [[7, 256, ord("c"), END], [7, ord("a"), 257, 256]])
    assert len(after_the_end[0]) == VOCABULARY.size
    assert after_the_end[1] == {ord("a"), 256, ord("c")}


def test_scores_of_allowed_tokens_stay_as_they_are() -> None:
    scores = torch.randn(1, VOCABULARY.size)
    masked = ConstraintLogitsProcessor(AUTOMATON)(torch.tensor([[1]]), scores)
    assert torch.equal(masked[torch.isfinite(masked)], scores[torch.isfinite(masked)])


@pytest.mark.parametrize("seed", range(10))
def test_texts_are_complete_within_the_tokens_that_there_are(seed: int) -> None:
    rng = random.Random(seed)
    budget = rng.randint(3, 7)
    processor = ConstraintLogitsProcessor(AUTOMATON, max_new_tokens=budget)
    ids = [5]
    for _ in range(budget):
        (tokens,) = step(processor, [ids])
        ids.append(rng.choice(sorted(tokens)))
        if ids[-1] == END:
            break
    text = b"".join(VOCABULARY.tokens[token] for token in ids[1:])
    assert text.endswith(b"c")


def test_a_budget_below_the_shortest_text_is_refused() -> None:
    with pytest.raises(BudgetTooSmall, match="max_new_tokens is 1"):
        ConstraintLogitsProcessor(AUTOMATON, max_new_tokens=1)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="scores are for 7 tokens"):
        ConstraintLogitsProcessor(AUTOMATON)(torch.tensor([[1]]), torch.zeros(1, 7))
    processor = ConstraintLogitsProcessor(AUTOMATON)
    step(processor, [[1]])
    with pytest.raises(InvalidArgument, match="not allowed"):
        step(processor, [[1, ord("x")]])
    processor = ConstraintLogitsProcessor(AUTOMATON)
    step(processor, [[1]])
    with pytest.raises(InvalidArgument, match="do not continue"):
        step(processor, [[1, ord("a"), ord("b")]])
