"""Products of 4-bit codes in C++ against their twin in torch, over odd sizes and every type of rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latticework.kernels.cpu.int4_matmul import int4_matmul, int4_matmul_reference, pack_int4, row_steps
from latticework.kernels.cpu.library import Library

SHAPES = ((16, 32), (49, 96), (80, 576), (264, 64), (1, 32))  # outputs, inputs
ROWS = (1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 33, 70)
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}  # beside the largest result


@pytest.fixture
def byte_library(native_library: Library) -> Library:
    if not native_library.multiplies_bytes:
        pytest.skip("this processor has no products of bytes")
    return native_library


def weight(outputs: int, inputs: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(4)
    codes = torch.randint(0, 16, (outputs, inputs), dtype=torch.uint8)
    return codes, torch.rand(outputs, inputs // 32) / 100, torch.randn(outputs, inputs // 32) / 100


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_product_equals_its_twin_alone_and_among_others(
    byte_library: Library, dtype: torch.dtype, has_bias: bool
) -> None:
    for shape in SHAPES:
        codes, scales, zeros = weight(*shape)
        bias = torch.randn(shape[0]).to(dtype) if has_bias else None
        packed = pack_int4(codes, scales, zeros)
        x = (torch.randn(70, shape[1]) * torch.logspace(-2, 3, 70).unsqueeze(1)).to(dtype)
        whole = int4_matmul(byte_library, x, packed, shape[0], bias)
        expected = int4_matmul_reference(x, codes, scales, zeros, bias)
        assert whole.dtype == dtype
        size = expected.float().abs().amax(1, keepdim=True) + x.float().abs().amax(1, keepdim=True) / 100
        assert ((whole.float() - expected.float()).abs() <= TOLERANCE[dtype] * size).all(), shape
        for rows in ROWS:
            for start in {0, 1, 70 - rows}:
                part = x[start : start + rows]
                assert torch.equal(
                    int4_matmul(byte_library, part, packed, shape[0], bias), whole[start : start + rows]
                ), (shape, rows, start)


def test_tiles_and_vectors_give_the_same_bits(library: Library | None) -> None:
    if library is None or not library.uses_tiles or not library.multiplies_bytes:
        pytest.skip("needs matrix registers")
    packed, x = pack_int4(*weight(100, 1536)), torch.randn(35, 1536).bfloat16()
    found = [int4_matmul(one, x, packed, 100, None) for one in (library, library.without_tiles())]
    assert torch.equal(*found)


def test_rows_lose_less_than_by_rounding_to_bfloat16() -> None:
    torch.manual_seed(4)
    x = torch.randn(50, 576)
    steps, scales = row_steps(x)
    lost = ((steps * scales).flatten(1) - x).square().mean()
    assert lost < (x.bfloat16() - x).square().mean() / 4


def test_the_largest_codes_and_rows_do_not_overflow(byte_library: Library) -> None:
    codes = torch.full((16, 4096), 15, dtype=torch.uint8)
    scales, zeros = torch.ones(16, 128), torch.zeros(16, 128)
    for sign in (-3.0, 3.0):
        x = torch.full((7, 4096), sign)
        found = int4_matmul(byte_library, x, pack_int4(codes, scales, zeros), 16, None)
        torch.testing.assert_close(found, torch.full((7, 16), sign * 7 * 4096), rtol=1e-6, atol=0)


def test_a_row_of_zeros_stays_zeros_and_a_broken_row_breaks_alone(byte_library: Library) -> None:
    codes, scales, zeros = weight(40, 64)
    x = torch.randn(6, 64)
    x[1], x[2, 3], x[3, 0] = 0, torch.nan, torch.inf
    found = int4_matmul(byte_library, x, pack_int4(codes, scales, zeros), 40, None)
    assert (found[1] == 0).all()
    assert not found[2:4].isfinite().any()
    assert found[[0, 4, 5]].isfinite().all()
