"""The KV tensors: how many pages fit, and moving tokens between pages.

Which page belongs to whom is not known here (`pages.py`, `radix.py`), nor how they are read (`runtime/attention`).
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from latticework.lang.errors import ModelError
from latticework.runtime.attention.base import KVCache
from latticework.runtime.model.spec import ModelSpec

CPU_POOL_CAP = 2 << 30  # bytes; more prefixes than this seldom pay on a CPU
ASSUMED_MEMORY = 2 << 30  # bytes, where the system does not tell


def allocate_kv(
    spec: ModelSpec, pages: int, page_size: int, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> KVCache:
    """Zeroed KV of every layer: unused slots are read by masked attention, where a NaN would spread."""
    shape = (pages, page_size, spec.num_key_value_heads, spec.head_dim)
    layers = range(spec.num_hidden_layers)
    make = _untouched_zeros if torch.device(device).type == "cpu" else partial(torch.zeros, device=device)
    return KVCache(
        keys=tuple(make(shape, dtype=dtype) for _ in layers),
        values=tuple(make(shape, dtype=dtype) for _ in layers),
    )


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
