"""A folder with a shape's config.json and a vocabulary of its size, from which an engine makes a random-weight model.

The vocabulary is of made-up words whose lengths are those of real ones (7 bytes on average), so that constraints walk
as many bytes a token as they would in earnest. No weights, no torch, nothing downloaded.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as HfTokenizer

from benchmarks.gpu.shapes import Shape
from latticework.runtime.text.tokenizer import END_OF_TEXT, byte_alphabet

LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
LONGEST = 14  # letters of a word


def write_model(shape: Shape, folder: Path) -> None:
    """Fills an existing folder."""
    (folder / "config.json").write_text(json.dumps(shape.config | {"eos_token_id": shape.vocabulary - 1}))
    (folder / "tokenizer.json").write_text(vocabulary(shape.vocabulary))


def vocabulary(size: int) -> str:
    """A tokenizer.json of `size` tokens: the bytes, made-up words, half of them after a space, and an end token last.
    size: at least 257."""
    characters = {byte: character for character, byte in byte_alphabet().items()}
    tokens = {characters[byte]: byte for byte in range(256)}
    rng = random.Random(size)
    while len(tokens) < size - 1:
        length = min(LONGEST, 2 + int(rng.gammavariate(4.0, 1.25)))
        word = "".join(rng.choices(LETTERS, k=length))
        tokens.setdefault(characters[0x20] + word if rng.random() < 0.5 else word, len(tokens))
    inner = HfTokenizer(models.BPE(vocab=tokens, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return inner.to_str()
