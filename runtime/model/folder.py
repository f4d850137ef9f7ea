"""A Hugging Face folder: config.json, tokenizer.json, chat template, safetensors. No torch.

Pickled weights (.bin, .pt, .pth) are refused: reading them can run code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError, safe_open

from latticework.lang.errors import BrokenModel, UnsupportedModel
from latticework.runtime.model.hub_config import HubConfig
from latticework.runtime.model.other import other_spec
from latticework.runtime.model.registry import SUPPORTED, check_architecture, family_fields
from latticework.runtime.model.spec import ModelCard, ModelSpec

INDEX = "model.safetensors.index.json"
_PICKLED = (".bin", ".pt", ".pth")
# Read alike in every family, under transformers' names; what else a family needs, its own file reads.
_PLAIN_FIELDS = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "hidden_act",
    "rms_norm_eps",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "embedding_multiplier",
    "residual_multiplier",
    "logits_scaling",
)


def folder_card(folder: Path, name: str, has_weights: bool = True) -> ModelCard:
    """Raises UnsupportedModel, or BrokenModel naming the file and what is wrong with it.

    has_weights: False where they need not be there."""
    config = read_json(folder / "config.json")
    spec = folder_spec(config, str(folder / "config.json"))
    if has_weights:
        weight_files(folder)
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise UnsupportedModel(
            f"{folder} has no tokenizer.json",
            hint="AutoTokenizer.from_pretrained(folder).save_pretrained(folder) of transformers writes one",
        )
    settings = read_json(folder / "tokenizer_config.json", optional=True)
    return ModelCard(
        name=name,
        weights=str(folder),
        tokenizer=str(tokenizer),
        spec=spec,
        end_ids=_end_ids(folder, config, settings),
        chat_template=_chat_template(folder, settings),
        bos_token=_token_text(settings.get("bos_token")),
        eos_token=_token_text(settings.get("eos_token")),
    )


def folder_spec(config: Mapping[str, Any], source: str) -> ModelSpec:
    """The shape in a config.json. Raises UnsupportedModel for what would be computed wrongly."""
    named = config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else "model that names no architecture"
    check_architecture(architecture, source)
    if config.get("quantization_config"):
        raise UnsupportedModel(f"{source} has quantised weights; supported: float16, bfloat16 and float32")
    if architecture not in SUPPORTED:
        spec = other_spec(HubConfig(config, source), architecture)
        spec.check(source)
        return spec
    fields = {name: config[name] for name in _PLAIN_FIELDS if config.get(name) is not None}
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    fields.setdefault("num_key_value_heads", heads)
    if isinstance(heads, int) and isinstance(hidden, int):
        fields.setdefault("head_dim", hidden // max(heads, 1))
    fields.setdefault("rms_norm_eps", 1e-6)  # transformers' default for most families
    fields |= {"architecture": architecture, **family_fields(architecture, HubConfig(config, source))}
    if fields.get("hidden_act", "silu") not in ("silu", "gelu_pytorch_tanh"):
        raise UnsupportedModel(f"{source} has hidden_act {fields['hidden_act']!r}; supported: 'silu'")
    try:
        spec = msgspec.convert(fields, ModelSpec)
    except msgspec.ValidationError as error:
        raise BrokenModel(f"{source} is no model config: {error}") from None
    spec.check(source)
    return spec


def weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors files, their headers checked against their sizes."""
    index = folder / INDEX
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(value, str) for value in weight_map.values()):
            raise BrokenModel(f"{index} has no weight_map of file names")
        names = sorted(set(weight_map.values()))
        if any(Path(name).name != name for name in names):
            raise BrokenModel(f"{index} names files outside its folder")
        files = [folder / name for name in names]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLED)
        if pickled:
            raise UnsupportedModel(
                f"{folder} has only pickled weights ({pickled[0]}), which are never read: they can run code",
                hint="convert them to safetensors",
            )
        raise BrokenModel(f"{folder} has a config.json but no safetensors")
    for path in files:
        try:
            with safe_open(path, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise BrokenModel(f"{path} cannot be read: {error}") from None
    return files


def read_json(path: Path, optional: bool = False) -> dict[str, Any]:
    """The object in a file; an empty one for a file that is `optional` and not there. Raises BrokenModel."""
    if optional and not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BrokenModel(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise BrokenModel(f"{path} is a JSON {type(found).__name__}; expected an object")
    return found


def _token_text(value: object) -> str:
    """A token in tokenizer_config.json is a string, or an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _end_ids(folder: Path, config: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[int, ...]:
    generation = read_json(folder / "generation_config.json", optional=True)
    found: set[int] = set()
    for source in (generation, config):
        ids = source.get("eos_token_id")
        found |= {token for token in (ids if isinstance(ids, list) else [ids]) if isinstance(token, int)}
    eos = _token_text(settings.get("eos_token"))
    added = read_json(folder / "tokenizer.json").get("added_tokens") or []
    found |= {token["id"] for token in added if eos and token.get("content") == eos}
    return tuple(sorted(found))
