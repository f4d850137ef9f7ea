"""The parts decoders are made of: linear, norm, rotary positions, MLP.

Names follow transformers, whose numbers these layers reproduce. This file knows no model family, no cache and
no attention.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from latticework.kernels.cpu.pointwise import TORCH, Pointwise
from latticework.runtime.attention.base import HeadNorms
from latticework.runtime.model.quantize.base import Form
from latticework.runtime.model.quantize.by_rows import ByRows
from latticework.runtime.model.spec import LinearScaling, ModelSpec, RopeFactors, RopeScaling


def uninitialised(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    """Memory for a weight that is about to be read; never trained."""
    return nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)


class Linear(nn.Module):
    """x @ weight.T + bias. Unlike nn.Linear it draws no random weights to throw away.

    The weight is collected row by row, then packed (see `quantize/`), which is what is multiplied with; the unpacked
    one is let go. It takes no memory before its first row comes, so that a device holds one at a time.
    """

    weight: nn.Parameter | None

    def __init__(
        self, inputs: int, outputs: int, bias: bool, dtype: torch.dtype, source: torch.dtype | None = None
    ) -> None:
        """source: the type in which the weight is collected, default `dtype`."""
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self._device = torch.empty(0).device  # that of a `with torch.device(...)` around
        with torch.device("meta"):
            self.weight = uninitialised(outputs, inputs, dtype=source or dtype)
        self.bias = uninitialised(outputs, dtype=dtype) if bias else None
        self.packed: Form | ByRows | None = None

    def collected(self) -> Tensor:
        """The weight that is being collected, [outputs, inputs]."""
        assert self.weight is not None, "packed already"
        if self.weight.is_meta:
            self.weight = nn.Parameter(torch.empty_like(self.weight, device=self._device), requires_grad=False)
        return self.weight.data

    def pack(self, packed: Form | ByRows) -> None:
        self.packed = packed
        self.weight = None

    def forward(self, x: Tensor) -> Tensor:  # [T, inputs] -> [T, outputs]
        assert self.packed is not None, "a weight that was never loaded"
        return self.packed(x) if len(x) else x.new_empty(0, self.outputs)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * (offset + weight), in float32 or better; offset: Gemma's 1."""

    def __init__(self, size: int, eps: float, dtype: torch.dtype, offset: float = 0.0) -> None:
        super().__init__()
        self.weight = uninitialised(size, dtype=dtype)
        self.eps = eps
        self.offset = offset
        self.pointwise: Pointwise = TORCH

    def forward(self, x: Tensor) -> Tensor:  # [..., size] -> [..., size]
        return self.pointwise.rms_norm(x, self.weight, self.eps, self.offset)

    def of_sum(self, x: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:  # [T, size] twice -> x + part, and its norm
        return self.pointwise.add_rms_norm(x, part, self.weight, self.eps, self.offset)


def make_norm(size: int, spec: ModelSpec, dtype: torch.dtype) -> RMSNorm:
    return RMSNorm(size, spec.rms_norm_eps, dtype, spec.norm_offset)


class QueryKeyNorm(nn.Module):
    """Norms of q and k, each head by itself or all heads as one."""

    def __init__(self, spec: ModelSpec, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = spec.num_attention_heads, spec.num_key_value_heads
        self.whole = spec.qk_norm == "whole"
        q_size, k_size = (spec.head_dim * (heads if self.whole else 1) for heads in self.heads)
        self.q, self.k = make_norm(q_size, spec, dtype), make_norm(k_size, spec, dtype)

    def forward(self, x: Tensor) -> Tensor:  # [T, heads + kv_heads, head_dim] -> the same
        q, k = x.split(self.heads, dim=1)
        if self.whole:
            return torch.cat((self.q(q.flatten(1)), self.k(k.flatten(1))), dim=1).view_as(x)
        return torch.cat((self.q(q), self.k(k)), dim=1)

    def before_turning(self, qkv: Tensor) -> HeadNorms | None:
        """The norms of single heads, for whoever turns them; norms of all heads as one are done now, in place.

        qkv: [T, (heads + 2 kv_heads) * head_dim]."""
        if not self.whole:
            return HeadNorms(self.q.weight, self.k.weight, self.q.eps, self.q.offset)
        q_size, k_size = len(self.q.weight), len(self.k.weight)
        q, k, _ = qkv.split((q_size, k_size, qkv.shape[1] - q_size - k_size), dim=1)
        q.copy_(self.q(q))
        k.copy_(self.k(k))
        return None


class Rotary(nn.Module):
    """Rotary position embedding (Su et al., 2021), halves rotated as transformers does.

    cos, sin: [context, rotary_dim], computed once. They are no part of the weights.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, spec: ModelSpec, dtype: torch.dtype, local: bool = False) -> None:
        """local: of the layers with local_rope_theta."""
        super().__init__()
        theta = spec.rope_theta if not local or spec.local_rope_theta is None else spec.local_rope_theta
        scaling = None if local else spec.rope_scaling
        turning = spec.rotary_dim or spec.head_dim
        # float32 by way of transformers, whose angles are float32 too; float64 only for a float64 model
        precision = torch.float64 if dtype == torch.float64 else torch.float32
        steps = torch.arange(0, turning, 2, dtype=precision) / turning
        inverse = 1.0 / (theta**steps)
        if isinstance(scaling, RopeScaling):
            inverse = _stretch(inverse, scaling)
        elif isinstance(scaling, LinearScaling):
            inverse = inverse / scaling.factor
        elif isinstance(scaling, RopeFactors):
            inverse = inverse / torch.tensor(scaling.factors, dtype=precision)
        angles = torch.outer(torch.arange(spec.max_position_embeddings, dtype=precision), inverse)
        angles = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cos", angles.cos().to(dtype), persistent=False)
        self.register_buffer("sin", angles.sin().to(dtype), persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions: [T] int64 -> cos, sin: [T, 1, rotary_dim], for every layer of one step."""
        return self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)


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
    """down(act(gate(x)) * up(x)); gate and up are one matrix."""

    def __init__(self, spec: ModelSpec, dtype: torch.dtype, source: torch.dtype | None = None) -> None:
        super().__init__()
        self.gate_up = Linear(spec.hidden_size, 2 * spec.intermediate_size, spec.mlp_bias, dtype, source)
        self.down = Linear(spec.intermediate_size, spec.hidden_size, spec.mlp_bias, dtype, source)
        self.is_gelu = spec.hidden_act != "silu"
        self.pointwise: Pointwise = TORCH

    def forward(self, x: Tensor) -> Tensor:  # [T, hidden] -> [T, hidden]
        return self.down(self.pointwise.gate(self.gate_up(x), self.is_gelu))


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """cap * tanh(x / cap): as x where small, never beyond the cap."""
    return torch.tanh(x / cap) * cap
