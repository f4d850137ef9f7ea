"""The engine as a process loads it: real tokenizer, real weights, real constraints."""

from __future__ import annotations

import json
import re

import pytest

from latticework.lang.errors import InvalidArgument, ModelNotFound
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
            "additionalProperties": False,
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


def test_running_constraints_stay_within_the_row_cache() -> None:
    config = EngineConfig(model="tiny", dtype="float64", kv_tokens=4096, context=256, threads=1, row_cache_mb=1)
    engine = Engine.load(config)
    schemas = [
        JsonSchema(
            {
                "type": "object",
                "properties": {f"field {n} {m}": {"type": "string", "maxLength": 40} for m in range(3)},
                "required": [f"field {n} {m}" for m in range(3)],
                "additionalProperties": False,
            }
        )
        for n in range(12)
    ]
    for number, schema in enumerate(schemas):
        engine.define(b"front", constraint_key(schema), encode_rules(to_rules(schema)))
        gen = GenSegment(Sampling(max_tokens=180, seed=number), constraint_key(schema))
        assert engine.submit(b"front", Request(number, (TextSegment(tuple(b"Say: ")), gen))) is None
    texts = [b""] * len(schemas)
    largest = 0
    while engine.has_work():
        for event in engine.step().get(b"front", []):
            assert event.error is None
            texts[event.request] += event.data
        largest = max(largest, engine.automata.size)
    assert largest <= 1 << 20
    assert engine.automata.forgotten > 0
    for number, text in enumerate(texts):
        assert set(json.loads(text)) == {f"field {number} {m}" for m in range(3)}


@pytest.mark.parametrize(
    ("settings", "field", "said"),
    [
        ({"context": 100_000}, "context", ["100000", "expected 1 to"]),
        ({"context": 0}, "context", ["context is 0"]),
        ({"kv_tokens": 15}, "kv_tokens", ["kv_tokens is 15", "one page of 16 tokens"]),
        ({"kv_tokens": -5}, "kv_tokens", ["kv_tokens is -5"]),
    ],
)
def test_a_size_that_cannot_be_is_refused_and_never_changed(
    settings: dict[str, int], field: str, said: list[str]
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Engine.load(EngineConfig(model="tiny", threads=1, **settings))  # type: ignore[arg-type]
    assert caught.value.field == field
    assert all(part in caught.value.message for part in said)


def test_an_unknown_model_is_said_to_be_unknown() -> None:
    with pytest.raises(ModelNotFound):
        Engine.load(EngineConfig(model="/no/such/folder", threads=1))
