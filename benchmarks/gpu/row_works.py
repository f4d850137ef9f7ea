"""What happens between matrix products: norms, gates, and q, k, v turned and stored, beside torch's operations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu.attention_works import PAGE
from benchmarks.gpu.shapes import Shape
from benchmarks.gpu.work import Maker, Rival, Work, in_double, size_of
from latticework.kernels.gated import gated, gated_reference
from latticework.kernels.rms_norm import rms_norm, rms_norm_reference
from latticework.kernels.turn_and_store import HeadNorm, turn_and_store, turn_and_store_reference


def norm(shape: Shape, tokens: int) -> Maker:
    """The norm after attention, with the residual added."""

    def make(device: torch.device, dtype: torch.dtype) -> Work:
        x, residual = (torch.randn(tokens, shape.hidden, dtype=dtype, device=device) for _ in range(2))
        weight = torch.randn(shape.hidden, dtype=dtype, device=device)

        def exact() -> tuple[Tensor, ...]:
            _, total = rms_norm_reference(x, weight, shape.eps, residual)  # rounded before it is normed, as meant
            normed, _ = rms_norm_reference(total.double(), weight.double(), shape.eps)
            return normed, x.double() + residual.double()

        def by_torch() -> Tensor:
            return functional.rms_norm(x + residual, (shape.hidden,), weight, shape.eps)

        return Work(
            run=lambda: rms_norm(x, weight, shape.eps, residual),
            exact=exact,
            bytes=4 * size_of(x) + size_of(weight),
            flops=0,
            rivals={"torch": Rival(by_torch)},
        )

    return make


def gate(shape: Shape, tokens: int) -> Maker:
    """SiLU of the gate times the up projection."""

    def make(device: torch.device, dtype: torch.dtype) -> Work:
        x = torch.randn(tokens, 2 * shape.inner, dtype=dtype, device=device)

        def by_torch() -> Tensor:
            left, right = x.chunk(2, dim=-1)
            return functional.silu(left) * right

        return Work(
            run=lambda: (gated(x, "silu"),),
            exact=lambda: (gated_reference(x.double(), "silu"),),
            bytes=size_of(x) * 3 // 2,
            flops=0,
            rivals={"torch": Rival(by_torch)},
        )

    return make


def turn(shape: Shape, tokens: int) -> Maker:
    """q, k and v of so many tokens, normed where the shape's are."""

    def make(device: torch.device, dtype: torch.dtype) -> Work:
        heads = shape.heads + 2 * shape.kv_heads
        qkv = torch.randn(tokens, heads * shape.head_dim, dtype=dtype, device=device)
        pages = -(-tokens // PAGE)
        keys, values = (
            torch.zeros(pages, PAGE, shape.kv_heads, shape.head_dim, dtype=dtype, device=device) for _ in range(2)
        )
        positions = torch.arange(tokens, device=device)
        slots = torch.randperm(pages * PAGE)[:tokens].to(device)
        angles = torch.rand(tokens, shape.head_dim // 2, device=device).repeat(1, 2) * 6
        cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
        weights = torch.rand(2, shape.head_dim, device=device).to(dtype) + 0.5
        norms = HeadNorm(weights[0], weights[1], shape.eps) if shape.normed else None

        def run() -> tuple[Tensor, ...]:
            return turn_and_store(qkv, positions, slots, keys, values, (cos, sin), norms), keys, values

        def exact() -> tuple[Tensor, ...]:
            wide = in_double(qkv, keys, values, cos, sin, weights)
            wide_norms = HeadNorm(wide[5][0], wide[5][1], shape.eps) if shape.normed else None
            q = turn_and_store_reference(wide[0], positions, slots, wide[1], wide[2], (wide[3], wide[4]), wide_norms)
            return q, wide[1], wide[2]

        def by_torch() -> Tensor:
            return turn_and_store_reference(qkv, positions, slots, keys, values, (cos, sin), norms)

        return Work(
            run=run,
            exact=exact,
            bytes=2 * size_of(qkv) + size_of(cos, sin, positions, slots),
            flops=0,
            rivals={"torch": Rival(by_torch)},
        )

    return make
