"""The layers of a decoder of bfloat16, one after the other, in one call; `decoder.py` of the runtime is its twin.

    x = embedded tokens
    of each layer:
        x += attention(norm(x)) output        q, k normed (where they are) and turned, written to the cache, paged
        x += gate(norm(x) gate_up) down
    norm(x)

What is between two operations, Python, torch, waking threads and putting them to sleep, costs as much as the
operations where rows are few: a model of 30 layers has 400 of them a step. Here one team of threads goes through all
layers; each phase (norms, a product, attention, ...) is shared out in small pieces, and who is done helps the others:
a core that someone else uses for a moment delays a piece and not a step.

Roundings are those of the operations apart (`rms_norm.py`, `rotate.py`, `paged_attention.py`, `gate.py`, and the
products'): the bits are the same. A row's bits do not depend on the others'.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_double, c_int64, c_void_p
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latticework.kernels.cpu.library import Library
from latticework.kernels.cpu.paged_attention import AttentionPlan
from latticework.kernels.cpu.products import Product, laid_bytes, shared_bytes


class _Matrix(ctypes.Structure):
    _fields_ = [("few", c_void_p), ("many", c_void_p), ("limit", c_int64)]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("input_norm", "mlp_norm", "query_norm", "key_norm")),
        *((name, _Matrix) for name in ("qkv", "output", "gate_up", "down")),
        *((name, c_void_p) for name in ("keys", "values", "plan")),
        *((name, c_double) for name in ("scale", "soft_cap")),
        ("turns", c_int64),
    ]


class _Step(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("x", "out", "final_norm", "normed", "qkv", "attended", "gate_up", "part")),
        *((name, c_void_p) for name in ("laid", "shared", "cos", "sin", "copied", "copy_slots")),
        *((name, c_int64) for name in ("copies", "rows", "layers", "hidden", "intermediate")),
        *((name, c_int64) for name in ("heads", "kv_heads", "head_dim", "turning", "threads", "is_gelu")),
        *((name, c_double) for name in ("eps", "norm_offset", "attention_seconds")),
    ]


@dataclass(frozen=True, slots=True)
class Matrix:
    """few: for up to `limit` rows; many: for more."""

    few: Product
    many: Product
    limit: int

    def described(self) -> _Matrix:
        return _Matrix(ctypes.addressof(self.few), ctypes.addressof(self.many), self.limit)


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Norms: [hidden] bfloat16; those of heads [head_dim], or None. turns: which of the step's cos and sin turn its
    heads; None: none. scale, soft_cap: see `paged_attention`."""

    input_norm: Tensor
    mlp_norm: Tensor
    head_norms: tuple[Tensor, Tensor] | None  # of queries, of keys
    qkv: Matrix
    output: Matrix
    gate_up: Matrix
    down: Matrix
    turns: int | None
    scale: float
    soft_cap: float | None


