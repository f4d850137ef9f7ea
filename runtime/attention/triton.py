"""Attention with Triton kernels: sequences with one new token go through `kernels/paged_decode.py`, or where many begin
with the same pages `kernels/cascade_decode.py`; the others through `kernels/paged_extend.py`. Before either, q, k and v
go through `kernels/turn_and_store.py`, where a model gives them as its matrix product leaves them.

Runs on CUDA, and on a CPU only in Triton's interpreter (TRITON_INTERPRET=1, read when triton is imported) or with the
kernels' twins (LATTICEWORK_KERNELS=torch). This file knows which rows a kernel takes; formulas are in the kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latticework.lang.errors import Unsupported
from latticework.runtime.attention.base import KVCache, Turning
from latticework.runtime.attention.layer import PLAIN, LayerAttention
from latticework.runtime.attention.places import Copies, Places, write_kv
from latticework.runtime.attention.shared import saved_tokens, shared_prefixes
from latticework.runtime.attention.staging import make_staging
from latticework.runtime.schedule.batch import Batch

try:
    import triton  # noqa: F401
except ImportError as error:
    raise Unsupported(
        "attention='triton' needs the triton package, which is not installed",
        hint="pip install latticework[triton]",
        field="attention",
    ) from error

from latticework.kernels.cascade_decode import SharedPrefixes, cascade_decode
from latticework.kernels.choice import is_interpreted, twins_chosen
from latticework.kernels.paged import check_support
from latticework.kernels.paged_decode import SPLIT, paged_decode, split_kernel
from latticework.kernels.paged_extend import paged_extend
from latticework.runtime.attention.turned import turned_queries

CASCADE_FROM = 16384  # tokens that need not be read, beyond which one more launch a layer is surely worth it


@dataclass(frozen=True, slots=True)
class Decoding:
    """B sequences with one new token each."""

    rows: Tensor | None  # int64 [B], indices into the batch's T tokens; None: these are all, in their order
    page_table: Tensor  # int32 [B, P]
    lengths: Tensor  # int32 [B]
    prefixes: SharedPrefixes | None  # where sharing is worth it


@dataclass(frozen=True, slots=True)
class Extending:
    """B sequences with several new tokens each, `longest` at most."""

    first: Tensor  # int32 [B], where their rows begin
    new: Tensor  # int32 [B]
    lengths: Tensor  # int32 [B]
    page_table: Tensor  # int32 [B, P]
    longest: int


@dataclass(frozen=True, slots=True)
class TritonPlan:
    places: Places
    decoding: Decoding | None
    extending: Extending | None


class TritonAttention:
    """An AttentionBackend for float32, float16 and bfloat16 and head dims up to 256, with windows, soft caps and
    scales. Stateless but for the buffers of a step.

    cascade_from: how many reads of tokens a step must save before prefixes are read once for all that begin with them.
    Give `head_dim` and `dtype` to learn at construction that they are not supported; `plan` checks them otherwise.
    Raises Unsupported on a device without Triton kernels, and ValueError for an unknown LATTICEWORK_KERNELS.
    """

    name = "triton"

    def __init__(
        self,
        device: str,
        head_dim: int | None = None,
        dtype: torch.dtype | None = None,
        layers: tuple[LayerAttention, ...] = (),
        cascade_from: int = CASCADE_FROM,
    ) -> None:
        self.layers = layers
        self._cascade_from = cascade_from
        interpreted = is_interpreted(split_kernel)
        if not twins_chosen() and torch.device(device).type != ("cpu" if interpreted else "cuda"):
            mode = "in the interpreter, for CPU tensors" if interpreted else "compiled"
            raise Unsupported(
                f"attention='triton' on device {device!r} needs CUDA, or TRITON_INTERPRET=1; kernels are {mode}",
                hint="use attention='torch' on a CPU",
                field="attention",
            )
        if head_dim is not None and dtype is not None:
            _check(dtype, head_dim)
        self._staging = make_staging(torch.device(device))

    def plan(self, batch: Batch, kv: KVCache) -> TritonPlan:
        keys = kv.keys[0]
        _check(keys.dtype, keys.shape[3], keys.shape[1])
        new = np.diff(batch.starts)
        single, several = np.flatnonzero(new == 1), np.flatnonzero(new > 1)
        there = self._staging.put(
            {"slots": batch.slots, "copied": batch.copies[0], "copies": batch.copies[1]}
            | (_decoding(batch, single) if len(single) else {})
            | (_extending(batch, several) if len(several) else {})
        )
        decoding = extending = None
        if len(single):
            rows, table, lengths = (there[f"decode {name}"] for name in ("rows", "pages", "lengths"))
            pages, held = batch.page_table[single], batch.lengths[single]
            every = np.arange(len(single))
            prefixes = self.prefixes(pages, held, keys.shape[1], every, len(single), keys.device)
            decoding = Decoding(rows, table, lengths, prefixes)
        if len(several):
            first, counts, lengths, table = (there[f"extend {name}"] for name in ("first", "new", "lengths", "pages"))
            extending = Extending(first, counts, lengths, table, int(new.max()))
        copies = Copies(there["copied"], there["copies"]) if batch.copies.shape[1] else None
        return TritonPlan(Places(there["slots"], copies), decoding, extending)

    def prefixes(
        self,
        page_table: NDArray[np.int32],
        lengths: NDArray[np.int64],
        page_size: int,
        rows: NDArray[np.int64],
        count: int,
        device: torch.device,
    ) -> SharedPrefixes | None:
        """What sequences that decode share, where reading it once is worth it. page_table: [B, P]; lengths: [B]; rows:
        [B], which of the step's `count` rows they are."""
        groups = shared_prefixes(page_table, lengths, page_size, SPLIT)
        if saved_tokens(groups, SPLIT) < self._cascade_from:
            return None
        return SharedPrefixes.of([(rows[members].tolist(), tokens) for members, tokens in groups], count, device)

    def decoding(
        self, slots: Tensor, page_table: Tensor, lengths: Tensor, prefixes: SharedPrefixes | None = None
    ) -> TritonPlan:
        """The plan of a step with one new token in every sequence, over tensors that are already on the device and are
        read when `forward` runs: slots: int64 [B]; page_table: int32 [B, P]; lengths: int32 [B], 0: reads nothing."""
        return TritonPlan(Places(slots, None), Decoding(None, page_table, lengths, prefixes), None)

    def forward(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kv: KVCache, plan: Any) -> Tensor:
        """q: [T, heads, head_dim]; k, v: [T, kv_heads, head_dim] -> [T, heads, head_dim]."""
        write_kv(kv.keys[layer], k, plan.places)
        write_kv(kv.values[layer], v, plan.places)
        return self._attend(layer, q, kv, plan)

    def forward_qkv(self, layer: int, qkv: Tensor, turning: Turning, kv: KVCache, plan: Any) -> Tensor:
        """qkv: [T, (heads + 2 kv_heads) * head_dim] -> [T, heads, head_dim]."""
        return self._attend(layer, turned_queries(layer, qkv, turning, kv, plan.places), kv, plan)

    def _attend(self, layer: int, q: Tensor, kv: KVCache, plan: TritonPlan) -> Tensor:
        how = self.layers[layer] if self.layers else PLAIN
        keys, values = kv.keys[layer], kv.values[layer]
        decoding, extending = plan.decoding, plan.extending
        if decoding is not None and extending is None:  # all rows, in their order
            return _decode(q, keys, values, decoding, how)
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        if extending is not None:
            paged_extend(
                q, keys, values, extending.page_table, extending.first, extending.new, extending.lengths,
                extending.longest, out, how.window, how.soft_cap, how.scale,
            )  # fmt: skip
        if decoding is not None:
            assert decoding.rows is not None
            out.index_copy_(0, decoding.rows, _decode(q.index_select(0, decoding.rows), keys, values, decoding, how))
        return out


