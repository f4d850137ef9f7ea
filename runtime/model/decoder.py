"""The decoder every native family is made of: embedding, layers, norm, head.

A decoder over T tokens of any number of sequences, end to end; who attends to whom is the caller's `attend`. What
families differ in is in their `ModelSpec`. This file knows no family by name, no KV cache, no batch and no file
format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from latticework.kernels.cpu.pointwise import TORCH, Pointwise
from latticework.runtime.attention.base import Turning
from latticework.runtime.model.base import Attend, QkvAttend
from latticework.runtime.model.layers import (
    GatedMLP,
    Linear,
    QueryKeyNorm,
    RMSNorm,
    Rotary,
    make_norm,
    soft_cap,
    uninitialised,
)
from latticework.runtime.model.places import fill
from latticework.runtime.model.quantize.packer import Packer
from latticework.runtime.model.quantize.packing import Keep, Packing
from latticework.runtime.model.spec import ModelSpec
from latticework.runtime.model.weights import Weight

Turn: TypeAlias = tuple[Tensor, Tensor] | Turning | None
"""cos and sin of each token's position, [T, 1, rotary_dim], None in layers without positions; or what an attention that
turns heads itself is told."""


class Layer(nn.Module):
    """Attention, then the MLP, each added to the stream; norms before, after, or on both sides of them.

    q, k and v are one matrix. A norm that a family lacks is an Identity.
    """

    def __init__(self, spec: ModelSpec, dtype: torch.dtype, source: torch.dtype | None = None) -> None:
        super().__init__()
        self.heads = spec.num_attention_heads
        self.kv_heads = spec.num_key_value_heads
        self.head_dim = spec.head_dim
        self.residual = spec.residual_multiplier
        self.pointwise: Pointwise = TORCH
        heads = self.heads + 2 * self.kv_heads
        output_bias = spec.attention_bias if spec.output_bias is None else spec.output_bias

        def norm(side: str) -> nn.Module:
            return make_norm(spec.hidden_size, spec, dtype) if spec.norms in (side, "both") else nn.Identity()

        self.input_norm = norm("before")
        self.qkv = Linear(spec.hidden_size, heads * self.head_dim, spec.attention_bias, dtype, source)
        self.qk_norm = QueryKeyNorm(spec, dtype) if spec.qk_norm else nn.Identity()
        self.output = Linear(self.heads * self.head_dim, spec.hidden_size, output_bias, dtype, source)
        self.output_norm = norm("after")
        self.mlp_norm = norm("before")
        self.mlp = GatedMLP(spec, dtype, source)
        self.mlp_output_norm = norm("after")

    def forward(self, index: int, x: Tensor, part: Tensor | None, turn: Turn, attend: Attend) -> tuple[Tensor, Tensor]:
        """x: the stream, and part: what the layer before adds to it, [T, hidden]; None: nothing. Returns the stream and
        what this layer adds: a sum and the norm after it are one pass, which the next layer does."""
        x, normed = self.add_norm(x, part, self.input_norm)
        part = self.output_norm(self._attention(index, normed, turn, attend))
        x, normed = self.add_norm(x, part, self.mlp_norm)
        return x, self.mlp_output_norm(self.mlp(normed))

    def add_norm(self, x: Tensor, part: Tensor | None, norm: nn.Module) -> tuple[Tensor, Tensor]:
        """x, part: [T, hidden] -> their sum, and its norm."""
        if part is not None and self.residual == 1.0 and isinstance(norm, RMSNorm):
            return norm.of_sum(x, part)
        if part is not None:
            x = x + part if self.residual == 1.0 else x + part * self.residual
        return x, norm(x)

    def _attention(self, index: int, x: Tensor, turn: Turn, attend: Attend) -> Tensor:
        qkv = self.qkv(x)
        if isinstance(attend, QkvAttend):
            assert isinstance(turn, Turning)
            norms = self.qk_norm.before_turning(qkv) if isinstance(self.qk_norm, QueryKeyNorm) else None
            attended = attend.qkv(index, qkv, replace(turn, norms=norms))
        else:
            assert not isinstance(turn, Turning)
            attended = attend(index, *self._turned(qkv, turn))
        return self.output(attended.reshape(len(x), -1))

    def _turned(self, qkv: Tensor, turn: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """[T, (heads + 2 kv_heads) * head_dim] -> q [T, heads, head_dim]; k, v [T, kv_heads, head_dim]."""
        heads = qkv.view(len(qkv), -1, self.head_dim)
        qk, v = heads.split((self.heads + self.kv_heads, self.kv_heads), dim=1)
        qk = self.qk_norm(qk)
        if turn:
            qk = self.pointwise.rotate(qk, *turn)
        q, k = qk.split((self.heads, self.kv_heads), dim=1)
        return q, k, v


class Decoder(nn.Module):
    """A `Model` of any native family."""

    scale: Tensor

    def __init__(
        self, spec: ModelSpec, dtype: torch.dtype, device: str | torch.device = "cpu", source: torch.dtype | None = None
    ) -> None:
        """Weights are uninitialised: fill them with `load`. source: in which type matrices are collected before they
        are packed, default `dtype`."""
        super().__init__()
        self.spec = spec
        self.ropes = spec.rope_layers or ("global",) * spec.num_hidden_layers
        with torch.device(device):
            self.embed = uninitialised(spec.vocab_size, spec.hidden_size, dtype=dtype)
            self.layers = nn.ModuleList(Layer(spec, dtype, source) for _ in range(spec.num_hidden_layers))
            self.norm = make_norm(spec.hidden_size, spec, dtype)
            self.head = Linear(spec.hidden_size, spec.vocab_size, False, dtype, source)
            if spec.tie_word_embeddings:
                self.head.weight = self.embed
            self.rotary = nn.ModuleDict(
                {kind: Rotary(spec, dtype, local=kind == "local") for kind in sorted({*self.ropes} - {"none"})}
            )
            # rounded to the weights' type, as Gemma does
            self.register_buffer("scale", torch.tensor(spec.embedding_multiplier, dtype=dtype), persistent=False)

    def use(self, pointwise: Pointwise) -> None:
        """How norms, turns and gates are computed from now on; torch's at first."""
        for module in self.modules():
            if isinstance(module, (Layer, RMSNorm, GatedMLP)):
                module.pointwise = pointwise

    def forward(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """tokens, positions: [T] int64 -> [T, hidden], normed."""
        x = self.embedded(tokens)
        turns = self._turns(positions, isinstance(attend, QkvAttend))
        part: Tensor | None = None
        for index, layer in enumerate(self.layers):
            x, part = layer(index, x, part, turns[self.ropes[index]], attend)
        last = self.layers[-1]
        assert isinstance(last, Layer)
        return last.add_norm(x, part, self.norm)[1]

    def _turns(self, positions: Tensor, attention_turns: bool) -> dict[str, Turn]:
        """By kind of layer."""
        turns: dict[str, Turn] = {"none": Turning(positions, None) if attention_turns else None}
        for kind, rotary in self.rotary.items():
            assert isinstance(rotary, Rotary)
            turns[kind] = Turning(positions, (rotary.cos, rotary.sin)) if attention_turns else rotary(positions)
        return turns

    def embedded(self, tokens: Tensor) -> Tensor:
        """tokens: [T] int64 -> [T, hidden], what the first layer takes."""
        x = functional.embedding(tokens, self.embed)
        return x if self.spec.embedding_multiplier == 1.0 else x * self.scale

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [R, hidden] -> [R, V]."""
        found = self.head(hidden)
        if self.spec.logits_scaling != 1.0:
            found = found / self.spec.logits_scaling
        return found if self.spec.logits_soft_cap is None else soft_cap(found, self.spec.logits_soft_cap)

    def load(
        self, weights: Iterable[tuple[str, Weight]], packing: Packer | None = None, keep: Keep | None = None
    ) -> None:
        """Copies every weight into its place, converting its dtype, and packs the matrices (default: as they are).

        keep: told what every packed form is made of, see `Packing`. Raises BrokenModel for a weight that is missing,
        unknown, or of the wrong shape.
        """
        fill(self, weights, packing or Packing("none", self.embed.dtype), keep)

    def linears(self) -> Iterator[tuple[str, Linear]]:
        """Every matrix by its name, the head last."""
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            named = {
                "qkv": layer.qkv,
                "output": layer.output,
                "mlp.gate_up": layer.mlp.gate_up,
                "mlp.down": layer.mlp.down,
            }
            for name, linear in named.items():
                yield f"layers.{index}.{name}", linear
        yield "head", self.head

    @property
    def pads(self) -> bool:
        return any(linear.packed.pads for _, linear in self.linears() if linear.packed is not None)

    def held(self) -> dict[str, int]:
        """How many matrices are held in which forms."""
        return dict(Counter(linear.packed.kind for _, linear in self.linears() if linear.packed is not None))
