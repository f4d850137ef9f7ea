from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from latticework.lang.errors import BrokenModel, LatticeworkError, UnsupportedModel
from latticework.runtime.model.load import load_model
from latticework.runtime.model.locate import find_model
from latticework.runtime.model.spec import RopeScaling
from tests.runtime.model.by_hand import save_llama


def change_json(path: Path, **changes: Any) -> None:
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | changes))


def test_a_folder_gives_shape_tokenizer_and_end_tokens(folder: Path) -> None:
    change_json(folder / "tokenizer_config.json", eos_token={"content": "<|endoftext|>"}, bos_token="<|im_start|>")
    card = find_model(str(folder))
    assert card.spec.num_key_value_heads == 2
    assert card.spec.head_dim == 8
    assert card.end_ids == (256, 258)
    assert (card.bos_token, card.eos_token) == ("<|im_start|>", "<|endoftext|>")
    assert card.chat_template is None


def test_generation_config_may_name_several_end_tokens(folder: Path) -> None:
    change_json(folder / "generation_config.json", eos_token_id=[256, 257])
    assert find_model(str(folder)).end_ids == (256, 257, 258)


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer_config.json", "several"])
def test_the_chat_template_is_found_wherever_it_is(name: str, folder: Path) -> None:
    if name == "chat_template.jinja":
        (folder / name).write_text("TEMPLATE")
    elif name == "several":
        several = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "TEMPLATE"}]
        change_json(folder / "tokenizer_config.json", chat_template=several)
    else:
        change_json(folder / name, chat_template="TEMPLATE")
    assert find_model(str(folder)).chat_template == "TEMPLATE"


def test_sharded_weights_equal_whole_ones(tmp_path: Path) -> None:
    whole = save_llama(tmp_path / "whole")
    save_llama(tmp_path / "shards")
    (tmp_path / "shards" / "model.safetensors").unlink()
    whole.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    seen: list[tuple[int, int]] = []
    one = load_model(find_model(str(tmp_path / "whole")), "float32")
    two = load_model(find_model(str(tmp_path / "shards")), "float32", progress=lambda *now: seen.append(now))
    for ours, other in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(ours, other)
    assert seen == [(count, len(seen)) for count in range(1, len(seen) + 1)]


def test_the_older_rope_fields_are_read(folder: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    change_json(folder / "config.json", rope_parameters=None, rope_theta=5e5, rope_scaling=scaling)
    spec = find_model(str(folder)).spec
    assert spec.rope_theta == 5e5
    assert spec.rope_scaling == RopeScaling(
        factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["BertModel"]}, "BertModel; supported: LlamaForCausalLM"),
        ({"architectures": None}, "supported: LlamaForCausalLM"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "'yarn'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"partial_rotary_factor": 0.5}, "part of each head"),
    ],
)
def test_an_unsupported_config_says_what_is_supported(changes: dict[str, Any], message: str, folder: Path) -> None:
    change_json(folder / "config.json", **changes)
    with pytest.raises(UnsupportedModel, match=message):
        find_model(str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "big"}, r"config\.json is no model config.*hidden_size"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"head_dim": 7}, r"config\.json: head_dim is 7"),
        ({"num_key_value_heads": 3}, r"config\.json.*no multiple of num_key_value_heads"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "incomplete"),
        ({"hidden_size": 64, "head_dim": 8}, "shape"),
        ({"num_hidden_layers": 4}, "weights are missing"),
        ({"num_hidden_layers": 2}, "no place"),
    ],
)
def test_a_config_that_does_not_fit_is_an_error(changes: dict[str, Any], message: str, folder: Path) -> None:
    change_json(folder / "config.json", **changes)
    with pytest.raises(BrokenModel, match=message):
        load_model(find_model(str(folder)), "float32")


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedModel, match=r"pickled weights \(pytorch_model\.bin\).*can run code"):
        find_model(str(folder))


def test_a_folder_without_weights_is_broken(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(BrokenModel, match="no safetensors"):
        find_model(str(folder))


@pytest.mark.parametrize("size", [0, 5, 100, 5000])
def test_truncated_safetensors_are_named_before_anything_is_loaded(size: int, folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(BrokenModel, match=r"model\.safetensors cannot be read"):
        find_model(str(folder))


def test_a_weight_that_is_missing_or_unknown_is_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    moved = {name.replace("layers.1.mlp.up", "layers.1.mlp.odd"): weight for name, weight in weights.items()}
    save_file(moved, path)
    with pytest.raises(BrokenModel, match=r"layers\.1\.mlp\.odd_proj\.weight' is given twice or has no place"):
        load_model(find_model(str(folder)), "float32")
    save_file({name: weight for name, weight in weights.items() if "layers.2.mlp.up" not in name}, path)
    with pytest.raises(BrokenModel, match=r"1 weights are missing, the first is 'model\.layers\.2\.mlp\.up_proj"):
        load_model(find_model(str(folder)), "float32")


def test_an_index_cannot_point_outside_its_folder(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../model.safetensors"}}')
    with pytest.raises(BrokenModel, match="outside its folder"):
        find_model(str(folder))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_a_file_that_is_no_json_is_named(name: str, folder: Path) -> None:
    (folder / name).write_text("{")
    with pytest.raises(BrokenModel, match=name):
        find_model(str(folder))


def test_a_folder_without_a_tokenizer_json_says_how_to_get_one(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(LatticeworkError) as caught:
        find_model(str(folder))
    assert "save_pretrained" in str(caught.value)
