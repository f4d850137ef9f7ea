"""Products of int8 codes in C++ against their twin in torch, over odd sizes and every type of rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latticework.kernels.cpu.int8_matmul import Int8Packed, int8_matmul, int8_matmul_reference
from latticework.kernels.cpu.library import Library

SHAPES = ((16, 32), (49, 96), (80, 576), (264, 64), (33, 70), (1, 1))  # outputs, inputs
ROWS = (1, 2, 3, 4, 5, 15, 16, 17, 33, 70)
TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}  # beside the largest result


@pytest.fixture
def byte_library(native_library: Library) -> Library:
    if not native_library.multiplies_bytes:
        pytest.skip("this processor has no products of bytes")
    return native_library


def codes_and_scales(outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(4)
    return torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8), torch.rand(outputs) / 100


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_product_equals_its_twin_alone_and_among_others(
    byte_library: Library, dtype: torch.dtype, has_bias: bool
) -> None:
    for shape in SHAPES:
        codes, scales = codes_and_scales(*shape)
        bias = torch.randn(shape[0]).to(dtype) if has_bias else None
        packed = Int8Packed(codes, scales)
        x = (torch.randn(70, shape[1]) * torch.logspace(-3, 3, 70).unsqueeze(1)).to(dtype)
        whole = int8_matmul(byte_library, x, packed, bias)
        expected = int8_matmul_reference(x, codes, scales, bias)
        assert whole.dtype == dtype
        size = expected.float().abs().amax(1, keepdim=True)
        assert ((whole.float() - expected.float()).abs() <= TOLERANCE[dtype] * size).all(), shape
        for rows in ROWS:
            for start in {0, 1, 70 - rows}:
                part = x[start : start + rows]
                assert torch.equal(int8_matmul(byte_library, part, packed, bias), whole[start : start + rows])


def test_tiles_and_vectors_give_the_same_bits(library: Library | None) -> None:
    if library is None or not library.uses_tiles or not library.multiplies_bytes:
        pytest.skip("needs matrix registers")
    without = library.without_tiles()
    codes, scales = codes_and_scales(100, 1536)
    packed, x = Int8Packed(codes, scales), torch.randn(35, 1536).bfloat16()
    assert torch.equal(int8_matmul(library, x, packed, None), int8_matmul(without, x, packed, None))


def test_the_largest_codes_and_rows_do_not_overflow(byte_library: Library) -> None:
    codes, scales = torch.full((32, 4096), -127, dtype=torch.int8), torch.ones(32)
    x = torch.full((7, 4096), 3.0)
    expected = x.double() @ codes.double().T
    found = int8_matmul(byte_library, x, Int8Packed(codes, scales), None)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


def test_a_row_of_zeros_stays_zeros_and_a_broken_row_breaks_alone(byte_library: Library) -> None:
    codes, scales = codes_and_scales(40, 64)
    x = torch.randn(6, 64)
    x[1], x[2, 3], x[3, 0] = 0, torch.nan, torch.inf
    found = int8_matmul(byte_library, x, Int8Packed(codes, scales), None)
    assert (found[1] == 0).all()
    assert not found[2:4].isfinite().any()
    assert found[[0, 4, 5]].isfinite().all()
