"""Where each weight of a file belongs in a decoder: transformers' names to our tensors, or to rows of a fused one.

Weights come in any order. A matrix is packed as soon as all its rows are there, and what was collected for it is let
go, so that a model is never in memory twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from latticework.lang.errors import BrokenModel
from latticework.runtime.model.layers import Linear, QueryKeyNorm, RMSNorm
from latticework.runtime.model.quantize.four_bit import FourBit
from latticework.runtime.model.quantize.packer import Packer
from latticework.runtime.model.quantize.packing import Keep

if TYPE_CHECKING:
    from latticework.runtime.model.decoder import Decoder, Layer
    from latticework.runtime.model.weights import Weight


@dataclass(slots=True)
class Matrix:
    """A Linear on its way. four_bits: the parts that came in 4 bits, by name, not copied into it yet. rows: which of
    its weight's each part is, in order."""

    name: str
    linear: Linear
    is_head: bool = False
    missing: int = 0
    four_bits: dict[str, FourBit] = field(default_factory=dict)
    rows: dict[str, slice] = field(default_factory=dict)

    def part(self, name: str) -> Tensor:
        """Where a part of the weight goes."""
        return self.linear.collected()[self.rows[name]]

    def source(self) -> Tensor | FourBit:
        """All of it in 4 bits, if that is how all of it came."""
        if self.four_bits and self.four_bits.keys() == self.rows.keys():
            return FourBit.joined([self.four_bits[name] for name in self.rows])
        for name, part in self.four_bits.items():
            self.part(name).copy_(part.dense())
        return self.linear.collected()


@dataclass(frozen=True, slots=True)
class Place:
    """tensor: to be filled; on no device if it is rows of a matrix's weight, which take memory when they come. matrix:
    what it is a part of."""

    tensor: Tensor
    matrix: Matrix | None = None

    def fill(self, name: str, weight: Tensor) -> None:
        rows = self.matrix.part(name) if self.matrix is not None and name in self.matrix.rows else self.tensor
        rows.copy_(weight)


def fill(model: Decoder, weights: Iterable[tuple[str, Weight]], packing: Packer, keep: Keep | None = None) -> None:
    """Copies every weight into its place, converting its type, and packs the matrices.

    Raises BrokenModel for a weight that is missing, unknown, or of the wrong shape.
    """
    places = _places(model)
    tied = model.spec.tie_word_embeddings
    for name, weight in weights:
        if name.endswith("rotary_emb.inv_freq") or (tied and name == "lm_head.weight"):
            continue
        place = places.pop(name, None)
        if place is None:
            raise BrokenModel(f"weight {name!r} is given twice or has no place in {model.spec.architecture}")
        if place.tensor.shape != weight.shape:
            raise BrokenModel(f"weight {name!r} has shape {list(weight.shape)}; expected {list(place.tensor.shape)}")
        _take(place, name, weight, is_table=name == _TABLE)
        if place.matrix is not None and not place.matrix.missing:
            matrix = place.matrix
            matrix.linear.pack(packing.pack(matrix.name, matrix.source(), matrix.linear.bias, matrix.is_head, keep))
    if places:
        raise BrokenModel(f"{len(places)} weights are missing, the first is {next(iter(places))!r}")


_TABLE = "model.embed_tokens.weight"


def _take(place: Place, name: str, weight: Weight, is_table: bool) -> None:
    if place.matrix is None:
        place.fill(name, weight.dense() if isinstance(weight, FourBit) else weight)
        return
    place.matrix.missing -= 1
    if isinstance(weight, FourBit):
        place.matrix.four_bits[name] = weight
        if not is_table:  # rows of the table are looked up besides
            return
        weight = weight.dense()
    place.fill(name, weight)


def shapes(model: Decoder) -> Iterator[tuple[str, torch.Size]]:
    """Every weight that `fill` asks for: name and shape, matrix by matrix."""
    return ((name, place.tensor.shape) for name, place in _places(model).items())


def _places(model: Decoder) -> dict[str, Place]:
    head = Matrix("head", model.head, is_head=True, missing=1)
    table = model.embed.data
    places = {"model.norm.weight": Place(model.norm.weight.data)}
    if model.spec.tie_word_embeddings:
        places[_TABLE] = Place(table, head)
        head.rows[_TABLE] = slice(None)
    else:
        assert model.head.weight is not None
        places[_TABLE] = Place(table)
        places["lm_head.weight"] = Place(model.head.weight.data, head)
        head.rows["lm_head.weight"] = slice(None)
    for index, module in enumerate(model.layers):
        layer = cast("Layer", module)
        at = f"model.layers.{index}"
        for name, tensor in _norms(model, layer):
            places[f"{at}.{name}"] = Place(tensor)
        for matrix, parts in _matrices(model, layer, index):
            first = 0
            for name, tensor, is_weight in parts:
                matrix.missing += 1
                places[f"{at}.{name}"] = Place(tensor, matrix)
                if is_weight:
                    matrix.rows[f"{at}.{name}"] = slice(first, first + len(tensor))
                    first += len(tensor)
    return places


def _norms(model: Decoder, layer: Layer) -> Iterator[tuple[str, Tensor]]:
    """With norms after attention, the name that Llama has for the one before the MLP is theirs."""
    before_mlp = "post_attention_layernorm" if model.spec.norms == "before" else "pre_feedforward_layernorm"
    named = {
        "input_layernorm": layer.input_norm,
        before_mlp: layer.mlp_norm,
        "post_feedforward_layernorm": layer.mlp_output_norm,
    }
    if model.spec.norms != "before":
        named["post_attention_layernorm"] = layer.output_norm
    if isinstance(layer.qk_norm, QueryKeyNorm):
        named |= {"self_attn.q_norm": layer.qk_norm.q, "self_attn.k_norm": layer.qk_norm.k}
    for name, norm in named.items():
        if isinstance(norm, RMSNorm):
            yield f"{name}.weight", norm.weight.data


def _matrices(model: Decoder, layer: Layer, index: int) -> Iterator[tuple[Matrix, list[tuple[str, Tensor, bool]]]]:
    """Each with its parts: name, tensor, and whether it is of the weight or of the bias."""
    spec = model.spec
    heads = (spec.num_attention_heads, spec.num_key_value_heads, spec.num_key_value_heads)
    qkv = {f"{part}_proj": count * spec.head_dim for part, count in zip("qkv", heads, strict=True)}
    gate_up = {"gate_proj": spec.intermediate_size, "up_proj": spec.intermediate_size}
    if spec.fused_weights:
        qkv, gate_up = {"qkv_proj": sum(qkv.values())}, {"gate_up_proj": 2 * spec.intermediate_size}
    linears = (
        ("self_attn", "qkv", layer.qkv, qkv),
        ("self_attn", "output", layer.output, {"o_proj": spec.hidden_size}),
        ("mlp", "mlp.gate_up", layer.mlp.gate_up, gate_up),
        ("mlp", "mlp.down", layer.mlp.down, {"down_proj": spec.hidden_size}),
    )
    for owner, ours, linear, rows in linears:
        parts = [
            (f"{owner}.{name}.{kind}", part, kind == "weight")
            for kind, tensor in linear.named_parameters()  # weight, and bias where there is one
            for name, part in zip(rows, tensor.data.split(list(rows.values())), strict=True)
        ]
        yield Matrix(f"layers.{index}.{ours}", linear), parts
