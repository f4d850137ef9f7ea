"""The model named "tiny": a random two-layer Llama over bytes, for tests and for trying things out.

Always the same weights, from a counter-based generator, so nothing is downloaded or stored. Its text is noise,
but varied and mostly printable: the head favours printable ASCII and avoids the special tokens. `tiny_card`
needs no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from latticework.runtime import config
from latticework.runtime.model.files import write_atomically
from latticework.runtime.model.spec import ModelCard, ModelSpec
from latticework.runtime.text.tokenizer import END_OF_TEXT, Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

SEED = 20
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPEC = ModelSpec(
    architecture="LlamaForCausalLM",
    num_hidden_layers=2,
    hidden_size=32,
    intermediate_size=64,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    vocab_size=264,  # 256 bytes, 3 special tokens, padding as real vocabularies have it
    max_position_embeddings=4096,
)


def tiny_card() -> ModelCard:
    """Writes the byte tokenizer into the cache folder if it is not there."""
    tokenizer = Tokenizer.bytes_only()
    text = tokenizer.to_json()
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    path = config.cache_folder() / "tokenizers" / f"tiny-{digest}" / "tokenizer.json"
    if not path.exists():
        write_atomically(path, text)
    return ModelCard(
        name="tiny",
        weights="tiny",
        tokenizer=str(path),
        spec=SPEC,
        end_ids=(tokenizer.special[END_OF_TEXT], tokenizer.special["<|im_end|>"]),
        chat_template=CHAT_TEMPLATE,
        eos_token="<|im_end|>",
    )


def tiny_weights(spec: ModelSpec = SPEC) -> Iterator[tuple[str, Tensor]]:
    """float64 weights by transformers' names."""
    from torch import from_numpy

    for name, array in _arrays(spec):
        yield name, from_numpy(array)


def _arrays(spec: ModelSpec) -> Iterator[tuple[str, NDArray[np.float64]]]:
    random = np.random.Generator(np.random.Philox(SEED))
    hidden, inner = spec.hidden_size, spec.intermediate_size
    q_rows, kv_rows = spec.num_attention_heads * spec.head_dim, spec.num_key_value_heads * spec.head_dim

    def matrix(rows: int, columns: int, scale: float) -> NDArray[np.float64]:
        return random.standard_normal((rows, columns)) * scale / columns**0.5

    yield "model.embed_tokens.weight", random.standard_normal((spec.vocab_size, hidden))
    for index in range(spec.num_hidden_layers):
        at = f"model.layers.{index}"
        yield f"{at}.input_layernorm.weight", np.ones(hidden)
        yield f"{at}.self_attn.q_proj.weight", matrix(q_rows, hidden, 2.0)  # sharp attention: text depends on
        yield f"{at}.self_attn.k_proj.weight", matrix(kv_rows, hidden, 2.0)  # single tokens far back
        yield f"{at}.self_attn.v_proj.weight", matrix(kv_rows, hidden, 2.0)
        yield f"{at}.self_attn.o_proj.weight", matrix(hidden, q_rows, 2.0)
        yield f"{at}.post_attention_layernorm.weight", np.ones(hidden)
        yield f"{at}.mlp.gate_proj.weight", matrix(inner, hidden, 2.0)
        yield f"{at}.mlp.up_proj.weight", matrix(inner, hidden, 2.0)
        yield f"{at}.mlp.down_proj.weight", matrix(hidden, inner, 2.0)
    yield "model.norm.weight", np.ones(hidden)
    head = matrix(spec.vocab_size, hidden, 0.5)
    head[0x20:0x7F] *= 6.0
    yield "lm_head.weight", head
