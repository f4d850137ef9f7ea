"""The layers of a decoder in bfloat16, one after the other, in one call: see `decoder_layers_reference` for formulas.

What is between two operations, Python, torch, waking threads and putting them to sleep, costs as much as the
operations where rows are few: a model of 30 layers has 400 of them a step. Here one team of threads goes through all
layers; each phase (a norm, a product, attention, ...) is shared out in small pieces to whoever is free, so that a core
that someone else uses for a moment delays a piece and not a step.

Roundings are those of the operations apart (`tile_matmul.py`, `rms_norm.py`, `rotate.py`, `paged_attention.py`,
`gate.py`): the bits are the same. A row's bits do not depend on the others'.
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
from latticework.kernels.cpu.tile_matmul import TilePacked

_TILE = 16  # rows


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("input_norm", "mlp_norm", "qkv", "output", "gate_up", "down")),
        *((name, c_void_p) for name in ("keys", "values", "plan")),
        *((name, c_double) for name in ("scale", "soft_cap")),
        ("turns", c_int64),
    ]


class _Step(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("x", "normed", "qkv", "attended", "gated", "cos", "sin")),
        *((name, c_void_p) for name in ("copied", "copy_slots")),
        *((name, c_int64) for name in ("copies", "rows", "layers", "hidden", "intermediate")),
        *((name, c_int64) for name in ("heads", "kv_heads", "head_dim", "turning", "threads", "is_gelu")),
        *((name, c_double) for name in ("eps", "norm_offset", "attention_seconds")),
    ]


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Norms: [hidden] bfloat16. gate_up: halved. turns: which of the step's cos and sin turn its heads; None: none.
    scale, soft_cap: see `paged_attention`."""

    input_norm: Tensor
    mlp_norm: Tensor
    qkv: TilePacked
    output: TilePacked
    gate_up: TilePacked
    down: TilePacked
    turns: int | None
    scale: float
    soft_cap: float | None


@dataclass(frozen=True, slots=True)
class Shape:
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    is_gelu: bool
    eps: float
    norm_offset: float


class DecoderLayers:
    """The layers of one model over one KV cache. Not thread-safe: buffers are kept from step to step."""

    def __init__(
        self,
        library: Library,
        layers: Sequence[LayerWeights],
        shape: Shape,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
    ) -> None:
        """keys, values: of each layer, [P, page_size, kv_heads, head_dim] bfloat16. Raises ValueError where this
        processor has no tiles."""
        if not library.uses_tiles:
            raise ValueError("the layers of a decoder in one call need AMX")
        self._library = library
        self._kept = (list(layers), list(keys), list(values))  # what is pointed to
        self._shape = shape
        self._layers = (_Layer * len(layers))(*map(self._described, layers, keys, values))
        self._buffers: dict[str, Tensor] = {}
        self.attention_seconds = 0.0
        """Of the last step, of one thread."""

    @staticmethod
    def _described(layer: LayerWeights, keys: Tensor, values: Tensor) -> _Layer:
        return _Layer(
            input_norm=layer.input_norm.data_ptr(),
            mlp_norm=layer.mlp_norm.data_ptr(),
            **{name: ctypes.addressof(getattr(layer, name).described) for name in ("qkv", "output", "gate_up", "down")},
            keys=keys.data_ptr(),
            values=values.data_ptr(),
            scale=layer.scale,
            soft_cap=layer.soft_cap or 0.0,
            turns=-1 if layer.turns is None else layer.turns,
        )

    def run(
        self,
        x: Tensor,
        turns: Sequence[tuple[Tensor, Tensor]],
        plans: Sequence[AttentionPlan],
        copied: NDArray[np.int64],
        copy_slots: NDArray[np.int64],
    ) -> None:
        """x: [T, hidden] bfloat16, contiguous; becomes what the layers make of it.

        turns: cos and sin, [T, turning] each. plans: of each layer; all sequences attend. copied, copy_slots: [C], rows
        whose keys and values go to one more slot each.
        """
        shape, rows = self._shape, len(x)
        assert (
            x.dtype == torch.bfloat16 and x.is_contiguous() and all(a.flags.c_contiguous for a in (copied, copy_slots))
        )
        queries, width = shape.heads * shape.head_dim, (shape.heads + 2 * shape.kv_heads) * shape.head_dim
        keys = self._kept[1]
        for plan in {id(plan): plan for plan in plans}.values():
            plan.fit(shape.heads, keys[0])
        for layer, plan in zip(self._layers, plans, strict=True):
            layer.plan = plan.address
        whole = -(-rows // _TILE) * _TILE
        cos, sin = ((c_void_p * max(1, len(turns)))(*(pair[i].data_ptr() for pair in turns)) for i in range(2))
        step = _Step(
            x=x.data_ptr(),
            normed=self._buffer("normed", whole, shape.hidden),
            qkv=self._buffer("qkv", whole, width),
            attended=self._buffer("attended", whole, queries),
            gated=self._buffer("gated", whole, shape.intermediate),
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

    def _buffer(self, name: str, rows: int, width: int) -> int:
        """Room for so many rows, larger by halves as they grow."""
        kept = self._buffers.get(name)
        if kept is None or len(kept) < rows:
            room = rows if kept is None else max(rows, len(kept) * 3 // 2)
            kept = self._buffers[name] = torch.zeros((-(-room // _TILE) * _TILE, width), dtype=torch.bfloat16)
        return kept.data_ptr()
