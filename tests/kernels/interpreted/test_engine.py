"""A whole engine on the Triton backend, in the interpreter, gives the tokens of one on the torch backend."""

from __future__ import annotations

from typing import Any

import pytest

from latticework.lang.ir import Sampling
from latticework.runtime.config import EngineConfig
from latticework.runtime.engine import Engine
from latticework.runtime.request import GenSegment, Request, TextSegment
from latticework.runtime.text.tokenizer import Tokenizer

PROMPTS = ["The quick brown fox jumps", "The quick brown fox", "x"]


def tokens_of(attention: Any, steps: int) -> dict[int, list[int]]:
    """What three requests that share a prefix are answered, one of them at random; prompts are cut into chunks."""
    engine = Engine.load(
        EngineConfig(
            model="tiny", dtype="float32", attention=attention, kv_tokens=256, page_size=4, chunk_tokens=16, threads=1
        )
    )
    for number, prompt in enumerate(PROMPTS):
        sampling = Sampling(max_tokens=steps, temperature=1.0 if number == 1 else 0.0, seed=number)
        text, head, head_tokens = Tokenizer.bytes_only().encode_pieces([(prompt, True)])
        segments = (TextSegment(tuple(text), head, head_tokens), GenSegment(sampling))
        assert engine.submit("a", Request(number, segments)) is None
    found: dict[int, list[int]] = {number: [] for number in range(len(PROMPTS))}
    while engine.has_work():
        for events in engine.step().values():
            for event in events:
                assert event.error is None, event.error
                found[event.request] += event.tokens
        engine.check()
    return found


def test_requests_get_the_torch_backends_tokens() -> None:
    found = tokens_of("triton", 5)
    assert found == tokens_of("torch", 5)
    assert all(len(tokens) == 5 for tokens in found.values())


@pytest.mark.slow
def test_long_answers_are_the_torch_backends_too() -> None:
    assert tokens_of("triton", 40) == tokens_of("torch", 40)
