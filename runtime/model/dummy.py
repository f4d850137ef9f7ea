"""Models of a published shape whose weights are random: `load_format="dummy"`, for measuring without downloading.

A shape is a config.json in a folder, or one that has a name here. Where the folder has no tokenizer, one is made up:
the 256 bytes, three special tokens, and as many words as the model has logits for. Text is encoded byte by byte, since
words have no merges; but the model writes words, and constraints meet a vocabulary as large and as varied as a real
one. No torch: the weights are made in `dummy_weights.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from latticework.lang.errors import ModelNotFound
from latticework.runtime import config
from latticework.runtime.model.files import write_atomically
from latticework.runtime.model.folder import folder_card, folder_spec, read_json
from latticework.runtime.model.spec import ModelCard, ModelSpec
from latticework.runtime.model.tiny import CHAT_TEMPLATE
from latticework.runtime.text.tokenizer import BYTES_ONLY_SPECIAL, END_OF_TEXT, Tokenizer

DUMMY = "dummy"
"""ModelCard.weights of a model whose weights are made up."""

_SEED = 5
_VERSION = 1  # raise it when other words are made up
_LETTERS = np.frombuffer(b"eeeeeetttttaaaaoooiiinnnssshhhrrrdddlllucmfwygpbvk", np.uint8)
_LENGTHS = np.array([2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 12])  # about those of GPT-2's vocabulary

SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": {
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "tie_word_embeddings": False,
    },
    "qwen3-0.6b": {
        "architectures": ["Qwen3ForCausalLM"],
        "num_hidden_layers": 28,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
    },
}
"""Published config.json files by a name of ours, without what does not shape the model."""


def dummy_card(name: str) -> ModelCard:
    """The card of a shape's name, or of a folder with a config.json. Raises ModelNotFound, and what `folder_spec` and
    `folder_card` raise."""
    if name.lower() in SHAPES:
        return _card(name, folder_spec(SHAPES[name.lower()], name))
    folder = Path(name).expanduser()
    if not (folder / "config.json").is_file():
        raise ModelNotFound(
            f"no shape {name!r}",
            hint=f"load_format='dummy' takes a folder with a config.json, or {', '.join(SHAPES)}",
            field="model",
        )
    if (folder / "tokenizer.json").is_file():
        return msgspec.structs.replace(folder_card(folder.resolve(), name, has_weights=False), weights=DUMMY)
    return _card(name, folder_spec(read_json(folder / "config.json"), str(folder / "config.json")))


def _card(name: str, spec: ModelSpec) -> ModelCard:
    path = config.cache_folder() / "tokenizers" / f"dummy-{spec.vocab_size}-{_VERSION}" / "tokenizer.json"
    if not path.exists():
        write_atomically(path, made_up_tokenizer(spec.vocab_size).to_json())
    special = Tokenizer.bytes_only().special
    return ModelCard(
        name=name,
        weights=DUMMY,
        tokenizer=str(path),
        spec=spec,
        end_ids=(special[END_OF_TEXT], special["<|im_end|>"]),
        chat_template=CHAT_TEMPLATE,
        eos_token="<|im_end|>",
    )


def made_up_tokenizer(vocab_size: int) -> Tokenizer:
    """Bytes, special tokens, and words up to `vocab_size` tokens: the same whenever it is made."""
    return Tokenizer.bytes_only(words=_words(vocab_size - 256 - len(BYTES_ONLY_SPECIAL)))


def _words(count: int) -> list[bytes]:
    """Different from each other; every other one begins with a space, as words of a text do."""
    random = np.random.Generator(np.random.Philox(_SEED))
    found: dict[bytes, None] = {}
    while len(found) < count:
        lengths = random.choice(_LENGTHS, 4096)
        letters = random.choice(_LETTERS, (4096, int(_LENGTHS.max())))
        for number, (length, word) in enumerate(zip(lengths.tolist(), letters, strict=True)):
            found[(b" " if number % 2 else b"") + word[:length].tobytes()] = None
    return list(found)[: max(count, 0)]
