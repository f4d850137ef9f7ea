"""The engine as a process loads it: real tokenizer, real weights, real constraints."""

from __future__ import annotations

import json
import re

import pytest

from latticework.lang.errors import ModelNotFound
from latticework.lang.ir import JsonSchema, Regex, Sampling, constraint_key
from latticework.runtime.config import EngineConfig
from latticework.runtime.constrain import encode_rules, to_rules
from latticework.runtime.engine import Engine
from latticework.runtime.request import GenSegment, Request, TextSegment

CONSTRAINTS = (
    Regex("[0-9]{3}-[a-f]+"),
    JsonSchema(
        {
            "type": "object",
            "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"enum": ["a", "b"]}}},
            "required": ["name", "tags"],
        }
    ),
)


@pytest.fixture(scope="module")
def engine() -> Engine:
    fractions: list[float] = []
    config = EngineConfig(model="tiny", dtype="float64", kv_tokens=1024, context=512, threads=1)
    engine = Engine.load(config, progress=fractions.append)
    assert fractions == sorted(fractions)
    assert all(0.0 <= fraction <= 1.0 for fraction in fractions)
    return engine


def test_the_engine_says_what_it_can_hold(engine: Engine) -> None:
    assert (engine.context, engine.kv_tokens, engine.dtype) == (512, 1024, "float64")


def test_constrained_output_parses(engine: Engine) -> None:
    for constraint in CONSTRAINTS:
        engine.define(b"front", constraint_key(constraint), encode_rules(to_rules(constraint)))
    requests = [
        Request(
            number,
            (
                TextSegment(tuple(b"Say: ")),
                GenSegment(Sampling(max_tokens=40, seed=number), constraint_key(CONSTRAINTS[number % 2])),
            ),
        )
        for number in range(8)
    ]
    for request in requests:
        assert engine.submit(b"front", request) is None
    texts = [b""] * 8
    while engine.has_work():
        for event in engine.step().get(b"front", []):
            texts[event.request] += event.data
            assert event.end in (None, "stop", "length")
            assert event.complete
        engine.check()
    for text in texts[::2]:
        assert re.fullmatch(r"[0-9]{3}-[a-f]+", text.decode())
    for text in texts[1::2]:
        assert set(json.loads(text)) == {"name", "tags"}


def test_an_unknown_model_is_said_to_be_unknown() -> None:
    with pytest.raises(ModelNotFound):
        Engine.load(EngineConfig(model="/no/such/folder", threads=1))
