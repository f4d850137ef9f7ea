"""Attention with Triton kernels: sequences with one new token go through `kernels/paged_decode.py`, or where many begin
with the same pages `kernels/cascade_decode.py`; the others through `kernels/paged_extend.py`.

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
from latticework.runtime.attention.base import KVCache
from latticework.runtime.attention.layer import PLAIN, LayerAttention
from latticework.runtime.attention.places import Places, write_kv
from latticework.runtime.attention.shared import saved_tokens, shared_prefixes
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
    scales. Stateless.

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

    def plan(self, batch: Batch, kv: KVCache) -> TritonPlan:
        keys = kv.keys[0]
        _check(keys.dtype, keys.shape[3], keys.shape[1])
        device = keys.device
        new = np.diff(batch.starts)
        single, several = np.flatnonzero(new == 1), np.flatnonzero(new > 1)
        return TritonPlan(
            Places.of(batch, device), self._decoding(batch, single, keys), _extending(batch, several, device)
        )

    def _decoding(self, batch: Batch, single: NDArray[np.int64], keys: Tensor) -> Decoding | None:
        if not len(single):
            return None
        device, table, lengths = keys.device, batch.page_table[single], batch.lengths[single]
        return Decoding(
            rows=torch.from_numpy(batch.starts[single]).to(device),
            page_table=torch.from_numpy(table).to(device),
            lengths=_int32(lengths, device),
            prefixes=self.prefixes(table, lengths, keys.shape[1], np.arange(len(single)), len(single), device),
        )

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
        how = self.layers[layer] if self.layers else PLAIN
        keys, values = kv.keys[layer], kv.values[layer]
        write_kv(keys, k, plan.places)
        write_kv(values, v, plan.places)
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


def _extending(batch: Batch, several: NDArray[np.int64], device: torch.device) -> Extending | None:
    if not len(several):
        return None
    new = np.diff(batch.starts)[several]
    return Extending(
        first=_int32(batch.starts[several], device),
        new=_int32(new, device),
        lengths=_int32(batch.lengths[several], device),
        page_table=torch.from_numpy(batch.page_table[several]).to(device),
        longest=int(new.max()),
    )


def _int32(numbers: NDArray[np.int64], device: torch.device) -> Tensor:
    return torch.from_numpy(numbers.astype(np.int32)).to(device)


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
