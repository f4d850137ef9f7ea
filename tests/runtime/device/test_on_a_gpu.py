"""Captured steps on a GPU: the tokens of the same steps called one kernel after the other, and of steps in a row."""

from __future__ import annotations

from typing import Any

import pytest

from latticework.lang.ir import Regex, Sampling
from latticework.runtime.config import EngineConfig
from latticework.runtime.constrain import encode_rules, to_rules
from latticework.runtime.engine import Engine
from latticework.runtime.request import GenSegment, Request, TextSegment
from latticework.runtime.text.tokenizer import Tokenizer

RULES: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 1.0, "top_p": 0.9, "logprobs": 2},
    {"temperature": 1.0, "presence_penalty": 0.5, "min_tokens": 4},
)


def tokens_of(how: dict[str, Any]) -> tuple[Engine, dict[int, list[int]]]:
    engine = Engine.load(
        EngineConfig(model="tiny", dtype="float32", attention="triton", kv_tokens=8192, max_running=8, **how)
    )
    engine.define("a", "key", encode_rules(to_rules(Regex("([0-9]{4}-[a-z]{2} ){1,9}"))))
    engine.pieces.go_on(60.0)
    found: dict[int, list[int]] = {}
    for number in range(12):
        text, head, head_tokens = Tokenizer.bytes_only().encode_pieces([(f"{number} says", True)])
        sampling = Sampling(max_tokens=20 + number, seed=number, **RULES[number % len(RULES)])
        gen = GenSegment(sampling, "key" if number % 2 else None)
        assert engine.submit("a", Request(number, (TextSegment(tuple(text), head, head_tokens), gen))) is None
        found[number] = []
    while engine.has_work():
        for events in engine.step().values():
            for event in events:
                assert event.error is None, event.error
                found[event.request] += event.tokens
        engine.check()
    return engine, found


@pytest.mark.gpu
def test_captured_steps_give_the_tokens_of_called_ones() -> None:
    engine, captured = tokens_of({})
    assert engine.decoder is not None
    assert engine.decoder.drawn > 100
    assert tokens_of({"cuda_graphs": "off"})[1] == captured
    assert tokens_of({"overlap": "off"})[1] == captured
