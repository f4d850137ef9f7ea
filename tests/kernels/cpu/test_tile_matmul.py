"""Products in matrix registers against their twin in torch, over odd sizes."""

from __future__ import annotations

import pytest
import torch

from latticework.kernels.cpu.library import Library
from latticework.kernels.cpu.tile_matmul import TilePacked, packs, tile_matmul, tile_matmul_reference

SHAPES = ((32, 32, False), (96, 64, True), (48, 96, False), (1, 32, False), (33, 576, False), (64, 1536, True))
ROWS = (1, 2, 15, 16, 17, 31, 32, 33, 70)


@pytest.fixture
def tile_library(library: Library | None) -> Library:
    if library is None or not library.uses_tiles:
        pytest.skip("needs a C++ compiler and matrix registers")
    return library


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_product_equals_its_twin_alone_and_among_others(tile_library: Library, has_bias: bool) -> None:
    torch.manual_seed(3)
    for outputs, inputs, halved in SHAPES:
        weight = (torch.randn(outputs, inputs) / inputs**0.5).bfloat16()
        bias = torch.randn(outputs).bfloat16() if has_bias else None
        packed = TilePacked(weight, bias, halved)
        x = torch.randn(70, inputs).bfloat16()
        whole = tile_matmul(tile_library, x, packed)
        expected = tile_matmul_reference(x, weight, bias)
        torch.testing.assert_close(whole, expected, rtol=1e-2, atol=1e-3)
        for rows in ROWS:
            for start in {0, 1, 70 - rows}:
                part = tile_matmul(tile_library, x[start : start + rows], packed)
                assert torch.equal(part, whole[start : start + rows]), (outputs, inputs, rows)


def test_a_broken_row_breaks_alone(tile_library: Library) -> None:
    weight = torch.randn(32, 64).bfloat16()
    x = torch.randn(5, 64).bfloat16()
    expected = tile_matmul(tile_library, x, TilePacked(weight, None))
    x[2, 3] = torch.nan
    found = tile_matmul(tile_library, x, TilePacked(weight, None))
    assert found[2].isnan().all()
    others = [0, 1, 3, 4]
    assert torch.equal(found[others], expected[others])


def test_what_does_not_fit_into_tiles_is_known() -> None:
    assert packs(torch.empty(7, 64, dtype=torch.bfloat16))
    assert not packs(torch.empty(64, 40, dtype=torch.bfloat16))
    assert not packs(torch.empty(48, 64, dtype=torch.bfloat16), halved=True)
    assert not packs(torch.empty(64, 64))
