"""The models whose shapes are measured, and what a step of theirs has to move and to compute at least. No torch.

Published shapes with weights of no meaning. The tiny ones, of the same families, are for the interpreter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BYTES = 2  # of a bfloat16 number


@dataclass(frozen=True)
class Shape:
    """A decoder. heads, kv_heads: of attention. normed: q and k are, as in Qwen3. tied: the head's matrix is the
    embedding's. more: what else its config.json says."""

    name: str
    family: str
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    positions: int
    tied: bool
    normed: bool
    eps: float
    theta: float
    scaling: dict[str, float | int | str] | None = None

    @property
    def config(self) -> dict[str, Any]:
        """Its config.json, as transformers names things."""
        return {
            "architectures": [{"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}[self.family]],
            "model_type": self.family,
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.positions,
            "rms_norm_eps": self.eps,
            "rope_theta": self.theta,
            "rope_scaling": self.scaling,
            "tie_word_embeddings": self.tied,
            "hidden_act": "silu",
            "attention_bias": False,
        }

    @property
    def layer_weights(self) -> int:
        """Numbers in the matrices of one layer."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.hidden * self.inner

    @property
    def step_weights(self) -> int:
        """Numbers in all matrices that a decode step reads: the layers' and the head's."""
        return self.layers * self.layer_weights + self.hidden * self.vocabulary

    @property
    def kv_bytes(self) -> int:
        """Of one token."""
        return 2 * self.layers * self.kv_heads * self.head_dim * BYTES

    def step_bytes(self, batch: int, context: int) -> int:
        """Read by a decode step at least: the matrices once, every sequence's keys and values."""
        return self.step_weights * BYTES + batch * context * self.kv_bytes

    def step_flops(self, batch: int, context: int) -> int:
        return 2 * batch * self.step_weights + batch * self._attention_flops(context)

    def prompt_flops(self, tokens: int) -> int:
        """Of one prompt, and the head for its last token."""
        return (
            2 * tokens * self.layers * self.layer_weights
            + 2 * self.hidden * self.vocabulary
            + self._attention_flops(1) * tokens * (tokens + 1) // 2
        )

    def _attention_flops(self, seen: int) -> int:
        """Of one token that sees so many."""
        return 4 * self.layers * self.heads * self.head_dim * seen


LLAMA_8B = Shape(
    name="Llama-3.1-8B",
    family="llama",
    layers=32,
    hidden=4096,
    inner=14336,
    heads=32,
    kv_heads=8,
    head_dim=128,
    vocabulary=128256,
    positions=131072,
    tied=False,
    normed=False,
    eps=1e-5,
    theta=500000.0,
    scaling={
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
)
QWEN3_06B = Shape(
    name="Qwen3-0.6B",
    family="qwen3",
    layers=28,
    hidden=1024,
    inner=3072,
    heads=16,
    kv_heads=8,
    head_dim=128,
    vocabulary=151936,
    positions=40960,
    tied=True,
    normed=True,
    eps=1e-6,
    theta=1000000.0,
)
TINY_LLAMA = Shape(
    name="tiny Llama",
    family="llama",
    layers=2,
    hidden=32,
    inner=64,
    heads=4,
    kv_heads=2,
    head_dim=16,
    vocabulary=512,
    positions=4096,
    tied=False,
    normed=False,
    eps=1e-5,
    theta=10000.0,
)
TINY_QWEN3 = Shape(
    name="tiny Qwen3",
    family="qwen3",
    layers=1,
    hidden=32,
    inner=64,
    heads=2,
    kv_heads=1,
    head_dim=16,
    vocabulary=512,
    positions=4096,
    tied=True,
    normed=True,
    eps=1e-6,
    theta=10000.0,
)
