"""The decoder every native family is made of: embedding, layers, norm, head.

A decoder over T tokens of any number of sequences, end to end; who attends to whom is the caller's `attend`. What
families differ in is in their `ModelSpec`. This file knows no family by name, no KV cache, no batch and no file
format. Weight names are transformers'.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from latticework.kernels.cpu.pointwise import TORCH, Pointwise
from latticework.lang.errors import BrokenModel
from latticework.runtime.model.base import Attend
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
from latticework.runtime.model.spec import ModelSpec

Turn: TypeAlias = tuple[Tensor, Tensor] | None
"""cos and sin of each token's position, [T, 1, rotary_dim]; None in layers without positions."""


class Layer(nn.Module):
    """Attention, then the MLP, each added to the stream; norms before, after, or on both sides of them.

    q, k and v are one matrix. A norm that a family lacks is an Identity.
    """

    def __init__(self, spec: ModelSpec, dtype: torch.dtype) -> None:
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
        self.qkv = Linear(spec.hidden_size, heads * self.head_dim, spec.attention_bias, dtype)
        self.qk_norm = QueryKeyNorm(spec, dtype) if spec.qk_norm else nn.Identity()
        self.output = Linear(self.heads * self.head_dim, spec.hidden_size, output_bias, dtype)
        self.output_norm = norm("after")
        self.mlp_norm = norm("before")
        self.mlp = GatedMLP(spec, dtype)
        self.mlp_output_norm = norm("after")

    def forward(self, index: int, x: Tensor, turn: Turn, attend: Attend) -> Tensor:  # x: [T, hidden]
        part = self.output_norm(self._attention(index, self.input_norm(x), turn, attend))
        if self.residual == 1.0 and isinstance(self.mlp_norm, RMSNorm):
            x, normed = self.mlp_norm.of_sum(x, part)
        else:
            x = self._add(x, part)
            normed = self.mlp_norm(x)
        return self._add(x, self.mlp_output_norm(self.mlp(normed)))

    def _attention(self, index: int, x: Tensor, turn: Turn, attend: Attend) -> Tensor:
        qkv = self.qkv(x).view(len(x), -1, self.head_dim)
        qk, v = qkv.split((self.heads + self.kv_heads, self.kv_heads), dim=1)
        qk = self.qk_norm(qk)
        if turn:
            qk = self.pointwise.rotate(qk, *turn)
        q, k = qk.split((self.heads, self.kv_heads), dim=1)
        return self.output(attend(index, q, k, v).reshape(len(x), -1))

    def _add(self, x: Tensor, part: Tensor) -> Tensor:
        return x + part if self.residual == 1.0 else x + part * self.residual


class Decoder(nn.Module):
    """A `Model` of any native family."""

    scale: Tensor

    def __init__(self, spec: ModelSpec, dtype: torch.dtype, device: str = "cpu") -> None:
        """Weights are uninitialised: fill them with `load`."""
        super().__init__()
        self.spec = spec
        self.ropes = spec.rope_layers or ("global",) * spec.num_hidden_layers
        with torch.device(device):
            self.embed = uninitialised(spec.vocab_size, spec.hidden_size, dtype=dtype)
            self.layers = nn.ModuleList(Layer(spec, dtype) for _ in range(spec.num_hidden_layers))
            self.norm = make_norm(spec.hidden_size, spec, dtype)
            self.head = (
                self.embed
                if spec.tie_word_embeddings
                else uninitialised(spec.vocab_size, spec.hidden_size, dtype=dtype)
            )
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
        x = functional.embedding(tokens, self.embed)
        if self.spec.embedding_multiplier != 1.0:
            x = x * self.scale
        turns: dict[str, Turn] = {kind: rotary(positions) for kind, rotary in self.rotary.items()}
        for index, layer in enumerate(self.layers):
            x = layer(index, x, turns.get(self.ropes[index]), attend)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [R, hidden] -> [R, V]."""
        found = functional.linear(hidden, self.head)
        if self.spec.logits_scaling != 1.0:
            found = found / self.spec.logits_scaling
        return found if self.spec.logits_soft_cap is None else soft_cap(found, self.spec.logits_soft_cap)

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copies every weight into its place, converting its dtype.

        Raises BrokenModel for a weight that is missing, unknown, or of the wrong shape.
        """
        places = self._places()
        tied = self.spec.tie_word_embeddings
        for name, weight in weights:
            if name.endswith("rotary_emb.inv_freq") or (tied and name == "lm_head.weight"):
                continue
            place = places.pop(name, None)
            if place is None:
                raise BrokenModel(f"weight {name!r} is given twice or has no place in {self.spec.architecture}")
            if place.shape != weight.shape:
                raise BrokenModel(f"weight {name!r} has shape {list(weight.shape)}; expected {list(place.shape)}")
            place.copy_(weight)
        if places:
            raise BrokenModel(f"{len(places)} weights are missing, the first is {next(iter(places))!r}")

    def _places(self) -> dict[str, Tensor]:
        """transformers' weight names to our tensors, or to the rows of a fused one."""
        places = {"model.embed_tokens.weight": self.embed.data, "model.norm.weight": self.norm.weight.data}
        if not self.spec.tie_word_embeddings:
            places["lm_head.weight"] = self.head.data
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            at = f"model.layers.{index}"
            for name, tensor in (*self._norms(layer), *self._matrices(layer)):
                places[f"{at}.{name}"] = tensor
        return places

    def _norms(self, layer: Layer) -> Iterator[tuple[str, Tensor]]:
        """With norms after attention, the name that Llama has for the one before the MLP is theirs."""
        before_mlp = "post_attention_layernorm" if self.spec.norms == "before" else "pre_feedforward_layernorm"
        named = {
            "input_layernorm": layer.input_norm,
            before_mlp: layer.mlp_norm,
            "post_feedforward_layernorm": layer.mlp_output_norm,
        }
        if self.spec.norms != "before":
            named["post_attention_layernorm"] = layer.output_norm
        if isinstance(layer.qk_norm, QueryKeyNorm):
            named |= {"self_attn.q_norm": layer.qk_norm.q, "self_attn.k_norm": layer.qk_norm.k}
        for name, norm in named.items():
            if isinstance(norm, RMSNorm):
                yield f"{name}.weight", norm.weight.data

    def _matrices(self, layer: Layer) -> Iterator[tuple[str, Tensor]]:
        spec = self.spec
        heads = (spec.num_attention_heads, spec.num_key_value_heads, spec.num_key_value_heads)
        qkv = {f"{part}_proj": count * spec.head_dim for part, count in zip("qkv", heads, strict=True)}
        gate_up = {"gate_proj": spec.intermediate_size, "up_proj": spec.intermediate_size}
        if spec.fused_weights:
            qkv, gate_up = {"qkv_proj": sum(qkv.values())}, {"gate_up_proj": 2 * spec.intermediate_size}
        linears = (
            ("self_attn", layer.qkv, qkv),
            ("self_attn", layer.output, {"o_proj": spec.hidden_size}),
            ("mlp", layer.mlp.gate_up, gate_up),
            ("mlp", layer.mlp.down, {"down_proj": spec.hidden_size}),
        )
        for owner, linear, rows in linears:
            for kind, tensor in linear.named_parameters():  # weight, and bias where there is one
                for name, part in zip(rows, tensor.data.split(list(rows.values())), strict=True):
                    yield f"{owner}.{name}.{kind}", part
