"""Attention with Triton kernels: sequences with one new token go through `kernels/paged_decode.py`, the others
through the torch formulation.

Runs on CUDA, and on a CPU only in Triton's interpreter (TRITON_INTERPRET=1, read when triton is imported). This
file knows which rows a kernel can take; formulas are in the kernels, and padding and masks in torch_cpu.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latticework.lang.errors import Unsupported
from latticework.runtime.attention.base import KVCache
from latticework.runtime.attention.layer import PLAIN, LayerAttention
from latticework.runtime.attention.torch_cpu import TorchPlan, attend, plan_sequences, write_kv
from latticework.runtime.schedule.batch import Batch

try:
    import triton
except ImportError as error:
    raise Unsupported(
        "attention='triton' needs the triton package, which is not installed",
        hint="pip install latticework[triton]",
        field="attention",
    ) from error

from latticework.kernels.paged_decode import check_support, paged_decode, split_kernel


@dataclass(frozen=True, slots=True)
class TritonPlan:
    """B decode rows for the kernel, the rest in a torch plan."""

    rows: Tensor  # int64 [B], indices into the batch's T tokens
    page_table: Tensor  # int32 [B, P]
    lengths: Tensor  # int32 [B]
    rest: TorchPlan


class TritonAttention:
    """An AttentionBackend for float32, float16 and bfloat16 and head dims up to 256. Stateless.

    Give `head_dim` and `dtype` to learn at construction that they are not supported; `plan` checks them otherwise.
    Raises Unsupported on a device without Triton kernels, and for layers that do not attend plainly.
    """

    name = "triton"

    def __init__(
        self,
        device: str,
        head_dim: int | None = None,
        dtype: torch.dtype | None = None,
        layers: tuple[LayerAttention, ...] = (),
    ) -> None:
        self.layers = layers
        interpreted = not isinstance(split_kernel, triton.JITFunction)
        if torch.device(device).type != ("cpu" if interpreted else "cuda"):
            mode = "in the interpreter, for CPU tensors" if interpreted else "compiled"
            raise Unsupported(
                f"attention='triton' on device {device!r} needs CUDA, or TRITON_INTERPRET=1; kernels are {mode}",
                hint="use attention='torch' on a CPU",
                field="attention",
            )
        special = next((index for index, layer in enumerate(layers) if layer != PLAIN), None)
        if special is not None:
            raise Unsupported(
                f"attention='triton' has no windows, soft caps or scales; layer {special} is {layers[special]}",
                hint="use attention='torch'",
                field="attention",
            )
        if head_dim is not None and dtype is not None:
            _check(dtype, head_dim)

    def plan(self, batch: Batch, kv: KVCache) -> TritonPlan:
        keys = kv.keys[0]
        _check(keys.dtype, keys.shape[3])
        new = np.diff(batch.starts)
        single = np.flatnonzero(new == 1)
        return TritonPlan(
            rows=torch.from_numpy(batch.starts[single]).to(keys.device),
            page_table=torch.from_numpy(batch.page_table[single]).to(keys.device),
            lengths=torch.from_numpy(batch.lengths[single].astype(np.int32)).to(keys.device),
            rest=plan_sequences(batch, kv, np.flatnonzero(new != 1)),
        )

    def forward(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kv: KVCache, plan: Any) -> Tensor:
        """q: [T, heads, head_dim]; k, v: [T, kv_heads, head_dim] -> [T, heads, head_dim]."""
        keys, values = kv.keys[layer], kv.values[layer]
        write_kv(keys, k, plan.rest)
        write_kv(values, v, plan.rest)
        if len(plan.rows) == len(q):  # nothing but decode: rows are in order
            return paged_decode(q, keys, values, plan.page_table, plan.lengths)
        out = attend(q, keys, values, plan.rest, torch.empty_like(q))
        if len(plan.rows):
            decoded = paged_decode(q.index_select(0, plan.rows), keys, values, plan.page_table, plan.lengths)
            out.index_copy_(0, plan.rows, decoded)
        return out


def _check(dtype: torch.dtype, head_dim: int) -> None:
    try:
        check_support(dtype, head_dim)
    except (TypeError, ValueError) as error:
        raise Unsupported(str(error), hint="use attention='torch'", field="attention") from error
