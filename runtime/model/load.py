"""Weights into memory: a card in, a model that can run out.

This file knows where weights come from and their number format; it knows no KV cache and no batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from latticework.lang.errors import BrokenModel, InvalidArgument, ModelError, UnsupportedModel
from latticework.runtime.model.base import Model
from latticework.runtime.model.decoder import Decoder
from latticework.runtime.model.registry import SUPPORTED, check_native
from latticework.runtime.model.spec import ModelCard
from latticework.runtime.model.tiny import tiny_weights
from latticework.runtime.model.weights import Progress, folder_weights, gguf_weights

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "float64": torch.float64}


def resolve_dtype(dtype: str) -> str:
    """ "auto" becomes bfloat16 where the CPU multiplies it in hardware, else float32. Others are returned."""
    if dtype == "auto":
        found = torch.cpu.get_capabilities()
        return "bfloat16" if found.get("avx512_bf16") or found.get("amx_bf16") else "float32"
    if dtype not in _DTYPES:
        raise InvalidArgument(f"dtype is {dtype!r}; expected auto, {', '.join(_DTYPES)}", field="dtype")
    return dtype


def torch_dtype(dtype: str) -> torch.dtype:
    return _DTYPES[resolve_dtype(dtype)]


def load_any(card: ModelCard, dtype: str, impl: str, progress: Progress | None = None) -> Model:
    """As `load_model`, or through transformers. impl: EngineConfig.model_impl; "auto" takes native families first.

    Raises UnsupportedModel also for what cannot run through transformers.
    """
    native = card.spec.architecture in SUPPORTED
    if impl == "native" or (impl == "auto" and native):
        check_native(card.spec.architecture, card.name)
        return load_model(card, dtype, progress=progress)
    folder = Path(card.weights)
    if not folder.is_dir():
        raise UnsupportedModel(
            f"{card.name} is no folder of safetensors, which model_impl='transformers' needs", field="model_impl"
        )
    from latticework.runtime.model.through_transformers import ThroughTransformers  # imports transformers: seconds

    model = ThroughTransformers(folder, card.spec, torch_dtype(dtype))
    if progress:
        progress(1, 1)  # transformers tells no fractions
    return model


def load_model(card: ModelCard, dtype: str, device: str = "cpu", progress: Progress | None = None) -> Decoder:
    """Reads the card's weights as `dtype` ("auto" allowed), in eval mode and without gradients.

    Raises ModelError when memory is too small, BrokenModel naming the file when weights are missing, unknown,
    misshapen or cannot be read.
    """
    kind = torch_dtype(dtype)
    try:
        model = Decoder(card.spec, kind, device)
    except RuntimeError as error:  # torch's answer to too little memory
        raise ModelError(f"{card.name} does not fit into memory as {kind}: {error}") from None
    try:
        model.load(_weights(card, progress))
    except BrokenModel as error:
        raise BrokenModel(f"{card.weights}: {error.message}", hint=error.hint) from None
    return model.eval()


def _weights(card: ModelCard, progress: Progress | None) -> Iterator[tuple[str, Tensor]]:
    if card.weights == "tiny":
        return tiny_weights(card.spec)
    path = Path(card.weights)
    return folder_weights(path, progress) if path.is_dir() else gguf_weights(path, card.spec, progress)
