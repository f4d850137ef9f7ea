"""Matrix products with 8-bit and 4-bit weights against their twins; GGUF's blocks against the reader of the files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from latticework.kernels.int4_matmul import Int4Weight, int4_matmul, int4_matmul_reference
from latticework.kernels.int8_matmul import Int8Weight, int8_matmul, int8_matmul_reference
from latticework.runtime.model.gguf import GgufTensor, dequantise
from tests.kernels.interpreted.device import tensor_of

TOLERANCE = {torch.float32: 5e-7, torch.float16: 1e-3, torch.bfloat16: 8e-3}
SHAPES = {"one row": (1, 96, 7), "rows and columns of several tiles": (20, 160, 70)}  # M, K, N
BYTES = {"Q4_0": (2, 18), "Q4_1": (3, 20), "Q8_0": (8, 34)}  # ggml's number, bytes of a block


def make_blocks(outputs: int, inputs: int, kind: str) -> Tensor:
    """Random codes and small scales (and minima), as a file has them."""
    size = BYTES[kind][1]
    blocks = np.random.default_rng(outputs).integers(0, 256, (outputs, inputs // 32, size), np.uint8)
    for at in range(0, size - 16 if kind != "Q8_0" else 2, 2):
        halves = np.random.default_rng(at).normal(0, 0.05, (outputs, inputs // 32)).astype(np.float16)
        blocks[:, :, at : at + 2] = halves[:, :, None].view(np.uint8)
    return tensor_of(blocks.reshape(outputs, -1))


def unpack(blocks: Tensor, kind: str) -> Int4Weight | Int8Weight:
    if kind == "Q8_0":
        return Int8Weight.from_q8_0(blocks)
    return Int4Weight.from_q4_0(blocks) if kind == "Q4_0" else Int4Weight.from_q4_1(blocks)


@pytest.mark.parametrize("kind", BYTES)
def test_blocks_mean_what_the_files_reader_says(kind: str) -> None:
    blocks = make_blocks(5, 96, kind)
    by_the_reader = dequantise(GgufTensor("w", (5, 96), BYTES[kind][0], blocks.cpu().numpy().reshape(-1)))
    assert torch.equal(unpack(blocks, kind).dequantise(), tensor_of(by_the_reader))


def check(x: Tensor, weight: Int4Weight | Int8Weight) -> None:
    if isinstance(weight, Int8Weight):
        out, exact = int8_matmul(x, weight), int8_matmul_reference(x.double(), weight)
    else:
        out, exact = int4_matmul(x, weight), int4_matmul_reference(x.double(), weight)
    assert out.dtype == x.dtype
    terms = x.double().abs() @ weight.dequantise().double().abs().T  # what a sum's rounding is relative to
    assert float(((out.double() - exact).abs() / (terms + 1e-9)).max()) <= TOLERANCE[x.dtype]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", BYTES)
def test_products_with_blocks_equal_the_twin(kind: str, dtype: torch.dtype, shape: str) -> None:
    rows, inputs, outputs = SHAPES[shape]
    torch.manual_seed(rows)
    check(torch.randn(rows, inputs).to(dtype), unpack(make_blocks(outputs, inputs, kind), kind))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_products_with_a_scale_a_row_equal_the_twin(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    weight = torch.randn(70, 50)
    weight[3] = 0
    quantised = Int8Weight.quantise(weight)
    assert float((quantised.dequantise() - weight).abs().max()) <= float(weight.abs().max()) / 254 + 1e-6
    check(torch.randn(3, 100).to(dtype)[:, :50], quantised)


def test_what_the_kernels_cannot_take_is_named() -> None:
    blocks = make_blocks(5, 96, "Q4_1")
    int4, int8 = Int4Weight.from_q4_1(blocks), Int8Weight.quantise(torch.randn(5, 96))
    with pytest.raises(ValueError, match=r"Q4_0 blocks \(5, 60\) torch.uint8; expected uint8 \[N, a multiple of 18"):
        Int4Weight.from_q4_0(blocks)
    with pytest.raises(TypeError, match=r"int4_matmul: dtype torch.float64"):
        int4_matmul(torch.zeros(1, 96).double(), int4)
    with pytest.raises(ValueError, match=r"int4_matmul: x \(1, 64\), codes \(5, 48\)"):
        int4_matmul(torch.zeros(1, 64), int4)
    with pytest.raises(TypeError, match=r"int8_matmul: codes are torch.uint8"):
        int8_matmul(torch.zeros(1, 96), Int8Weight(int8.codes.view(torch.uint8), int8.scales))
    with pytest.raises(ValueError, match=r"int8_matmul: scales \(5, 2\); expected \[5, 1\], or one for every 32 of 96"):
        int8_matmul(torch.zeros(1, 96), Int8Weight(int8.codes, torch.ones(5, 2)))
