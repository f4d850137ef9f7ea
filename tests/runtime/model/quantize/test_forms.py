"""Each form against float64, over shapes, rows and types."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from torch import Tensor

from latticework.runtime.model.gguf import GgufTensor, dequantise, four_bit_groups
from latticework.runtime.model.quantize.base import Form
from latticework.runtime.model.quantize.by_rows import ByRows
from latticework.runtime.model.quantize.four_bit import FourBit
from latticework.runtime.model.quantize.int4 import Int4, int4_parts
from latticework.runtime.model.quantize.int8 import Int8, int8_parts, row_halves
from latticework.runtime.model.quantize.plain import Plain, plain_parts

SHAPES = ((16, 32), (49, 96), (80, 576), (264, 64))  # outputs, inputs
ROWS = (1, 2, 3, 7, 16, 33)
DTYPES = (torch.float32, torch.bfloat16)
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 6e-3}  # of a result, beside the size of the largest


def matrix(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain(weight: Tensor, dtype: torch.dtype, bias: Tensor | None) -> tuple[Form, Tensor]:
    return Plain(plain_parts(weight, dtype), bias), weight.to(dtype)


def int8(weight: Tensor, dtype: torch.dtype, bias: Tensor | None) -> tuple[Form, Tensor]:
    parts = int8_parts(weight)
    return Int8(parts, bias), parts["codes"] * parts["scales"].unsqueeze(1)


def int4(weight: Tensor, dtype: torch.dtype, bias: Tensor | None) -> tuple[Form, Tensor]:
    four = FourBit.rounded(weight)
    return Int4(int4_parts(four), bias), four.in_bfloat16().dense()


Make = Callable[[Tensor, torch.dtype, Tensor | None], tuple[Form, Tensor]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [plain, int8, int4])
def test_a_form_multiplies_with_the_values_it_holds(make: Make, dtype: torch.dtype) -> None:
    for shape in SHAPES:
        bias = matrix(shape[0], seed=2).to(dtype)
        form, values = make(matrix(*shape), dtype, bias)
        for rows in ROWS:
            x = matrix(rows, shape[1], seed=rows).to(dtype)
            seen = x
            if form.kind == "int8":
                halves, scales = row_halves(x)
                seen = (128 * halves[:rows].double() + halves[rows:]) * scales.double()
                assert ((seen - x.double()).abs() <= 0.501 * scales.double()).all()
            expected = seen.double() @ values.double().T + bias.double()
            found = form(x)
            assert found.dtype == dtype
            assert found.shape == expected.shape
            if form.kind == "int4":  # computes in bfloat16
                expected = x.bfloat16().double() @ values.double().T + bias.double()
            error = (found.double() - expected).abs().max() / expected.abs().max()
            limit = ROUNDING[torch.bfloat16 if form.kind == "int4" else dtype]
            assert error <= limit, (form.kind, shape, rows)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_in_8_bits_is_the_same_bits_whatever_stands_beside_it(dtype: torch.dtype) -> None:
    for shape in SHAPES:
        form, _ = int8(matrix(*shape), dtype, matrix(shape[0], seed=2).to(dtype))
        x = matrix(70, shape[1], seed=1).to(dtype) * torch.logspace(-3, 3, 70).unsqueeze(1).to(dtype)
        whole = form(x)
        for rows in (1, 2, 5, 16, 69):
            for start in (0, 1, 70 - rows):
                assert torch.equal(form(x[start : start + rows]), whole[start : start + rows]), (shape, rows, start)


def test_8_bits_lose_little_of_a_weight_and_of_a_row() -> None:
    weight, x = matrix(64, 576), matrix(9, 576, seed=1)
    x[:, 7] *= 100  # as in real models: beside it, 8 bits would leave nothing of the rest
    expected = x.double() @ weight.double().T
    parts = int8_parts(weight)
    found = Int8(parts, None)(x).double()
    lost = x.double() @ (parts["codes"] * parts["scales"].unsqueeze(1) - weight).double().T
    size = expected.square().mean().sqrt()
    assert lost.square().mean().sqrt() / size < 0.015
    assert (found - expected - lost).square().mean().sqrt() / size < 1e-3


def test_rows_of_zeros_stay_zeros_and_a_broken_row_breaks_alone() -> None:
    form, _ = int8(matrix(16, 32), torch.float32, None)
    x = matrix(4, 32)
    x[1], x[2, 3], x[3, 0] = 0, torch.nan, torch.inf
    found = form(x)
    assert found[0].isfinite().all()
    assert (found[1] == 0).all()
    assert not found[2].isfinite().any()
    assert not found[3].isfinite().any()


def test_rounding_to_4_bits_is_off_by_half_a_step_at_most() -> None:
    weight = matrix(48, 96)
    weight[3, 32:64] = 0.25  # a group without any range
    four = FourBit.rounded(weight)
    error = (four.dense() - weight).abs().unflatten(1, (-1, 32)).amax(2)
    assert (error <= four.scales / 2 + 1e-6).all()
    assert int(four.codes.max()) == 15


@pytest.mark.parametrize("kind", [GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_1])
def test_a_files_4_bits_are_taken_as_they_are(kind: GGMLQuantizationType) -> None:
    weight = matrix(48, 96).numpy()
    blocks = quantize(weight, kind)
    tensor = GgufTensor("x", (48, 96), int(kind), np.ascontiguousarray(blocks).reshape(-1))
    groups = four_bit_groups(tensor)
    assert groups is not None
    four = FourBit(*map(torch.from_numpy, groups))
    exact = torch.from_numpy(dequantize(blocks, kind))
    assert torch.allclose(four.dense(), exact, rtol=0, atol=2e-7)
    assert torch.equal(torch.from_numpy(dequantise(tensor)), exact)
    kept = four.in_bfloat16().dense()
    assert (kept - exact).square().mean().sqrt() / exact.square().mean().sqrt() < 0.004
    x = matrix(3, 96, seed=4).bfloat16()
    found = Int4(int4_parts(four), None)(x).double()
    expected = x.double() @ kept.double().T
    assert (found - expected).abs().max() / expected.abs().max() < ROUNDING[torch.bfloat16]


def test_a_file_of_other_formats_has_no_4_bits() -> None:
    blocks = quantize(matrix(16, 32).numpy(), GGMLQuantizationType.Q8_0)
    assert four_bit_groups(GgufTensor("x", (16, 32), int(GGMLQuantizationType.Q8_0), blocks.reshape(-1))) is None


def test_the_number_of_rows_chooses_the_form() -> None:
    weight = matrix(16, 32)
    few, many = int4(weight, torch.float32, None)[0], int8(weight, torch.float32, None)[0]
    both = ByRows(few, many, limit=3)
    x = matrix(4, 32, seed=1)
    assert torch.equal(both(x[:3]), few(x[:3]))
    assert torch.equal(both(x), many(x))
    assert both.kind == "int4 to 3 rows, int8"
