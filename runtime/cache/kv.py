"""The KV tensors: how many pages fit, and moving tokens between pages.

Which page belongs to whom is not known here (`pages.py`, `radix.py`), nor how they are read (`runtime/attention`).
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from latticework.lang.errors import ModelError
from latticework.runtime.attention.base import KVCache
from latticework.runtime.model.devices import DeviceMemory, gibibytes, is_out_of_memory
from latticework.runtime.model.spec import ModelSpec

CPU_POOL_CAP = 2 << 30  # bytes; more prefixes than this seldom pay on a CPU
ASSUMED_MEMORY = 2 << 30  # bytes, where the system does not tell
MOST_PAGES = 1 << 20  # of a GPU's pool: more are never filled, and each takes some of the host's memory
_SPLIT = 256  # tokens of a partial result, see kernels/paged_decode.py


def allocate_kv(
    spec: ModelSpec, pages: int, page_size: int, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> KVCache:
    """Zeroed KV of every layer: unused slots are read by masked attention, where a NaN would spread."""
    shape = (pages, page_size, spec.num_key_value_heads, spec.head_dim)
    layers = range(spec.num_hidden_layers)
    make = _untouched_zeros if torch.device(device).type == "cpu" else partial(torch.zeros, device=device)
    try:
        return KVCache(
            keys=tuple(make(shape, dtype=dtype) for _ in layers),
            values=tuple(make(shape, dtype=dtype) for _ in layers),
        )
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"a KV pool of {pages} pages does not fit into {device}, though it should: something else takes memory "
            f"there ({error})",
            hint="a smaller memory_fraction or kv_tokens leaves room for it",
            field="memory_fraction",
        ) from None


def _untouched_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory that the system zeroes when it is first used: a pool of gigabytes takes no time to make, and a process
    as much of it as it has needed."""
    try:
        memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, ValueError) as error:
        raise ModelError(f"a KV pool of {shape[0]} pages does not fit into memory: {error}") from None
    if hasattr(mmap, "MADV_HUGEPAGE"):  # pages of KV lie scattered: looking up where is a seventh of reading them
        with contextlib.suppress(OSError):  # a Linux without
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def copy_tokens(kv: KVCache, source_page: int, target_page: int, count: int) -> None:
    """Copies the first `count` tokens of a page to the start of another, in every layer."""
    assert 0 <= count <= kv.page_size
    if source_page == target_page:
        return
    for tensor in (*kv.keys, *kv.values):  # [pages, page_size, kv_heads, head_dim]
        tensor[target_page, :count] = tensor[source_page, :count]


def pages_for_memory(
    spec: ModelSpec, itemsize: int, page_size: int, fraction: float = 0.5, cap: int = CPU_POOL_CAP
) -> int:
    """How many pages to allocate by default: `fraction` of the free memory, at most `cap` bytes, at least 1 page.

    itemsize: bytes of one KV number.
    """
    budget = min(int(available_memory() * fraction), cap)
    return max(1, budget // (spec.kv_bytes_per_token(itemsize) * page_size))


@dataclass(frozen=True, slots=True)
class Step:
    """The largest step of an engine: its tokens, the sequences they belong to and how long those may be, and how many
    numbers and of how many bytes each a row of logits has."""

    tokens: int
    sequences: int
    context: int
    itemsize: int

    def bytes(self, spec: ModelSpec) -> int:
        """About how much memory it takes besides weights and KV: the widest activations, logits in the model's type, in
        float32 and once more where they are worked on, and partial results of attention."""
        activations = self.tokens * (4 * spec.hidden_size + 3 * spec.intermediate_size) * self.itemsize
        logits = self.tokens * spec.vocab_size * (self.itemsize + 8)
        splits = -(-self.context // _SPLIT)
        partial = self.sequences * spec.num_attention_heads * splits * (spec.head_dim + 1) * 4
        return activations + logits + partial


def pages_on_device(
    spec: ModelSpec, page_size: int, memory: DeviceMemory, fraction: float, step: Step, asked: int | None = None
) -> int:
    """How many pages a GPU's pool gets: those that fit into `fraction` of what was free before the weights came,
    the weights included, as long as the largest step fits beside them.

    asked: as many tokens and no more. Raises ModelError that says how many pages fit and which settings change that."""
    page_bytes = spec.kv_bytes_per_token(step.itemsize) * page_size
    room = min(int(memory.before * fraction) - memory.held, memory.free - step.bytes(spec))
    fit = max(0, room // page_bytes)
    wanted = 1 if asked is None else asked // page_size
    if wanted > fit:
        raise ModelError(
            f"{fit} KV pages of {page_size} tokens fit, {wanted} {'is' if wanted == 1 else 'are'} needed: of "
            f"{gibibytes(memory.before)} free at the start the weights took {gibibytes(memory.held)}, "
            f"{gibibytes(step.bytes(spec))} are for steps, and memory_fraction {fraction} leaves "
            f"{gibibytes(max(0, room))} for pages of {gibibytes(page_bytes)}",
            hint=f"kv_tokens up to {fit * page_size} fit; a larger memory_fraction (up to 1), quantization, or a "
            "smaller max_running, chunk_tokens or context leave more",
            field="memory_fraction" if asked is None else "kv_tokens",
        )
    return min(fit, MOST_PAGES) if asked is None else wanted


def available_memory() -> int:
    """Bytes a process could still allocate here: what the system has free, within a container's limit."""
    known = [size for size in (_system_memory(), _container_memory()) if size is not None]
    return min(known, default=ASSUMED_MEMORY)


def _system_memory() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # not Linux
    try:  # macOS has no count of available pages: half of all memory stands for it
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (OSError, ValueError, AttributeError):
        return None


def _container_memory(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return max(0, int(limit) - int(used))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return None
