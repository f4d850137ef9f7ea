"""How `/generate` reads a prompt: text as it is, one begin token, and token ids untouched."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from latticework.runtime.config import ServerConfig
from latticework.runtime.link.messages import EngineReady
from latticework.runtime.model.tiny import tiny_card
from latticework.runtime.programs.front import Front
from latticework.runtime.server import native
from latticework.runtime.server.native_schemas import GenerateBody
from latticework.runtime.text.tokenizer import Tokenizer

BEGIN = "<|endoftext|>"


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Front:
    """A front without an engine, whose model begins every text with a token of its own."""
    state = json.loads(Tokenizer.bytes_only().to_json())
    (begin,) = [token["id"] for token in state["added_tokens"] if token["content"] == BEGIN]
    single = [{"SpecialToken": {"id": BEGIN, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    state["post_processor"] = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {BEGIN: {"id": BEGIN, "ids": [begin], "tokens": [BEGIN]}},
    }
    path: Path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(json.dumps(state))
    card = msgspec.structs.replace(tiny_card(), tokenizer=str(path))
    link: Any = SimpleNamespace(greeting=EngineReady(4096, 4096, "float64"))
    return Front(card, link, cast(Any, None), cast(Any, None), ServerConfig())


def tokens(front: Front, **body: Any) -> list[tuple[int, ...]]:
    return [prompt.tokens for prompt in native.asked(front, GenerateBody(**body)).prompts]


def test_a_text_begins_with_one_begin_token_whether_it_carries_it_or_not(front: Front) -> None:
    begin = front.tokenizer.bos_ids
    assert len(begin) == 1
    expected = (*begin, *b"Hi")
    assert tokens(front, text="Hi") == [expected]
    assert tokens(front, text=BEGIN + "Hi") == [expected]
    assert tokens(front, text=["Hi", BEGIN + "Hi"]) == [expected, expected]


def test_token_ids_are_taken_as_they_are(front: Front) -> None:
    assert tokens(front, input_ids=[72, 105]) == [(72, 105)]
    assert tokens(front, input_ids=[[72], [105]]) == [(72,), (105,)]


def test_a_special_token_in_a_text_is_one_token(front: Front) -> None:
    special = front.tokenizer.special["<|im_start|>"]
    assert tokens(front, text="a<|im_start|>b") == [(*front.tokenizer.bos_ids, 97, special, 98)]


@pytest.mark.parametrize(
    ("start", "drawn", "first"),
    [(None, 5, None), (-1, 5, None), (0, 5, 0), (2, 5, 2), (None, 0, 0), (-1, 0, 0), (0, 0, 0), (2, 0, 3)],
)
def test_where_the_log_probabilities_of_a_prompt_begin(
    front: Front, start: int | None, drawn: int, first: int | None
) -> None:
    body = GenerateBody.model_validate(
        {
            "text": "Hello",
            "return_logprob": True,
            "logprob_start_len": start,
            "sampling_params": {"max_new_tokens": drawn},
        }
    )
    assert native.asked(front, body).first == first
    assert native.asked(front, body.model_copy(update={"return_logprob": False})).first is None
