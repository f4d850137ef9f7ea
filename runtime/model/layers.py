"""The parts decoders are made of: linear, norm, rotary positions, MLP.

Names follow transformers, whose numbers these layers reproduce. This file knows no model family, no cache and
no attention.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from latticework.runtime.model.spec import ModelSpec, RopeScaling


def uninitialised(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    """Memory for a weight that is about to be read; never trained."""
    return nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)


class Linear(nn.Module):
    """x @ weight.T + bias. Unlike nn.Linear it draws no random weights to throw away."""

    def __init__(self, inputs: int, outputs: int, bias: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = uninitialised(outputs, inputs, dtype=dtype)
        self.bias = uninitialised(outputs, dtype=dtype) if bias else None

    def forward(self, x: Tensor) -> Tensor:  # [T, inputs] -> [T, outputs]
        return functional.linear(x, self.weight, self.bias)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, the mean in float32 or better."""

    def __init__(self, size: int, eps: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = uninitialised(size, dtype=dtype)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:  # [T, size] -> [T, size]
        return functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class Rotary(nn.Module):
    """Rotary position embedding (Su et al., 2021), halves rotated as transformers does.

    cos, sin: [context, head_dim], computed once. They are no part of the weights.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, spec: ModelSpec, dtype: torch.dtype) -> None:
        super().__init__()
        # float32 by way of transformers, whose angles are float32 too; float64 only for a float64 model
        precision = torch.float64 if dtype == torch.float64 else torch.float32
        steps = torch.arange(0, spec.head_dim, 2, dtype=precision) / spec.head_dim
        inverse = 1.0 / (spec.rope_theta**steps)
        if spec.rope_scaling:
            inverse = _stretch(inverse, spec.rope_scaling)
        angles = torch.outer(torch.arange(spec.max_position_embeddings, dtype=precision), inverse)
        angles = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cos", angles.cos().to(dtype), persistent=False)
        self.register_buffer("sin", angles.sin().to(dtype), persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions: [T] int64 -> cos, sin: [T, 1, head_dim], for every layer of one step."""
        return self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x: [T, heads, head_dim] turned by its position's angles."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _stretch(inverse: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3: long wavelengths divided by `factor`, short ones kept, those between interpolated."""
    wavelength = 2 * math.pi / inverse
    context = scaling.original_max_position_embeddings
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = (context / wavelength - low) / (high - low)
    between = (1 - smooth) * inverse / scaling.factor + smooth * inverse
    stretched = torch.where(wavelength > context / low, inverse / scaling.factor, inverse)
    is_between = (wavelength >= context / high) & (wavelength <= context / low)
    return torch.where(is_between, between, stretched)


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x)); gate and up are one matrix."""

    def __init__(self, spec: ModelSpec, dtype: torch.dtype) -> None:
        super().__init__()
        self.gate_up = Linear(spec.hidden_size, 2 * spec.intermediate_size, spec.mlp_bias, dtype)
        self.down = Linear(spec.intermediate_size, spec.hidden_size, spec.mlp_bias, dtype)

    def forward(self, x: Tensor) -> Tensor:  # [T, hidden] -> [T, hidden]
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(functional.silu(gate) * up)
