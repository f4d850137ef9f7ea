"""A card and the settings in, a model on its device with a KV pool and its way to attend out.

Whatever cannot be computed here is refused before a weight is read. This file knows no scheduler and no text.
"""

from __future__ import annotations

import msgspec
import torch

from latticework.kernels.cpu.library import Library
from latticework.kernels.cpu.pointwise import TORCH, NativePointwise, Pointwise
from latticework.runtime.attention import make_attention, resolve_attention
from latticework.runtime.attention.base import KVCache
from latticework.runtime.cache.kv import Step, allocate_kv, pages_for_memory, pages_on_device
from latticework.runtime.config import EngineConfig
from latticework.runtime.device.make import decodes_on_device
from latticework.runtime.model.cpu_kernels import load_kernels
from latticework.runtime.model.decoder import Decoder
from latticework.runtime.model.devices import DeviceMemory, free_memory, resolve_device
from latticework.runtime.model.load import is_native, load_any, resolve_dtype, torch_dtype
from latticework.runtime.model.one_call import OneCall, fits_one_call
from latticework.runtime.model.runner import ModelRunner
from latticework.runtime.model.spec import ModelCard, ModelSpec
from latticework.runtime.model.triton_kernels import check_model
from latticework.runtime.model.warm import warm_up
from latticework.runtime.model.weights import Progress
from latticework.runtime.profile import Profile


def assemble(
    card: ModelCard, config: EngineConfig, profile: Profile, progress: Progress | None = None
) -> tuple[ModelRunner, str]:
    """What runs the model's steps, and the name of its numbers' type.

    Raises a ModelError, Unsupported naming the device, or the kernel and its limit, or InvalidArgument. Makes a GPU the
    current one of the process."""
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    kind = torch_dtype(dtype)
    on_cpu = device.type == "cpu"
    library = load_kernels(config.cpu_kernels) if on_cpu else None
    attention = resolve_attention(config.attention, device.type, library is not None)
    uses_triton = attention in ("triton", "flashinfer")
    if uses_triton and is_native(card, config):
        check_model(card.spec, kind, config.page_size, attention, device)
    before, total = (0, 0) if on_cpu else _begin(device)
    model = load_any(card, msgspec.structs.replace(config, dtype=dtype), progress, device, library)
    if isinstance(model, Decoder):
        model.use(_pointwise(attention, library))
    elif uses_triton:
        check_model(model.spec, kind, config.page_size, attention, device)
    spec = model.spec
    memory = None if on_cpu else DeviceMemory(total, before, free_memory(device)[0])
    fits = attention == "native" and isinstance(model, Decoder) and fits_one_call(spec, kind, library)
    backend = make_attention(
        attention,
        device.type,
        spec.head_dim,
        kind,
        spec.attention_layers,
        library,
        takes_all=fits,
        heads=spec.num_attention_heads,
    )
    scratch = decodes_on_device(config, device.type, backend)
    kv = _pool(spec, config, kind, device, memory, int(scratch))
    one_call = None
    if fits:
        assert library is not None
        assert isinstance(model, Decoder)
        one_call = OneCall(library, model, kv)
    runner = ModelRunner(model, backend, kv, profile, library, one_call)
    if not on_cpu:
        warm_up(runner, config)
    return runner, dtype


def _begin(device: torch.device) -> tuple[int, int]:
    """(free, total) bytes of a GPU, which everything is launched on from now on."""
    torch.cuda.set_device(device)
    return free_memory(device)


def _pointwise(attention: str, library: Library | None) -> Pointwise:
    """Norms and gates come from where attention comes from."""
    if attention in ("triton", "flashinfer"):
        from latticework.kernels.pointwise import TritonPointwise

        return TritonPointwise()
    return TORCH if library is None else NativePointwise(library)


def _pool(
    spec: ModelSpec,
    config: EngineConfig,
    dtype: torch.dtype,
    device: torch.device,
    memory: DeviceMemory | None,
    scratch: int,
) -> KVCache:
    """memory: of a GPU. scratch: pages that are nobody's, at the end of the pool."""
    size = config.page_size
    if memory is not None:
        pages = pages_on_device(
            spec, size, memory, config.memory_fraction, largest_step(spec, config, dtype), config.kv_tokens
        )
    elif config.kv_tokens is None:
        pages = pages_for_memory(spec, dtype.itemsize, size)
    else:
        pages = config.kv_tokens // size
    beside = 0 if config.kv_tokens is None else scratch  # of what memory holds, they are a part
    return allocate_kv(spec, pages + beside, size, dtype, device)


def largest_step(spec: ModelSpec, config: EngineConfig, dtype: torch.dtype) -> Step:
    """Every sequence decodes beside a chunk of a prompt."""
    longest = min(spec.max_position_embeddings, config.context or spec.max_position_embeddings)
    return Step(config.chunk_tokens + config.max_running, config.max_running, longest, dtype.itemsize)
