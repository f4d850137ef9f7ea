"""Llama and everything shaped like it (Mistral without a window, SmolLM, TinyLlama).

A decoder over T tokens of any number of sequences, end to end; who attends to whom is the caller's `attend`.
This file knows no KV cache, no batch and no file format. Weight names are transformers'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from latticework.lang.errors import BrokenModel
from latticework.runtime.model.layers import GatedMLP, Linear, RMSNorm, Rotary, rotate, uninitialised
from latticework.runtime.model.spec import ModelSpec

Attend: TypeAlias = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q [T, heads, head_dim], k, v [T, kv_heads, head_dim]) -> [T, heads, head_dim]."""


class Layer(nn.Module):
    """norm, attention, norm, MLP, each half added to the stream. q, k and v are one matrix."""

    def __init__(self, spec: ModelSpec, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = spec.num_attention_heads
        self.kv_heads = spec.num_key_value_heads
        self.head_dim = spec.head_dim
        heads = self.heads + 2 * self.kv_heads
        self.input_norm = RMSNorm(spec.hidden_size, spec.rms_norm_eps, dtype)
        self.qkv = Linear(spec.hidden_size, heads * self.head_dim, spec.attention_bias, dtype)
        self.output = Linear(self.heads * self.head_dim, spec.hidden_size, spec.attention_bias, dtype)
        self.mlp_norm = RMSNorm(spec.hidden_size, spec.rms_norm_eps, dtype)
        self.mlp = GatedMLP(spec, dtype)

    def forward(self, index: int, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        qkv = self.qkv(self.input_norm(x)).view(len(x), -1, self.head_dim)
        turned = rotate(qkv[:, : self.heads + self.kv_heads], cos, sin)
        q, k = turned.split((self.heads, self.kv_heads), dim=1)
        attended = attend(index, q, k, qkv[:, self.heads + self.kv_heads :])
        x = x + self.output(attended.reshape(len(x), -1))
        return x + self.mlp(self.mlp_norm(x))


class Llama(nn.Module):
    """LlamaForCausalLM."""

    def __init__(self, spec: ModelSpec, dtype: torch.dtype, device: str = "cpu") -> None:
        """Weights are uninitialised: fill them with `load`."""
        super().__init__()
        self.spec = spec
        with torch.device(device):
            self.embed = uninitialised(spec.vocab_size, spec.hidden_size, dtype=dtype)
            self.layers = nn.ModuleList(Layer(spec, dtype) for _ in range(spec.num_hidden_layers))
            self.norm = RMSNorm(spec.hidden_size, spec.rms_norm_eps, dtype)
            self.head = (
                self.embed
                if spec.tie_word_embeddings
                else uninitialised(spec.vocab_size, spec.hidden_size, dtype=dtype)
            )
            self.rotary = Rotary(spec, dtype)

    def forward(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """tokens, positions: [T] int64 -> [T, hidden], normed."""
        x = functional.embedding(tokens, self.embed)
        cos, sin = self.rotary(positions)
        for index, layer in enumerate(self.layers):
            x = layer(index, x, cos, sin, attend)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [R, hidden] -> [R, V]."""
        return functional.linear(hidden, self.head)

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
        heads, kv_heads = self.spec.num_attention_heads, self.spec.num_key_value_heads
        qkv = [count * self.spec.head_dim for count in (heads, kv_heads, kv_heads)]
        halves = [self.spec.intermediate_size] * 2
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            at = f"model.layers.{index}"
            places[f"{at}.input_layernorm.weight"] = layer.input_norm.weight.data
            places[f"{at}.post_attention_layernorm.weight"] = layer.mlp_norm.weight.data
            fused = (
                (layer.qkv, ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), qkv),
                (layer.output, ("self_attn.o_proj",), [self.spec.hidden_size]),
                (layer.mlp.gate_up, ("mlp.gate_proj", "mlp.up_proj"), halves),
                (layer.mlp.down, ("mlp.down_proj",), [self.spec.hidden_size]),
            )
            for linear, names, rows in fused:
                for kind, tensor in linear.named_parameters():  # weight, and bias where there is one
                    for name, part in zip(names, tensor.data.split(rows), strict=True):
                        places[f"{at}.{name}.{kind}"] = part
        return places
