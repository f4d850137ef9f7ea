"""Products of bfloat16 in C++ against float64 and their twin, over odd sizes."""

from __future__ import annotations

import pytest
import torch

from latticework.kernels.cpu.bfloat16_matmul import bfloat16_matmul, bfloat16_matmul_reference, pack_bfloat16
from latticework.kernels.cpu.library import Library

SHAPES = ((16, 32), (49, 96), (80, 576), (264, 64), (33, 70), (1, 1), (576, 1536))  # outputs, inputs
ROWS = (1, 2, 3, 15, 16, 17, 32, 33, 48, 70)


@pytest.fixture
def tile_library(library: Library | None) -> Library:
    if library is None or not library.uses_tiles:
        pytest.skip("needs a C++ compiler and matrix registers")
    return library


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_product_equals_its_twin_alone_and_among_others(tile_library: Library, has_bias: bool) -> None:
    torch.manual_seed(4)
    for outputs, inputs in SHAPES:
        weight = torch.randn(outputs, inputs).bfloat16()
        bias = torch.randn(outputs).bfloat16() if has_bias else None
        packed = pack_bfloat16(weight)
        x = (torch.randn(70, inputs) * torch.logspace(-3, 3, 70).unsqueeze(1)).bfloat16()
        whole = bfloat16_matmul(tile_library, x, packed, outputs, bias)
        exact = bfloat16_matmul_reference(x.double(), weight.double(), None if bias is None else bias.double())
        size = exact.abs() + 1e-3 * exact.abs().amax(1, keepdim=True)  # beside it, float32's rounding is nothing
        assert ((whole.double() - exact).abs() <= 2**-8 * size).all(), (outputs, inputs)
        for rows in ROWS:
            for start in {0, 1, 70 - rows}:
                part = bfloat16_matmul(tile_library, x[start : start + rows], packed, outputs, bias)
                assert torch.equal(part, whole[start : start + rows]), (outputs, inputs, rows, start)


def test_nan_and_infinity_of_one_row_stay_in_it(tile_library: Library) -> None:
    torch.manual_seed(4)
    x, packed = torch.randn(5, 64).bfloat16(), pack_bfloat16(torch.randn(40, 64).bfloat16())
    x[1, 3], x[4, 60] = torch.nan, torch.inf
    found = bfloat16_matmul(tile_library, x, packed, 40, None)
    assert found.isfinite().all(1).tolist() == [True, False, True, True, False]
