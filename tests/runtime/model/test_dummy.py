"""Models of published shapes with random weights: what they are, and that an engine serves one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from latticework.lang.errors import BrokenModel, ModelNotFound, UnsupportedModel
from latticework.lang.ir import Regex, Sampling, constraint_key
from latticework.runtime.config import EngineConfig
from latticework.runtime.constrain import encode_rules, to_rules
from latticework.runtime.engine import Engine
from latticework.runtime.model.decoder import Decoder
from latticework.runtime.model.dummy import SHAPES, made_up_tokenizer
from latticework.runtime.model.dummy_weights import dummy_weights
from latticework.runtime.model.folder import folder_spec
from latticework.runtime.model.load import load_model
from latticework.runtime.model.locate import find_model
from latticework.runtime.model.places import shapes
from latticework.runtime.request import GenSegment, Request, TextSegment
from latticework.runtime.text.tokenizer import Tokenizer

SMALL: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 2000,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    return tmp_path


@pytest.mark.parametrize(("name", "billions"), [("llama-3.1-8b", 8.03), ("qwen3-0.6b", 0.596)])
def test_a_named_shape_has_as_many_weights_as_the_model(name: str, billions: float) -> None:
    model = Decoder(folder_spec(SHAPES[name], name), torch.bfloat16, "meta")
    assert sum(shape.numel() for _, shape in shapes(model)) / 1e9 == pytest.approx(billions, rel=2e-3)


def test_weights_are_the_same_each_time_and_keep_activations_in_range(folder: Path) -> None:
    model = Decoder(find_model(str(folder), "dummy").spec, torch.float32)
    first, second = (dict(dummy_weights(model)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert set(first) == {name for name, _ in shapes(model)}
    assert float(first["model.layers.0.mlp.down_proj.weight"].std()) == pytest.approx(64**-0.5, rel=0.1)
    assert (first["model.layers.1.self_attn.q_norm.weight"] == 1.0).all()


def test_a_made_up_vocabulary_has_a_token_of_its_own_for_every_logit() -> None:
    tokenizer = made_up_tokenizer(2000)
    written = [token for index, token in enumerate(tokenizer.token_bytes) if index not in tokenizer.special.values()]
    assert len(tokenizer) == 2000
    assert len(set(written)) == len(written) == 1997
    assert sum(token.startswith(b" ") for token in written) > 700
    assert tokenizer.token_bytes == made_up_tokenizer(2000).token_bytes
    assert tokenizer.encode("Any text") == list(b"Any text")
    assert Tokenizer(tokenizer.to_json()).token_bytes == tokenizer.token_bytes
    assert tokenizer.special == Tokenizer.bytes_only().special


def test_a_vocabulary_too_small_for_words_has_bytes() -> None:
    assert made_up_tokenizer(259).token_bytes == Tokenizer.bytes_only().token_bytes


def test_a_folders_own_tokenizer_and_end_tokens_are_used(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(Tokenizer.bytes_only(["<|stop|>"]).to_json())
    (folder / "config.json").write_text(json.dumps({**SMALL, "eos_token_id": 259}))
    card = find_model(str(folder), "dummy")
    assert card.tokenizer == str(folder / "tokenizer.json")
    assert card.end_ids == (259,)
    assert load_model(card, "float32").held() == {"plain": 9}


def test_what_has_no_shape_is_an_error_that_says_what_has() -> None:
    with pytest.raises(ModelNotFound, match=r"no shape 'nothing'") as caught:
        find_model("nothing", "dummy")
    assert all(name in str(caught.value) for name in SHAPES)


def test_a_broken_config_is_named(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**SMALL, "num_key_value_heads": 3}))
    with pytest.raises(BrokenModel, match=r"config\.json: num_attention_heads 4 is no multiple"):
        find_model(str(folder), "dummy")


def test_architectures_that_run_through_transformers_have_no_random_weights(folder: Path) -> None:
    gpt2 = {
        "architectures": ["GPT2LMHeadModel"],
        "n_layer": 1,
        "n_embd": 8,
        "n_head": 2,
        "vocab_size": 264,
        "n_positions": 9,
    }
    (folder / "config.json").write_text(json.dumps(gpt2))
    with pytest.raises(UnsupportedModel, match=r"load_format='dummy' makes weights of native families only"):
        Engine.load(EngineConfig(model=str(folder), load_format="dummy"))


def test_an_engine_serves_a_shape_with_constraints_too(folder: Path) -> None:
    config = EngineConfig(
        model=str(folder), load_format="dummy", dtype="float32", device="cpu", kv_tokens=512, threads=1
    )
    engine = Engine.load(config)
    rule = Regex("[a-f]{3,9} [0-9]{4}")
    engine.define(b"front", constraint_key(rule), encode_rules(to_rules(rule)))
    for number, key in enumerate((None, constraint_key(rule))):
        gen = GenSegment(Sampling(max_tokens=12, temperature=1.0, seed=number), key)
        assert engine.submit(b"front", Request(number, (TextSegment(tuple(b"Any")), gen))) is None
    texts = [b"", b""]
    while engine.has_work():
        for event in engine.step().get(b"front", []):
            assert event.error is None, event.error
            texts[event.request] += event.data
        engine.check()
    assert len(texts[0]) > 12  # words
    assert re.fullmatch(rb"[a-f]{3,9} [0-9]{4}", texts[1])
