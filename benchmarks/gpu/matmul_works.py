"""Products with weights of 8 and 4 bits, beside cuBLAS on the same weights in the inputs' 16 bits."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.gpu.work import Maker, Rival, Work, size_of
from latticework.kernels.int4_matmul import GROUP, Int4Weight, int4_matmul, int4_matmul_reference
from latticework.kernels.int8_matmul import Int8Weight, int8_matmul, int8_matmul_reference


def int8(rows: int, inputs: int, outputs: int) -> Maker:
    """A scale a row of the weight."""

    def make(device: torch.device, dtype: torch.dtype) -> Work:
        x = torch.randn(rows, inputs, dtype=dtype, device=device)
        weight = Int8Weight.quantise(torch.randn(outputs, inputs, device=device) * inputs**-0.5)
        return Work(
            run=lambda: (int8_matmul(x, weight),),
            exact=lambda: (int8_matmul_reference(x.double(), weight),),
            bytes=size_of(x, weight.codes, weight.scales) + rows * outputs * dtype.itemsize,
            flops=2 * rows * inputs * outputs,
            rivals=_plain(x, weight.dequantise().to(dtype)),
        )

    return make


def int4(rows: int, inputs: int, outputs: int) -> Maker:
    """A scale and a minimum for every 32 codes: GGUF's Q4_1."""

    def make(device: torch.device, dtype: torch.dtype) -> Work:
        x = torch.randn(rows, inputs, dtype=dtype, device=device)
        codes = torch.randint(0, 256, (outputs, inputs // 2), dtype=torch.uint8, device=device)
        scales, minima = (
            (torch.randn(outputs, inputs // GROUP, device=device) * inputs**-0.5).half() for _ in range(2)
        )
        weight = Int4Weight(codes, scales, minima)
        return Work(
            run=lambda: (int4_matmul(x, weight),),
            exact=lambda: (int4_matmul_reference(x.double(), weight),),
            bytes=size_of(x, codes, scales, minima) + rows * outputs * dtype.itemsize,
            flops=2 * rows * inputs * outputs,
            rivals=_plain(x, weight.dequantise().to(dtype)),
        )

    return make


def _plain(x: Tensor, weight: Tensor) -> dict[str, Rival]:
    name = f"cuBLAS, {8 * x.element_size()} bits" if x.device.type == "cuda" else "torch, unquantised"
    return {name: Rival(lambda: x @ weight.T)}
