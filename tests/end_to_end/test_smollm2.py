"""The real model: extraction always validates, and no option of the engine changes a token (float32)."""

from __future__ import annotations

import functools
import json
from typing import Any

import jsonschema
import pytest
import torch

import latticework as lw
from latticework.lang.backends.runtime import Runtime
from latticework.lang.ir import Sampling
from latticework.runtime.attention import make_attention
from latticework.runtime.cache.kv import allocate_kv
from latticework.runtime.config import EngineConfig
from latticework.runtime.constrain import Automaton, Vocabulary, decode_rules
from latticework.runtime.engine import Engine
from latticework.runtime.model.decoder import Decoder
from latticework.runtime.model.load import load_model
from latticework.runtime.model.locate import find_model
from latticework.runtime.model.runner import ModelRunner
from latticework.runtime.request import GenSegment, Request, TextSegment
from latticework.runtime.text.tokenizer import Tokenizer

# ---------------------------------------------------------------- extraction

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 24},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "member": {"type": "boolean"},
    },
    "required": ["name", "age", "member"],
    "additionalProperties": False,
}
EVENT = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "place": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "kind": {"enum": ["concert", "talk", "market"]},
    },
    "required": ["title", "place", "kind"],
    "additionalProperties": False,
}
ORDER = {
    "$defs": {
        "item": {
            "type": "object",
            "properties": {"product": {"type": "string", "maxLength": 16}, "count": {"type": "integer"}},
            "required": ["product", "count"],
            "additionalProperties": False,
        }
    },
    "type": "object",
    "properties": {"items": {"type": "array", "items": {"$ref": "#/$defs/item"}}, "note": {"type": "string"}},
    "required": ["items"],
    "additionalProperties": False,
}
REVIEW = {
    "type": "object",
    "properties": {
        "summary": {"type": "string"},
        "stars": {"type": "number", "minimum": 0, "maximum": 5},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 4},
    },
    "required": ["summary", "stars", "tags"],
    "additionalProperties": False,
}
LOG = {
    "type": "object",
    "properties": {
        "level": {"const": "error"},
        "code": {"type": ["integer", "null"], "exclusiveMinimum": 99, "exclusiveMaximum": 600},
        "message": {"type": "string"},
        "path": {"type": "array", "items": {"type": "string"}, "minItems": 1},
    },
    "required": ["level", "code", "message", "path"],
    "additionalProperties": False,
}
TEXTS = [
    (PERSON, "Anna is 31 years old and has been a member of the club since May."),
    (EVENT, "On Sunday there is a farmers' market on the old square."),
    (ORDER, "Please send three boxes of tea and one kettle. Ring twice."),
    (REVIEW, "Lovely rooms, slow lift, breakfast was superb. Four and a half stars."),
    (LOG, "ERROR 502 while fetching /api/users/7: upstream closed the connection"),
]
BUDGETS = [48, 56, 64, 80, 96, 128, 160, 192, 224, 256]


@lw.function
def extract(s: lw.State, text: str, schema: dict[str, Any], budget: int) -> None:
    s += lw.system("You extract data as JSON.")
    s += lw.user(text)
    s += lw.assistant(lw.gen("data", json_schema=schema, max_tokens=budget))


@pytest.mark.parametrize("count", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_extractions_validate(smollm2_runtime: Runtime, count: int) -> None:
    every = [{"text": t, "schema": schema, "budget": b} for b in BUDGETS for schema, t in TEXTS]
    assert len(every) == 50
    items = every[:: len(every) // count]
    states = extract.run_batch(items, backend=smollm2_runtime, temperature=0.8, seed=11)
    for item, state in zip(items, states, strict=True):
        jsonschema.validate(json.loads(state["data"]), item["schema"])
        assert state.meta("data").complete
        assert state.meta("data").usage.output <= item["budget"]


# ---------------------------------------------------------------- exactness

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea, there lived",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "The three primary colours are red,",
    "In 2024, 12345 people visited the museum. In 2025,",
]


@functools.cache
def model() -> Decoder:
    return load_model(find_model("smollm2"), "float32")


def outputs(**options: Any) -> list[list[int]]:
    """32 greedy tokens after each prompt, then 32 seeded ones; max_running at a time."""
    torch.set_num_threads(2)
    config = EngineConfig(**{"dtype": "float32", "kv_tokens": 4096, **options})
    card = find_model("smollm2")
    tokenizer = Tokenizer.from_file(card.tokenizer)
    spec = model().spec
    kv = allocate_kv(spec, config.kv_tokens // config.page_size, config.page_size, torch.float32)  # type: ignore[operator]
    runner = ModelRunner(model(), make_attention("torch", "cpu"), kv)
    vocabulary = Vocabulary(tokenizer.padded(spec.vocab_size), card.end_ids)
    engine = Engine(
        config,
        runner,
        tokenizer,
        lambda rules: Automaton(decode_rules(rules), vocabulary),
        spec,
        card.end_ids,
        "float32",
        vocabulary,
    )
    samplings = [Sampling(max_tokens=32, temperature=0.0, seed=0)] * 5
    samplings += [Sampling(max_tokens=32, temperature=0.8, top_p=0.95, seed=n) for n in range(5)]
    tokens: dict[int, list[int]] = {}
    for number, (prompt, sampling) in enumerate(zip(PROMPTS * 2, samplings, strict=True)):
        text = TextSegment(tuple(tokenizer.encode(prompt)))
        tokens[number] = []
        assert engine.submit("test", Request(number, (text, GenSegment(sampling)))) is None
    while engine.has_work():
        for event in engine.step().get("test", []):
            assert event.error is None
            tokens[event.request] += event.tokens
        engine.check()
    return [tokens[number] for number in sorted(tokens)]


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    return outputs(page_size=16, chunk_tokens=4096, prefix_cache=False, max_running=1)


OTHER_OPTIONS: list[dict[str, Any]] = [{"max_running": 7}, {"chunk_tokens": 16}, {"page_size": 1}]


@pytest.mark.parametrize(
    "option",
    [{"prefix_cache": True}, *(pytest.param(option, marks=pytest.mark.slow) for option in OTHER_OPTIONS)],
    ids=lambda option: "-".join(option),
)
def test_an_option_alone_changes_no_token(expected: list[list[int]], option: dict[str, Any]) -> None:
    plain = {"page_size": 16, "chunk_tokens": 4096, "prefix_cache": False, "max_running": 10}
    assert outputs(**{**plain, **option}) == expected
