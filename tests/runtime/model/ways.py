"""Ways in which a model's tokens may come, and that each gives transformers' logits."""

from __future__ import annotations

from typing import Any

import torch

from latticework.kernels.cpu.library import Library
from latticework.runtime.model.base import Model
from latticework.runtime.model.runner import ModelRunner
from tests.runtime.model.by_hand import Row, make_runner, step

TOLERANCE = 1e-4
FIRST = [int(token) for token in torch.randint(0, 259, (29,), generator=torch.Generator().manual_seed(1))]
SECOND = [
    *FIRST[:8],
    *(int(token) for token in torch.randint(0, 259, (9,), generator=torch.Generator().manual_seed(2))),
]


def whole(runner: ModelRunner) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = step(runner, [(Row(list(range(10, 20))), FIRST), (Row(list(range(20, 30))), SECOND)])
    return first, second


def chunked(runner: ModelRunner) -> tuple[torch.Tensor, torch.Tensor]:
    """The first in chunks of 5, the second token by token beside it."""
    one, two = Row([3, 1, 4, 15, 9, 2, 6, 5]), Row([30, 8, 7, 31, 40])
    found: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for start in range(0, 30, 5):
        a, b = step(runner, [(one, FIRST[start : start + 5]), (two, SECOND[one.computed // 5 : one.computed // 5 + 1])])
        found[0].append(a)
        found[1].append(b)
    found[1].extend(step(runner, [(two, SECOND[two.computed :])]))
    return torch.cat(found[0]), torch.cat(found[1])


def after_a_prefix_hit(runner: ModelRunner) -> tuple[torch.Tensor, torch.Tensor]:
    """The second reads the first's pages for the 8 tokens they share, then both decode in one batch."""
    one = Row([3, 1, 4, 15, 9, 2, 6, 5])
    found = [step(runner, [(one, FIRST[:20])])[0]]
    two = Row([*one.pages[:2], 30, 31, 32], computed=8)
    other = [found[0][:8], step(runner, [(two, SECOND[8:12])])[0]]
    for index in range(5):
        a, b = step(runner, [(one, [FIRST[20 + index]]), (two, [SECOND[12 + index]])])
        found.append(a)
        other.append(b)
    found += step(runner, [(one, FIRST[25:])])
    return torch.cat(found), torch.cat(other)


def greedy(runner: ModelRunner, count: int) -> list[int]:
    row, new = Row(list(range(10, 20))), FIRST
    for _ in range(count):
        (logits,) = step(runner, [(row, new)])
        new = [int(logits[-1].argmax())]
    return (row.tokens + new)[len(FIRST) :]


def check_parity(ours: Model, theirs: Any, library: Library | None = None) -> None:
    """Logits and greedy tokens of two float32 models are equal, whatever way the tokens come. library: the C++
    operations; None: torch's."""
    with torch.no_grad():
        expected = [theirs(torch.tensor([tokens])).logits[0] for tokens in (FIRST, SECOND)]
    for way in (whole, chunked, after_a_prefix_hit):
        for logits, other in zip(way(make_runner(ours, torch.float32, library=library)), expected, strict=True):
            assert logits.shape == other.shape
            assert logits.dtype == torch.float32
            assert other.abs().max() > 1.0  # the comparison means something
            assert (logits - other).abs().max() <= TOLERANCE, way.__name__
    written = greedy(make_runner(ours, torch.float32, library=library), 8)
    with torch.no_grad():
        choices = theirs(torch.tensor([FIRST + written])).logits[0, len(FIRST) - 1 : -1].argmax(-1)
    assert written == choices.tolist()
