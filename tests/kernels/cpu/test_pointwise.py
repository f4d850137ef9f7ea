"""Norms, turns and gates in C++ against their twins in torch, over odd sizes and every dtype."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latticework.kernels.cpu.library import DTYPES, Library
from latticework.kernels.cpu.pointwise import TORCH, NativePointwise, Pointwise

TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
SIZES = [1, 7, 64, 576, 1000]
ROWS = [1, 3, 65]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(3)


@pytest.fixture
def native(library: Library | None) -> Pointwise:
    if library is None:
        pytest.skip("needs a C++ compiler")
    return NativePointwise(library)


def check(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == expected.dtype
    close = TOLERANCE[found.dtype]
    torch.testing.assert_close(found, expected, rtol=close, atol=close)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_a_norm_equals_its_twin(native: Pointwise, dtype: torch.dtype, size: int, offset: float) -> None:
    for rows in ROWS:
        x, part = torch.randn(2, rows, size, dtype=dtype)
        weight = torch.randn(size, dtype=dtype)
        check(native.rms_norm(x, weight, 1e-5, offset), TORCH.rms_norm(x, weight, 1e-5, offset))
        total, normed = native.add_rms_norm(x, part, weight, 1e-5, offset)
        assert total.equal(x + part)
        check(normed, TORCH.rms_norm(total, weight, 1e-5, offset))


def test_norms_take_heads_and_views(native: Pointwise) -> None:
    x = torch.randn(5, 9, 8)[:, :6]
    weight = torch.randn(8)
    found = native.rms_norm(x, weight, 1e-6)
    assert found.shape == x.shape
    check(found, TORCH.rms_norm(x, weight, 1e-6))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("head_dim", "turning"), [(8, 8), (64, 64), (96, 96), (80, 20), (6, 2)])
def test_a_turn_equals_its_twin_and_leaves_the_rest(
    native: Pointwise, dtype: torch.dtype, head_dim: int, turning: int
) -> None:
    for tokens in ROWS:
        whole = torch.randn(tokens, 7, head_dim, dtype=dtype)
        angles = torch.randn(tokens, 1, turning, dtype=dtype)
        cos, sin = angles.cos(), angles.sin()
        before = whole.clone()
        found = native.rotate(whole[:, :4], cos, sin)
        check(found, TORCH.rotate(before[:, :4], cos, sin))
        assert whole[:, 4:].equal(before[:, 4:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_gelu", [False, True])
def test_a_gate_equals_its_twin(native: Pointwise, dtype: torch.dtype, is_gelu: bool) -> None:
    for size in SIZES:
        for rows in ROWS:
            gate_up = 3 * torch.randn(rows, 2 * size, dtype=dtype)
            found, expected = native.gate(gate_up, is_gelu), TORCH.gate(gate_up, is_gelu)
            close = 4 * TOLERANCE[dtype]  # the twin rounds between its two products
            torch.testing.assert_close(found, expected, rtol=close, atol=close)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gates_far_out_are_zero_or_the_number_itself(native: Pointwise, dtype: torch.dtype) -> None:
    far = torch.tensor([[-1e4, -200.0, -100.0, 100.0, 200.0, 1e4]], dtype=dtype)
    gate_up = torch.cat((far.repeat(1, 8), torch.ones(1, 48, dtype=dtype)), dim=1)
    for is_gelu in (False, True):
        found = native.gate(gate_up, is_gelu)
        torch.testing.assert_close(found, far.clamp(min=0).repeat(1, 8), rtol=0, atol=1e-35)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_of_one_row_stay_in_it(native: Pointwise, dtype: torch.dtype) -> None:
    x = torch.randn(3, 40, dtype=dtype)
    x[1, 5] = torch.nan
    weight = torch.ones(40, dtype=dtype)
    assert native.rms_norm(x, weight, 1e-5).isnan().any(1).tolist() == [False, True, False]
    assert native.gate(x, False).isnan().any(1).tolist() == [False, True, False]
    cos = torch.ones(3, 1, 40, dtype=dtype)
    turned = native.rotate(x.clone().view(3, 1, 40), cos, cos)
    assert turned.isnan().flatten(1).any(1).tolist() == [False, True, False]
    x[1, 5] = torch.inf
    assert native.rms_norm(x, weight, 1e-5).isnan().any(1).tolist() == [False, True, False]