def _decoding(batch: Batch, single: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """single: which sequences have one new token."""
    return {
        "decode rows": batch.starts[single],
        "decode pages": batch.page_table[single],
        "decode lengths": batch.lengths[single].astype(np.int32),
    }


def _extending(batch: Batch, several: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """several: which sequences have more than one new token."""
    return {
        "extend first": batch.starts[several].astype(np.int32),
        "extend new": np.diff(batch.starts)[several].astype(np.int32),
        "extend lengths": batch.lengths[several].astype(np.int32),
        "extend pages": batch.page_table[several],
    }


def _decode(q: Tensor, keys: Tensor, values: Tensor, decoding: Decoding, how: LayerAttention) -> Tensor:
    table, lengths, prefixes = decoding.page_table, decoding.lengths, decoding.prefixes
    if prefixes is not None and how.window is None:  # a window reads little, and not the prefix
        return cascade_decode(q, keys, values, table, lengths, prefixes, how.soft_cap, how.scale)
    return paged_decode(q, keys, values, table, lengths, how.window, how.soft_cap, how.scale)


def _check(dtype: torch.dtype, head_dim: int, page_size: int = 1) -> None:
    for kernel in ("paged_decode", "paged_extend"):
        try:
            check_support(kernel, dtype, head_dim, page_size)
        except (TypeError, ValueError) as error:
            raise Unsupported(str(error), hint="use attention='torch'", field="attention") from error
