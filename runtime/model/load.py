"""Weights into memory: a card in, a model that can run out.

This file knows where weights come from and their number format; it knows no KV cache and no batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from latticework.kernels.cpu.library import Library
from latticework.lang.errors import BrokenModel, InvalidArgument, ModelError, UnsupportedModel
from latticework.runtime.config import EngineConfig
from latticework.runtime.model.base import Model
from latticework.runtime.model.decoder import Decoder
from latticework.runtime.model.quantize.base import Quantization
from latticework.runtime.model.quantize.packing import Packing
from latticework.runtime.model.registry import SUPPORTED, check_native
from latticework.runtime.model.spec import ModelCard
from latticework.runtime.model.tiny import tiny_weights
from latticework.runtime.model.weight_cache import WeightCache, choose_forms
from latticework.runtime.model.weights import Progress, Weight, folder_weights, gguf_weights

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


def load_any(
    card: ModelCard, config: EngineConfig, progress: Progress | None = None, library: Library | None = None
) -> Model:
    """As `load_model`, or through transformers: config.model_impl says, "auto" takes native families first.

    Raises UnsupportedModel also for what cannot run through transformers.
    """
    native = card.spec.architecture in SUPPORTED
    if config.model_impl == "native" or (config.model_impl == "auto" and native):
        check_native(card.spec.architecture, card.name)
        return load_model(
            card,
            config.dtype,
            progress=progress,
            quantization=config.quantization,
            cache_mb=config.weight_cache_mb,
            library=library,
        )
    folder = Path(card.weights)
    if not folder.is_dir():
        raise UnsupportedModel(
            f"{card.name} is no folder of safetensors, which model_impl='transformers' needs", field="model_impl"
        )
    if config.quantization != "none":
        raise UnsupportedModel(
            f"quantization is {config.quantization!r}; a model that runs through transformers has only 'none'",
            field="quantization",
        )
    from latticework.runtime.model.through_transformers import ThroughTransformers  # imports transformers: seconds

    model = ThroughTransformers(folder, card.spec, torch_dtype(config.dtype))
    if progress:
        progress(1, 1)  # transformers tells no fractions
    return model


def load_model(
    card: ModelCard,
    dtype: str,
    device: str = "cpu",
    progress: Progress | None = None,
    quantization: Quantization = "none",
    cache_mb: int = 0,
    library: Library | None = None,
) -> Decoder:
    """Reads the card's weights as `dtype` ("auto" allowed) and packs them, in eval mode and without gradients.

    quantization, cache_mb: see EngineConfig. library: multiplies what it can, else torch does. Raises ModelError when
    memory is too small, BrokenModel naming the file when weights are missing, unknown, misshapen or cannot be read,
    InvalidArgument for a type that cannot be quantised.
    """
    packing = Packing(quantization, torch_dtype(dtype), library)
    try:
        model = Decoder(card.spec, packing.dtype, device, packing.source_dtype)
    except RuntimeError as error:  # torch's answer to too little memory
        raise ModelError(f"{card.name} does not fit into memory as {packing.dtype}: {error}") from None
    cache = WeightCache(card, packing, cache_mb << 20)
    if not cache.restore(model, progress):
        try:
            with cache.keeping(model) as keep:
                model.load(_weights(card, packing, progress), packing, keep)
        except BrokenModel as error:
            raise BrokenModel(f"{card.weights}: {error.message}", hint=error.hint) from None
    choose_forms(model, packing)
    return model.eval()


def _weights(card: ModelCard, packing: Packing, progress: Progress | None) -> Iterator[tuple[str, Weight]]:
    if card.weights == "tiny":
        return tiny_weights(card.spec)
    path = Path(card.weights)
    if path.is_dir():
        return folder_weights(path, progress)
    return gguf_weights(path, card.spec, progress, packing.wants_four_bits)