@dataclass(frozen=True, slots=True)
class Shape:
    """is_gelu: the gate's, else SiLU. eps, norm_offset: of every norm, see `rms_norm`."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    is_gelu: bool
    eps: float
    norm_offset: float

    def widths(self) -> dict[str, int]:
        """Numbers of a row of what is between the operations."""
        return {
            "normed": self.hidden,
            "qkv": (self.heads + 2 * self.kv_heads) * self.head_dim,
            "attended": self.heads * self.head_dim,
            "gate_up": 2 * self.intermediate,
            "part": self.hidden,
        }


class DecoderLayers:
    """The layers of one model over one KV cache. Not thread-safe: buffers are kept from step to step."""

    def __init__(
        self,
        library: Library,
        layers: Sequence[LayerWeights],
        final_norm: Tensor,
        shape: Shape,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
    ) -> None:
        """final_norm: [hidden] bfloat16. keys, values: of each layer, [P, page_size, kv_heads, head_dim] bfloat16.
        Raises ValueError where this processor has no tiles."""
        if not library.uses_tiles:
            raise ValueError("the layers of a decoder in one call need AMX")
        self._library = library
        self._final_norm = final_norm
        self._kept = (list(layers), list(keys), list(values))  # what is pointed to
        self._shape = shape
        self._layers = (_Layer * len(layers))(*map(_described, layers, keys, values))
        self._inputs = max(shape.hidden, shape.intermediate, shape.heads * shape.head_dim)
        self._rows = 0
        self._buffers: dict[str, Tensor] = {}
        self.attention_seconds = 0.0
        """Of the last step, of one thread."""

    def run(
        self,
        x: Tensor,
        turns: Sequence[tuple[Tensor, Tensor]],
        plans: Sequence[AttentionPlan],
        copied: NDArray[np.int64],
        copy_slots: NDArray[np.int64],
    ) -> Tensor:
        """x: [T, hidden] bfloat16, contiguous, which nobody may use any more -> [T, hidden], normed.

        turns: cos and sin, [T, turning] each. plans: of each layer; all sequences attend. copied, copy_slots: [C], rows
        whose keys and values go to one more slot each.
        """
        shape, rows = self._shape, len(x)
        assert x.dtype == torch.bfloat16
        assert all(array.is_contiguous() for array in (x, *(part for pair in turns for part in pair)))
        assert all(array.flags.c_contiguous for array in (copied, copy_slots))
        for plan in {id(plan): plan for plan in plans}.values():
            plan.fit(shape.heads, self._kept[1][0])
        for layer, plan in zip(self._layers, plans, strict=True):
            layer.plan = plan.address
        self._make_room(rows)
        out = torch.empty_like(x)
        cos, sin = ((c_void_p * max(1, len(turns)))(*(pair[i].data_ptr() for pair in turns)) for i in range(2))
        step = _Step(
            x=x.data_ptr(),
            out=out.data_ptr(),
            final_norm=self._final_norm.data_ptr(),
            **{name: buffer.data_ptr() for name, buffer in self._buffers.items()},
            cos=ctypes.addressof(cos),
            sin=ctypes.addressof(sin),
            copied=copied.ctypes.data,
            copy_slots=copy_slots.ctypes.data,
            copies=len(copied),
            rows=rows,
            layers=len(self._layers),
            hidden=shape.hidden,
            intermediate=shape.intermediate,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            turning=turns[0][0].shape[-1] if turns else 0,
            threads=self._library.threads,
            is_gelu=shape.is_gelu,
            eps=shape.eps,
            norm_offset=shape.norm_offset,
        )
        self._library.decoder_layers(ctypes.addressof(step), ctypes.addressof(self._layers))
        self.attention_seconds = step.attention_seconds
        return out

    def _make_room(self, rows: int) -> None:
        """For so many rows, by halves more as they grow."""
        if rows <= self._rows:
            return
        self._rows = max(rows, self._rows * 3 // 2)
        self._buffers = {
            name: torch.empty(self._rows * width, dtype=torch.bfloat16) for name, width in self._shape.widths().items()
        }
        self._buffers["laid"] = torch.empty(laid_bytes(self._rows, self._inputs), dtype=torch.uint8)
        self._buffers["shared"] = torch.empty(shared_bytes(self._rows, self._inputs), dtype=torch.uint8)


def _described(layer: LayerWeights, keys: Tensor, values: Tensor) -> _Layer:
    query_norm, key_norm = layer.head_norms or (None, None)
    return _Layer(
        input_norm=layer.input_norm.data_ptr(),
        mlp_norm=layer.mlp_norm.data_ptr(),
        query_norm=None if query_norm is None else query_norm.data_ptr(),
        key_norm=None if key_norm is None else key_norm.data_ptr(),
        **{name: getattr(layer, name).described() for name in ("qkv", "output", "gate_up", "down")},
        keys=keys.data_ptr(),
        values=values.data_ptr(),
        scale=layer.scale,
        soft_cap=layer.soft_cap or 0.0,
        turns=-1 if layer.turns is None else layer.turns,
    )
