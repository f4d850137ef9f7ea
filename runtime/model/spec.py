"""What is known of a model before its weights are read. Names follow transformers' configs."""

from __future__ import annotations

import msgspec


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
