"""What is known of a model before its weights are read. Names follow transformers' configs."""

from __future__ import annotations

import msgspec

from latticework.lang.errors import BrokenModel

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


class RopeScaling(msgspec.Struct, frozen=True, kw_only=True):
    """Llama 3's stretching of the rotary wavelengths (rope_type "llama3")."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of a decoder."""

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
    rope_scaling: RopeScaling | None = None
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False

    def check(self, source: str) -> None:
        """Raises BrokenModel for a shape that no model has; `source` is the file that says so."""
        sizes = {name: getattr(self, name) for name in _SIZES}
        for name, size in sizes.items():
            if not 0 < size <= MAX_SIZE:
                raise BrokenModel(f"{source}: {name} is {size}; expected 1 to {MAX_SIZE}")
        if self.head_dim % 2:
            raise BrokenModel(f"{source}: head_dim is {self.head_dim}; expected an even number")
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
    weights: a .gguf file, or a folder of safetensors, or "tiny".
    """

    name: str
    weights: str
    tokenizer: str
    spec: ModelSpec
    end_ids: tuple[int, ...]
    chat_template: str | None = None
    bos_token: str = ""
    eos_token: str = ""
