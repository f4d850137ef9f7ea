"""The layers of a decoder in one call of the built library, for the families and types that it knows.

What it knows: bfloat16 where the processor has matrix registers (AMX), with weights in any form; norms before attention
and MLP. Other decoders go layer by layer (`decoder.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from latticework.kernels.cpu.decoder_layers import DecoderLayers, LayerWeights, Matrix, Shape
from latticework.kernels.cpu.library import Library
from latticework.runtime.attention.base import KVCache
from latticework.runtime.attention.layer import PLAIN
from latticework.runtime.attention.native_cpu import NativePlan
from latticework.runtime.model.decoder import Decoder, Layer
from latticework.runtime.model.layers import Linear, QueryKeyNorm, RMSNorm
from latticework.runtime.model.quantize.by_rows import ByRows
from latticework.runtime.model.quantize.native import NativeForm
from latticework.runtime.model.spec import ModelSpec
from latticework.runtime.schedule.batch import Batch


def fits_one_call(spec: ModelSpec, dtype: torch.dtype, library: Library | None) -> bool:
    """Whether the layers of such a model can go in one call."""
    return (
        library is not None
        and library.uses_tiles
        and library.multiplies_bytes
        and dtype == torch.bfloat16
        and spec.norms == "before"
        and spec.qk_norm in (None, "head")
        and spec.residual_multiplier == 1.0
    )


class OneCall:
    """A decoder's layers over one KV cache."""

    def __init__(self, library: Library, model: Decoder, kv: KVCache) -> None:
        """model: see `fits_one_call`; its matrices are in the library's forms."""
        spec = model.spec
        self._model = model
        self._kinds = list(model.rotary)
        self._attention = spec.attention_layers or (PLAIN,) * spec.num_hidden_layers
        shape = Shape(
            hidden=spec.hidden_size,
            intermediate=spec.intermediate_size,
            heads=spec.num_attention_heads,
            kv_heads=spec.num_key_value_heads,
            head_dim=spec.head_dim,
            is_gelu=spec.hidden_act != "silu",
            eps=spec.rms_norm_eps,
            norm_offset=spec.norm_offset,
        )
        layers = [self._weights(index, module) for index, module in enumerate(model.layers)]
        self._layers = DecoderLayers(library, layers, model.norm.weight.data, shape, kv.keys, kv.values)

    def _weights(self, index: int, layer: torch.nn.Module) -> LayerWeights:
        assert isinstance(layer, Layer)
        assert isinstance(layer.input_norm, RMSNorm)
        assert isinstance(layer.mlp_norm, RMSNorm)
        how, kind, heads = self._attention[index], self._model.ropes[index], layer.qk_norm
        return LayerWeights(
            input_norm=layer.input_norm.weight.data,
            mlp_norm=layer.mlp_norm.weight.data,
            head_norms=(heads.q.weight.data, heads.k.weight.data) if isinstance(heads, QueryKeyNorm) else None,
            qkv=_matrix(layer.qkv),
            output=_matrix(layer.output),
            gate_up=_matrix(layer.mlp.gate_up),
            down=_matrix(layer.mlp.down),
            turns=None if kind == "none" else self._kinds.index(kind),
            scale=layer.head_dim**-0.5 if how.scale is None else how.scale,
            soft_cap=how.soft_cap,
        )

    @property
    def attention_seconds(self) -> float:
        """Of the last step."""
        return self._layers.attention_seconds

    def __call__(self, tokens: Tensor, positions: Tensor, batch: Batch, plans: dict[int | None, NativePlan]) -> Tensor:
        """tokens, positions: [T] int64, those of the batch; plans: of `NativeAttention`, by window, every sequence in
        the operation's -> [T, hidden], normed."""
        model = self._model
        turns = [tuple(part.squeeze(1) for part in model.rotary[kind](positions)) for kind in self._kinds]
        every = [plans[how.window] for how in self._attention]
        assert all(plan.rest is None for plan in every), "sequences that attend elsewhere"
        return self._layers.run(model.embedded(tokens), turns, [plan.few for plan in every], *batch.copies)


def _matrix(linear: Linear) -> Matrix:
    packed = linear.packed
    few, many = (packed.few, packed.many) if isinstance(packed, ByRows) else (packed, packed)
    assert isinstance(few, NativeForm)
    assert isinstance(many, NativeForm)
    return Matrix(few.product, many.product, packed.limit if isinstance(packed, ByRows) else 0)
