"""Attention with FlashInfer's kernels, where that package is installed: written against its documented wrappers for
paged KV, `BatchDecodeWithPagedKVCacheWrapper` and `BatchPrefillWithPagedKVCacheWrapper`.

    first    0  3  4  9      where each sequence's pages begin in `pages`: a page table without its empty places
    pages    5 1 7 | 2 | ..  of all sequences
    last     4  1  16        tokens in each sequence's last page

A step in which all sequences have one new token is planned for decoding, any other for extending, once for each way in
which layers attend. Norms, rotary positions and storing are our own kernel's, `kernels/turn_and_store.py`. FlashInfer:
Ye et al., 2025. This file knows which arrays its wrappers take, and no more of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latticework.lang.errors import Unsupported
from latticework.runtime.attention.base import KVCache, Turning
from latticework.runtime.attention.layer import PLAIN, LayerAttention
from latticework.runtime.attention.places import Copies, Places, write_kv
from latticework.runtime.attention.staging import make_staging
from latticework.runtime.attention.turned import turned_queries
from latticework.runtime.schedule.batch import Batch

HEAD_DIMS = (64, 128, 256)
DTYPES = (torch.float16, torch.bfloat16)
WORKSPACE = 256 << 20  # bytes, for partial results; its documentation recommends 128 MB and more
TENSOR_CORES_FROM = 4  # query heads that share a KV head, from which on decoding multiplies in tensor cores


@dataclass(frozen=True, slots=True)
class FlashInferPlan:
    """by_kind: the planned wrapper of every way in which layers attend."""

    places: Places
    by_kind: dict[LayerAttention, Any]


class FlashInferAttention:
    """An AttentionBackend for float16 and bfloat16 on CUDA and head dims of 64, 128 and 256, with windows, soft caps
    and scales. Owner of its wrappers and their workspace.

    Raises Unsupported where the package is not installed, and for what its kernels do not do.
    """

    name = "flashinfer"

    def __init__(
        self, device: str, heads: int, head_dim: int, dtype: torch.dtype, layers: tuple[LayerAttention, ...] = ()
    ) -> None:
        check_flashinfer(device, head_dim, dtype)
        self.layers = layers
        self._heads, self._dtype = heads, dtype
        self._package = import_module("flashinfer")
        self._kinds = set(layers) or {PLAIN}
        self._wrappers: dict[tuple[LayerAttention, bool], Any] = {}
        self._workspace = torch.zeros(WORKSPACE, dtype=torch.uint8, device=device)
        self._staging = make_staging(torch.device(device))

    def plan(self, batch: Batch, kv: KVCache) -> FlashInferPlan:
        page_size, kv_heads, head_dim = kv.keys[0].shape[1:]
        first, pages, last = page_lists(batch, page_size)
        there = self._staging.put(
            {"slots": batch.slots, "copied": batch.copies[0], "copies": batch.copies[1], "pages": pages}
        )
        copies = Copies(there["copied"], there["copies"]) if batch.copies.shape[1] else None
        # what it reads on the host stays there: giving it these from the device would wait for the device
        lists = torch.from_numpy(first), there["pages"], torch.from_numpy(last)
        shape = self._heads, kv_heads, head_dim
        by_kind: dict[LayerAttention, Any] = {}
        for how in self._kinds:
            wrapper = by_kind[how] = self._wrapper(how, batch.is_decode, kv_heads)
            options = {
                "window_left": -1
                if how.window is None
                else how.window - 1,  # its windows do not count the token itself
                "logits_soft_cap": how.soft_cap,
                "sm_scale": how.scale,
                "q_data_type": self._dtype,
            }
            if batch.is_decode:
                wrapper.plan(*lists, *shape, page_size, **options)
            else:
                starts = torch.from_numpy(batch.starts.astype(np.int32))
                wrapper.plan(starts, *lists, *shape, page_size, causal=True, **options)
        return FlashInferPlan(Places(there["slots"], copies), by_kind)

    def forward(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kv: KVCache, plan: Any) -> Tensor:
        """q: [T, heads, head_dim]; k, v: [T, kv_heads, head_dim] -> [T, heads, head_dim]."""
        write_kv(kv.keys[layer], k, plan.places)
        write_kv(kv.values[layer], v, plan.places)
        return self._attend(layer, q.contiguous(), kv, plan)

    def forward_qkv(self, layer: int, qkv: Tensor, turning: Turning, kv: KVCache, plan: Any) -> Tensor:
        """qkv: [T, (heads + 2 kv_heads) * head_dim] -> [T, heads, head_dim]."""
        return self._attend(layer, turned_queries(layer, qkv, turning, kv, plan.places), kv, plan)

    def _attend(self, layer: int, q: Tensor, kv: KVCache, plan: FlashInferPlan) -> Tensor:
        how = self.layers[layer] if self.layers else PLAIN
        found: Tensor = plan.by_kind[how].run(q, (kv.keys[layer], kv.values[layer]))
        return found

    def _wrapper(self, how: LayerAttention, is_decode: bool, kv_heads: int) -> Any:
        """Made once for each kind of layer and of step: a wrapper keeps its plan."""
        key = how, is_decode
        if key not in self._wrappers:
            if is_decode:
                self._wrappers[key] = self._package.BatchDecodeWithPagedKVCacheWrapper(
                    self._workspace, "NHD", use_tensor_cores=self._heads // kv_heads >= TENSOR_CORES_FROM
                )
            else:
                self._wrappers[key] = self._package.BatchPrefillWithPagedKVCacheWrapper(self._workspace, "NHD")
        return self._wrappers[key]


def page_lists(batch: Batch, page_size: int) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """first [B + 1], pages [first[B]], last [B]: see the top of this file."""
    counts = -(-batch.lengths // page_size)
    first = np.zeros(len(counts) + 1, dtype=np.int32)
    np.cumsum(counts, out=first[1:])
    held = np.arange(batch.page_table.shape[1]) < counts[:, None]
    last = (batch.lengths - 1) % page_size + 1
    return first, batch.page_table[held], last.astype(np.int32)


def check_flashinfer(device: str, head_dim: int, dtype: torch.dtype) -> None:
    """Raises Unsupported, naming what is missing, or FlashInfer's limit."""
    try:
        import_module("flashinfer")
    except ImportError as error:
        raise Unsupported(
            f"attention='flashinfer' needs the flashinfer-python package, which cannot be imported: {error}",
            hint="pip install flashinfer-python, or leave attention to 'auto'",
            field="attention",
        ) from None
    if not device.startswith("cuda"):
        raise Unsupported(f"attention='flashinfer' needs CUDA; the device is {device!r}", field="attention")
    hint = "attention='triton' has no such limit"
    if head_dim not in HEAD_DIMS:
        raise Unsupported(
            f"flashinfer: head_dim {head_dim}; supported are {', '.join(map(str, HEAD_DIMS))}",
            hint=hint,
            field="attention",
        )
    if dtype not in DTYPES:
        raise Unsupported(
            f"flashinfer: dtype {dtype}; supported are {', '.join(map(str, DTYPES))}", hint=hint, field="attention"
        )
