from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from latticework.lang.errors import BrokenModel, UnsupportedModel
from latticework.runtime.attention.layer import LayerAttention
from latticework.runtime.config import EngineConfig
from latticework.runtime.model.load import load_any
from latticework.runtime.model.locate import find_model
from latticework.runtime.model.through_transformers import ThroughTransformers
from tests.runtime.model.by_hand import save_llama, save_model
from tests.runtime.model.families import FAMILIES, OTHERS, Family
from tests.runtime.model.ways import check_parity

ROWS = [(family, shape) for family in OTHERS for shape in family.shapes]
FORCED = {family.architecture: family for family in FAMILIES}


def load(folder: Path, impl: Literal["auto", "native", "transformers"] = "auto") -> Any:
    return load_any(find_model(str(folder)), EngineConfig(dtype="float32", model_impl=impl))


@pytest.mark.parametrize(("family", "shape"), ROWS, ids=lambda value: str(value))
def test_other_decoders_equal_themselves_on_our_cache(family: Family, shape: str, tmp_path: Path) -> None:
    theirs = save_model(tmp_path, family.architecture, family.config, **family.base | family.shapes[shape])
    ours = load(tmp_path)
    assert isinstance(ours, ThroughTransformers)
    check_parity(ours, theirs)


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        ("LlamaForCausalLM", "llama3 rope"),
        ("MistralForCausalLM", "window"),
        ("Gemma3ForCausalLM", "local and global layers"),
        ("Gemma2ForCausalLM", "untied, no caps"),
    ],
)
def test_native_families_run_through_transformers_on_request(architecture: str, shape: str, tmp_path: Path) -> None:
    family = FORCED[architecture]
    theirs = save_model(tmp_path, architecture, family.config, **family.base | family.shapes[shape])
    ours = load(tmp_path, "transformers")
    assert isinstance(ours, ThroughTransformers)
    check_parity(ours, theirs)


def test_windows_and_scales_are_found(tmp_path: Path) -> None:
    family = FORCED["Gemma3ForCausalLM"]
    save_model(tmp_path, family.architecture, family.config, **family.base | family.shapes["two ropes"])
    layers = load(tmp_path, "transformers").spec.attention_layers
    assert layers == tuple(LayerAttention(window=window, scale=1 / 3) for window in (6, None, 6))


def test_native_means_native(tmp_path: Path) -> None:
    save_model(tmp_path, "GPT2LMHeadModel", "GPT2Config")
    with pytest.raises(UnsupportedModel, match="GPT2LMHeadModel; supported: LlamaForCausalLM"):
        load(tmp_path, "native")


def test_only_folders_run_through_transformers() -> None:
    with pytest.raises(UnsupportedModel, match="tiny is no folder"):
        load_any(find_model("tiny"), EngineConfig(dtype="float32", model_impl="transformers"))


@pytest.mark.parametrize(
    ("architecture", "config", "changes", "message"),
    [
        ("GraniteForCausalLM", "GraniteConfig", {"logits_scaling": 2.0}, "does more to its logits"),
        ("BloomForCausalLM", "BloomConfig", {"n_head": 4, "n_layer": 3}, r"attends in layers \[\] of 3"),
        ("GPTJForCausalLM", "GPTJConfig", {"rotary_dim": 4}, "cannot be replaced"),
        (
            "Lfm2ForCausalLM",
            "Lfm2Config",
            {"pad_token_id": 0, "layer_types": ["conv", "full_attention", "conv"]},
            r"attends in layers \[1\] of 3",
        ),
        (
            "GptOssForCausalLM",
            "GptOssConfig",
            {"pad_token_id": 0, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1},
            "its attention needs s_aux",
        ),
    ],
)
def test_what_the_probe_does_not_pass_is_refused(
    architecture: str, config: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_model(tmp_path, architecture, config, **changes)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 256}))
    with pytest.raises(UnsupportedModel, match=message):
        load(tmp_path, "transformers")


def test_missing_weights_are_named(tmp_path: Path) -> None:
    save_model(tmp_path, "GPTNeoXForCausalLM", "GPTNeoXConfig", num_key_value_heads=None)
    path = tmp_path / "model.safetensors"
    kept = {name: weight for name, weight in load_file(path).items() if "layers.1.mlp.dense_4h" not in name}
    save_file(kept, path, {"format": "pt"})
    with pytest.raises(BrokenModel, match=r"2 weights are missing.*layers\.1\.mlp\.dense_4h_to_h"):
        load(tmp_path)


def test_angles_that_change_with_length_are_refused(tmp_path: Path) -> None:
    save_llama(tmp_path / "plain")
    spec = find_model(str(tmp_path / "plain")).spec  # the native reader refuses the rope before transformers is asked
    save_llama(tmp_path / "other", rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    with pytest.raises(UnsupportedModel, match="'dynamic' turns keys anew"):
        ThroughTransformers(tmp_path / "other", spec, torch.float32)
