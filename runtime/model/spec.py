"""What is known of a model before its weights are read. Names follow transformers' configs."""

from __future__ import annotations

from typing import Literal

import msgspec

from latticework.lang.errors import BrokenModel
from latticework.runtime.attention.layer import PLAIN, LayerAttention

MAX_SIZE = 1 << 24
_SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
)


class RopeScaling(msgspec.Struct, frozen=True, kw_only=True, tag="llama3"):
    """Llama 3's stretching of the rotary wavelengths (rope_type "llama3")."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


class LinearScaling(msgspec.Struct, frozen=True, kw_only=True, tag="linear"):
    """Positions divided by `factor` (rope_type "linear")."""

    factor: float


class RopeFactors(msgspec.Struct, frozen=True, kw_only=True, tag="factors"):
    """Each wavelength multiplied by a number of its own: what GGUF files hold of any stretching."""

    factors: tuple[float, ...]  # [rotary_dim / 2]


RopeKind = Literal["global", "local", "none"]
"""How a layer turns its heads: with rope_theta and rope_scaling, with local_rope_theta, or not at all."""


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of a decoder, and how it differs from a Llama.

    rotary_dim: how many dimensions of a head turn, None for all. hidden_act: the MLP's. output_bias: the attention
    output's, None for attention_bias (then only q, k and v have one). norms: around attention and MLP, before them,
    after them, or both. norm_offset: norms multiply by offset + weight. qk_norm: of q and k, by head or over the whole
    projection. fused_weights: q, k, v and gate, up are one matrix each in the files. logits_scaling: logits are
    divided by it, then capped. attention_layers, rope_layers: one a layer; empty for plain attention, all "global".
    """

    architecture: str  # transformers' class name, e.g. "LlamaForCausalLM"
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | LinearScaling | RopeFactors | None = None
    local_rope_theta: float | None = None
    rotary_dim: int | None = None
    rope_layers: tuple[RopeKind, ...] = ()
    attention_layers: tuple[LayerAttention, ...] = ()
    hidden_act: Literal["silu", "gelu_pytorch_tanh"] = "silu"
    rms_norm_eps: float = 1e-5
    norms: Literal["before", "after", "both"] = "before"
    norm_offset: float = 0.0
    qk_norm: Literal["head", "whole"] | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    output_bias: bool | None = None
    mlp_bias: bool = False
    fused_weights: bool = False
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_scaling: float = 1.0
    logits_soft_cap: float | None = None

    def check(self, source: str) -> None:
        """Raises BrokenModel for a shape that no model has; `source` is the file that says so."""
        sizes = {name: getattr(self, name) for name in _SIZES}
        for name, size in sizes.items():
            if not 0 < size <= MAX_SIZE:
                raise BrokenModel(f"{source}: {name} is {size}; expected 1 to {MAX_SIZE}")
        rotated = self.head_dim if self.rotary_dim is None else self.rotary_dim
        if rotated % 2 or not 0 < rotated <= self.head_dim:
            raise BrokenModel(f"{source}: head_dim is {self.head_dim} with {rotated} rotated; expected an even number")
        for name in ("attention_layers", "rope_layers"):
            if len(getattr(self, name)) not in (0, self.num_hidden_layers):
                raise BrokenModel(
                    f"{source} describes {len(getattr(self, name))} layers of {self.num_hidden_layers} ({name})"
                )
        positive = {"rope_theta": self.rope_theta, "local_rope_theta": self.local_rope_theta}
        positive |= {"the soft cap of logits": self.logits_soft_cap, "logits_scaling": self.logits_scaling}
        for layer in set(self.attention_layers) or {PLAIN}:
            positive |= {"sliding_window": layer.window, "the soft cap of scores": layer.soft_cap}
            for name, number in positive.items():
                if number is not None and not number > 0:
                    raise BrokenModel(f"{source}: {name} is {number}; expected more than 0")
        if self.num_attention_heads % self.num_key_value_heads:
            raise BrokenModel(
                f"{source}: num_attention_heads {self.num_attention_heads} is no multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )

    def kv_bytes_per_token(self, itemsize: int) -> int:
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim * itemsize


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """What the front needs of a model: no weights, no torch.

    tokenizer: path of a tokenizer.json. chat_template: Jinja source or None. end_ids: tokens that end a text.
    weights: a .gguf file, or a folder of safetensors, or "tiny", or "dummy".
    """

    name: str
    weights: str
    tokenizer: str
    spec: ModelSpec
    end_ids: tuple[int, ...]
    chat_template: str | None = None
    bos_token: str = ""
    eos_token: str = ""
