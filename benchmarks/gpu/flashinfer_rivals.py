"""FlashInfer's attention on the same pages, where FlashInfer is installed; without it there are no such rivals.

`plan` is FlashInfer's own preparation of a step. It is made at the first call, so it is not timed.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.work import Rival

NAME = "FlashInfer"
WORKSPACE_BYTES = 256 << 20


def is_there(device: torch.device) -> bool:
    return device.type == "cuda" and importlib.util.find_spec("flashinfer") is not None


def decode(q: Tensor, keys: Tensor, values: Tensor, table: Tensor, lengths: Tensor) -> dict[str, Rival]:
    """As kernels/paged_decode.py takes them."""
    if not is_there(q.device):
        return {}

    @functools.cache
    def planned() -> Any:
        wrapper = _wrapper("BatchDecodeWithPagedKVCacheWrapper", q.device)
        wrapper.plan(*_index(table, lengths, keys.shape[1]), *_heads(q, keys), **_kinds(q, keys))
        return wrapper

    return {NAME: Rival(lambda: planned().run(q, (keys, values)))}


def extend(q: Tensor, keys: Tensor, values: Tensor, table: Tensor, length: Tensor) -> dict[str, Rival]:
    """All of q are one sequence's last tokens."""
    if not is_there(q.device):
        return {}

    @functools.cache
    def planned() -> Any:
        wrapper = _wrapper("BatchPrefillWithPagedKVCacheWrapper", q.device)
        rows = torch.tensor([0, len(q)], dtype=torch.int32, device=q.device)
        wrapper.plan(rows, *_index(table, length, keys.shape[1]), *_heads(q, keys), causal=True, **_kinds(q, keys))
        return wrapper

    return {NAME: Rival(lambda: planned().run(q, (keys, values)))}


def _wrapper(name: str, device: torch.device) -> Any:
    workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
    return getattr(importlib.import_module("flashinfer"), name)(workspace, "NHD")


def _index(table: Tensor, lengths: Tensor, page: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where each sequence's pages begin in the list of all, the list, and how much of the last page each holds."""
    counts = (lengths + page - 1) // page
    starts = torch.zeros(len(lengths) + 1, dtype=torch.int32, device=table.device)
    starts[1:] = counts.cumsum(0)
    used = torch.arange(table.shape[1], device=table.device)[None, :] < counts[:, None]
    return starts, table[used].contiguous(), (lengths - 1) % page + 1


def _heads(q: Tensor, keys: Tensor) -> tuple[int, int, int, int]:
    """Query heads, KV heads, head dim, page size."""
    return q.shape[1], keys.shape[2], q.shape[2], keys.shape[1]


def _kinds(q: Tensor, keys: Tensor) -> dict[str, torch.dtype]:
    return {"q_data_type": q.dtype, "kv_data_type": keys.dtype}
