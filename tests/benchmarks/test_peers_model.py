"""What rivals read in place of our GGUF is the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.rivals.model import write_hf_folder
from latticework.runtime.model.load import load_model
from latticework.runtime.model.locate import find_model
from latticework.runtime.text.chat import ChatTemplate
from latticework.runtime.text.tokenizer import Tokenizer

TEXTS = ("In 2024, 12345 x  10 y", "naïve — ½ 🙂\n\n  def f(x):\n\treturn x", "<|im_start|>user")
MESSAGES = [{"role": "user", "content": "What is 2+2?"}]


@pytest.mark.slow
def test_the_folder_for_rivals_has_the_ggufs_tokens_template_and_weights(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    card = find_model("smollm2")
    write_hf_folder(card, tmp_path / "hf")
    theirs: Any = AutoTokenizer.from_pretrained(tmp_path / "hf")
    ours = Tokenizer.from_file(card.tokenizer)
    for text in TEXTS:
        assert theirs(text)["input_ids"] == ours.encode(text, special=True)
    rendered = theirs.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert rendered == ChatTemplate.of(card).render(MESSAGES, add_generation_prompt=True)

    again = find_model(str(tmp_path / "hf"))
    assert set(again.end_ids) == set(card.end_ids)
    first, second = (load_model(one, "bfloat16").state_dict() for one in (card, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
