"""Drawing in C++ against its twin in numpy: the same tokens, always, and where the twin has to decide."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from latticework.kernels.cpu.draw import (
    DRAWN,
    INFINITE,
    NOT_A_NUMBER,
    NOTHING_ALLOWED,
    NOTHING_LIKELY,
    UNDECIDED,
    Draw,
    draw,
    draw_reference,
    draw_undecided,
    uniforms,
)
from latticework.kernels.cpu.library import DTYPES, Library
from latticework.runtime.sample.philox import uniform

SIZES = [1, 5, 128, 300, 4099]
LOGITS = 20_000  # of the large rows


@pytest.fixture
def native(library: Library | None) -> Library:
    if library is None:
        pytest.skip("needs a C++ compiler")
    return library


def pack(allowed: Sequence[int], size: int) -> NDArray[np.int32]:
    words = np.zeros(-(-size // 32), dtype=np.uint32)
    for token in allowed:
        words[token // 32] |= np.uint32(1 << token % 32)
    return words.view(np.int32)


def random_draws(count: int, size: int, choose: random.Random) -> list[Draw]:
    draws = []
    for row in range(count):
        kept = choose.sample(range(size), choose.choice((1, max(1, size // 50), size - size // 10)))
        mask = choose.choice((None, pack(kept, size)))
        draws.append(
            Draw(
                row,
                choose.choice((0.0, 0.3, 1.0, 1.0, 2.5, 1e-300)),
                choose.random(),
                choose.choice((-1, 0, 1, 5, 299, 1000)),
                choose.choice((1.0, 1.0, 0.01, 0.5, 0.95, 0.999)),
                choose.choice((0.0, 0.0, 0.05, 1.0)),
                mask,
                tuple(choose.sample(range(size), min(size, choose.choice((0, 0, 2))))),
            )
        )
    return draws


def random_logits(count: int, size: int, seed: int) -> Tensor:
    noise = torch.Generator().manual_seed(seed)
    spread = torch.tensor([0.1, 1.0, 6.0, 40.0])[torch.randint(4, (count, 1), generator=noise)]
    return torch.randn(count, size, generator=noise) * spread


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_drawn_tokens_are_the_twins(native: Library, dtype: torch.dtype, size: int) -> None:
    logits = random_logits(300, size, seed=size).to(dtype)  # 16-bit numbers have many ties
    draws = random_draws(300, size, random.Random(size))
    assert draw(native, logits, draws) == draw_reference(logits, draws)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_rows_are_drawn_without_the_twin(native: Library, dtype: torch.dtype) -> None:
    choose = random.Random(1)
    logits = random_logits(60, LOGITS, seed=1).to(dtype)
    kinds = ((-1, 1.0, 0.0), (-1, 1.0, 1e-3), (40, 1.0, 0.0), (700, 0.9, 0.0), (-1, 0.95, 0.0), (-1, 0.999, 1e-4))
    draws = [Draw(row, 0.8, choose.random(), *choose.choice(kinds)) for row in range(60)]
    tokens, statuses = draw_undecided(native, logits, draws)
    assert statuses == [DRAWN] * 60
    assert tokens == draw_reference(logits, draws)[0]


@pytest.mark.parametrize("masked", [False, True])
def test_next_to_an_edge_the_token_is_the_twins_or_left_to_it(native: Library, masked: bool) -> None:
    logits = random_logits(1, LOGITS, seed=4) * 0.2
    allowed = np.arange(1, LOGITS, 3) if masked else np.arange(LOGITS)
    mask = pack(allowed.tolist(), LOGITS) if masked else None
    x = logits[0].double().numpy()[allowed]
    edges = np.cumsum(np.exp(x - x.max()))
    edges /= edges[-1]
    decided = 0
    for edge in edges[:: len(edges) // 40]:
        for away in (1e-6, 1e-9, 2e-11, 1e-13, 1e-16, 0.0):
            for u in (edge - away, edge + away):
                draws = [Draw(0, 1.0, min(max(u, 0.0), 1 - 1e-16), mask=mask)]
                (token,), (status,) = draw_undecided(native, logits, draws)
                (expected,), _ = draw_reference(logits, draws)
                assert status == UNDECIDED or (status == DRAWN and token == expected)
                assert draw(native, logits, draws) == ([expected], [DRAWN])
                if away >= 1e-9 and 0 < u < 1:
                    assert status == DRAWN
                decided += status == DRAWN
    assert decided > 100


def test_what_lies_on_an_edge_is_left_to_the_twin(native: Library) -> None:
    logits = torch.zeros(1, 64)
    for draws in (
        [Draw(0, 1.0, 0.25)],
        [Draw(0, 1.0, 0.3, top_p=0.5)],
        [Draw(0, 1.0, 0.3, top_k=32, top_p=0.5)],
        [Draw(0, 5e-324, 0.3)],
    ):
        assert draw_undecided(native, logits, draws)[1] == [UNDECIDED]
        assert draw(native, logits, draws) == draw_reference(logits, draws)


def test_any_rows_are_drawn_any_number_of_times(native: Library) -> None:
    logits = random_logits(7, 1000, seed=2)
    choose = random.Random(2)
    draws = [one._replace(row=choose.randrange(7)) for one in random_draws(50, 1000, choose)]
    together = draw(native, logits, draws)
    assert together == draw_reference(logits, draws)
    alone = [draw(native, logits, [one]) for one in draws]
    assert together == ([token for (token,), _ in alone], [status for _, (status,) in alone])
    wide = torch.cat((logits, logits), dim=1)
    assert draw(native, wide[:, :1000], draws) == together
    assert draw(native, logits, []) == ([], [])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_broken_rows_say_why(native: Library, dtype: torch.dtype, temperature: float) -> None:
    for size in (3, 40, 129):
        logits = torch.zeros(6, size, dtype=dtype)
        logits[1, size - 1] = torch.nan
        logits[2, 1] = torch.inf
        logits[3] = -torch.inf
        logits[4, 1:] = -torch.inf
        one = pack([1], size)
        draws = [Draw(row, temperature, 0.5, mask=one) for row in range(5)]
        draws.append(Draw(5, temperature, 0.5, mask=pack([], size)))
        expected = ([1, -1, -1, -1, -1, -1], [DRAWN, NOT_A_NUMBER, INFINITE, INFINITE, NOTHING_LIKELY, NOTHING_ALLOWED])
        assert draw(native, logits, draws) == draw_reference(logits, draws) == expected


def test_bits_beyond_the_vocabulary_allow_nothing(native: Library) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0]])
    mask = np.array([-1 << 5], dtype=np.int32)
    assert draw(native, logits, [Draw(0, mask=mask)]) == ([-1], [NOTHING_ALLOWED])
    assert draw(native, logits, [Draw(0, mask=mask, barred=(4,))]) == ([-1], [NOTHING_ALLOWED])
    assert draw(native, logits, [Draw(0, mask=mask | 9, barred=(3,))]) == ([0], [DRAWN])


def test_a_barred_token_that_does_not_exist_is_an_error(native: Library) -> None:
    with pytest.raises(IndexError, match="barred token 5 of 5"):
        draw(native, torch.zeros(1, 5), [Draw(0, barred=(1, 5))])


def test_uniform_numbers_are_the_twins(native: Library) -> None:
    choose = random.Random(3)
    seeds = [choose.randrange(1 << 64) for _ in range(500)] + [0, (1 << 64) - 1]
    positions = [choose.randrange(1 << 32) for _ in range(500)] + [0, (1 << 32) - 1]
    assert uniforms(native, seeds, positions).tolist() == uniform(np.array(seeds, dtype=np.uint64), positions).tolist()
