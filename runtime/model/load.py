"""Weights into memory: a card in, a model that can run out.

This file knows where weights come from and their number format; it knows no KV cache and no batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from latticework.kernels.cpu.library import Library
from latticework.lang.errors import BrokenModel, InvalidArgument, ModelError, UnsupportedModel
from latticework.runtime.config import EngineConfig
from latticework.runtime.model.base import Model
from latticework.runtime.model.decoder import Decoder
from latticework.runtime.model.devices import fastest_dtype, free_memory, gibibytes, is_out_of_memory
from latticework.runtime.model.dummy import DUMMY
from latticework.runtime.model.dummy_weights import dummy_weights
from latticework.runtime.model.mover import Mover, moved
from latticework.runtime.model.quantize.base import Quantization
from latticework.runtime.model.quantize.packer import Packer
from latticework.runtime.model.quantize.packing import Keep, Packing
from latticework.runtime.model.registry import SUPPORTED, check_native
from latticework.runtime.model.spec import ModelCard
from latticework.runtime.model.tiny import tiny_weights
from latticework.runtime.model.triton_kernels import check_triton
from latticework.runtime.model.weight_cache import WeightCache, choose_forms
from latticework.runtime.model.weights import Progress, Weight, folder_weights, gguf_weights

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "float64": torch.float64}


CPU = torch.device("cpu")


def resolve_dtype(dtype: str, device: torch.device = CPU) -> str:
    """ "auto" becomes what the device multiplies fastest, see `fastest_dtype`. Others are returned."""
    if dtype == "auto":
        return fastest_dtype(device)
    if dtype not in _DTYPES:
        raise InvalidArgument(f"dtype is {dtype!r}; expected auto, {', '.join(_DTYPES)}", field="dtype")
    return dtype


def torch_dtype(dtype: str, device: torch.device = CPU) -> torch.dtype:
    return _DTYPES[resolve_dtype(dtype, device)]


def is_native(card: ModelCard, config: EngineConfig) -> bool:
    """Whether it runs through layers of ours: config.model_impl says, "auto" takes native families first."""
    return config.model_impl == "native" or (config.model_impl == "auto" and card.spec.architecture in SUPPORTED)


def load_any(
    card: ModelCard,
    config: EngineConfig,
    progress: Progress | None = None,
    device: torch.device = CPU,
    library: Library | None = None,
) -> Model:
    """As `load_model`, or through transformers: see `is_native`.

    Raises UnsupportedModel also for what cannot run through transformers.
    """
    if is_native(card, config):
        check_native(card.spec.architecture, card.name)
        return load_model(card, config.dtype, device, progress, config.quantization, config.weight_cache_mb, library)
    folder = Path(card.weights)
    if card.weights == DUMMY:
        raise UnsupportedModel(
            f"{card.name} is a {card.spec.architecture}; load_format='dummy' makes weights of native families only",
            field="load_format",
        )
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

    with _fitting(card, device):
        model = ThroughTransformers(folder, card.spec, torch_dtype(config.dtype), device)
    if progress:
        progress(1, 1)  # transformers tells no fractions
    return model


def load_model(
    card: ModelCard,
    dtype: str,
    device: torch.device = CPU,
    progress: Progress | None = None,
    quantization: Quantization = "none",
    cache_mb: int = 0,
    library: Library | None = None,
) -> Decoder:
    """Reads the card's weights as `dtype` ("auto" allowed) and packs them, in eval mode and without gradients.

    On a GPU they go there one by one and are packed there. quantization, cache_mb: see EngineConfig. library: on a CPU,
    multiplies what it can, else torch does. Raises ModelError when memory is too small, BrokenModel naming the file
    when weights are missing, unknown, misshapen or cannot be read, InvalidArgument for a type that cannot be quantised.
    """
    kind = torch_dtype(dtype, device)
    with _fitting(card, device):
        if device.type == "cpu":
            return _load_packed(card, Packing(quantization, kind, library), progress, cache_mb).eval()
        packing = _device_packing(quantization, kind)
        model = Decoder(card.spec, kind, device, packing.source_dtype)
        _fill(model, card, packing, moved(_weights(card, model, packing, progress), Mover(device)))
        return model.eval()


def _load_packed(card: ModelCard, packing: Packing, progress: Progress | None, cache_mb: int) -> Decoder:
    """On a CPU, where packed weights may be kept on disk."""
    model = Decoder(card.spec, packing.dtype, source=packing.source_dtype)
    cache = WeightCache(card, packing, cache_mb << 20)
    if not cache.restore(model, progress):
        with cache.keeping(model) as keep:
            _fill(model, card, packing, _weights(card, model, packing, progress), keep)
    choose_forms(model, packing)
    return model


def _device_packing(quantization: Quantization, dtype: torch.dtype) -> Packer:
    if quantization == "none":  # needs no kernel
        return Packing("none", dtype)
    check_triton("quantization")
    from latticework.runtime.model.quantize.on_device import DevicePacking

    return DevicePacking(quantization, dtype)


def _fill(
    model: Decoder, card: ModelCard, packing: Packer, weights: Iterable[tuple[str, Weight]], keep: Keep | None = None
) -> None:
    try:
        model.load(weights, packing, keep)
    except BrokenModel as error:
        raise BrokenModel(f"{card.weights}: {error.message}", hint=error.hint) from None


@contextmanager
def _fitting(card: ModelCard, device: torch.device) -> Iterator[None]:
    """Raises ModelError where memory runs out inside."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        where = "memory"
        if device.type == "cuda":
            free, total = free_memory(device)
            where = f"{device} of {gibibytes(total)}, of which {gibibytes(free)} are left, so that 0 KV pages fit"
        raise ModelError(
            f"{card.name} does not fit into {where}: {error}",
            hint="quantization='int8' halves it, 'int4' makes it a quarter",
            field="quantization",
        ) from None


def _weights(
    card: ModelCard, model: Decoder, packing: Packer, progress: Progress | None
) -> Iterator[tuple[str, Weight]]:
    if card.weights == DUMMY:
        return dummy_weights(model, progress)
    if card.weights == "tiny":
        return tiny_weights(card.spec)
    path = Path(card.weights)
    if path.is_dir():
        return folder_weights(path, progress)
    return gguf_weights(path, card.spec, progress, packing.wants_four_bits)
