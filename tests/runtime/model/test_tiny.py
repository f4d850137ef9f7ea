from __future__ import annotations

from pathlib import Path

import pytest
import torch

from latticework.runtime.model.load import load_model
from latticework.runtime.model.locate import find_model
from latticework.runtime.text.chat import ChatTemplate
from latticework.runtime.text.tokenizer import Tokenizer
from tests.runtime.model.by_hand import Row, make_runner, step


def greedy(prompt: bytes, count: int) -> bytes:
    model = load_model(find_model("tiny"), "float64")
    runner, row = make_runner(model, torch.float64), Row(list(range(1, 41)))
    new = list(prompt)
    for _ in range(count):
        (logits,) = step(runner, [(row, new)])
        new = [int(logits[-1].argmax())]
    return bytes(row.tokens[len(prompt) :])


def test_it_is_the_same_model_every_time() -> None:
    first, second = (load_model(find_model("tiny"), "float64") for _ in range(2))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("prompt", [b"a", b"Hello", b"Once upon a time"])
def test_greedy_text_is_varied_and_printable(prompt: bytes) -> None:
    text = greedy(prompt, 64)
    assert len(set(text)) >= 20
    assert all(0x20 <= byte < 0x7F for byte in text)


def test_its_card_has_everything_a_front_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATTICEWORK_CACHE", str(tmp_path))
    card = find_model("tiny")
    tokenizer = Tokenizer.from_file(card.tokenizer)
    assert Path(card.tokenizer).is_relative_to(tmp_path)
    assert len(tokenizer) < card.spec.vocab_size == len(tokenizer.padded(card.spec.vocab_size))
    assert card.end_ids == (tokenizer.special["<|endoftext|>"], tokenizer.special["<|im_end|>"])
    assert ChatTemplate.of(card).opening((), "user") == "<|im_start|>user\n"
