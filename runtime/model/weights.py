"""Weights by transformers' names, one after the other, from GGUF files and safetensors folders.

This file knows how llama.cpp renames weights, and reorders a Llama's. It knows no model class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from latticework.lang.errors import BrokenModel
from latticework.runtime.model.folder import weight_files
from latticework.runtime.model.gguf import GgufFile, GgufTensor, dequantise, four_bit_groups
from latticework.runtime.model.quantize.four_bit import FourBit
from latticework.runtime.model.spec import ModelSpec

Progress = Callable[[int, int], None]
"""Called with (weights read, weights in all)."""

Weight: TypeAlias = Tensor | FourBit
"""In a float type, or in 4 bits as a file holds it."""

_OUTSIDE_LAYERS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_IN_LAYERS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def gguf_weights(
    path: Path, spec: ModelSpec, progress: Progress | None = None, four_bits: bool = False
) -> Iterator[tuple[str, Weight]]:
    """Dequantised to float32. four_bits: but matrices of Q4_0 and Q4_1 as they are."""
    tensors = GgufFile(path).tensors
    permuted = spec.architecture == "LlamaForCausalLM"  # Qwen's heads are stored as they are
    heads = {"self_attn.q_proj.": spec.num_attention_heads, "self_attn.k_proj.": spec.num_key_value_heads}
    for done, tensor in enumerate(tensors.values(), start=1):
        if tensor.name != "rope_freqs.weight":  # part of the spec
            name = transformers_name(tensor.name)
            weight = _stored(tensor) if four_bits else torch.from_numpy(dequantise(tensor))
            interleaved = next((count for part, count in heads.items() if part in name), None)
            if permuted and interleaved is not None:
                if isinstance(weight, FourBit):
                    weight = weight.reordered(_one_after_the_other(weight.shape[0], interleaved))
                else:
                    weight = unpermute(weight, interleaved)
            yield name, weight
        if progress:
            progress(done, len(tensors))


def transformers_name(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight. Raises BrokenModel for other names."""
    match name.split("."):
        case ["blk", layer, part, kind] if part in _IN_LAYERS:
            return f"model.layers.{layer}.{_IN_LAYERS[part]}.{kind}"
        case [part, kind] if part in _OUTSIDE_LAYERS:
            return f"{_OUTSIDE_LAYERS[part]}.{kind}"
    raise BrokenModel(f"tensor {name!r} has no place in a Llama or Qwen")


def _stored(tensor: GgufTensor) -> Weight:
    groups = four_bit_groups(tensor)
    if groups is None:
        return torch.from_numpy(dequantise(tensor))
    return FourBit(*map(torch.from_numpy, groups))


def unpermute(weight: Tensor, heads: int) -> Tensor:
    """llama.cpp stores q and k with the two halves of each head interleaved; puts them back one after the other.

    weight: [heads * head_dim, ...].
    """
    return weight[_one_after_the_other(weight.shape[0], heads)]


def _one_after_the_other(rows: int, heads: int) -> Tensor:
    """Which row comes where, [rows] int64."""
    if rows % (2 * heads):
        raise BrokenModel(f"{rows} rows cannot be {heads} heads of an even size")
    return torch.arange(rows).reshape(heads, -1, 2).transpose(1, 2).reshape(-1)


def folder_weights(folder: Path, progress: Progress | None = None) -> Iterator[tuple[str, Tensor]]:
    """In the type they are stored in."""
    files = weight_files(folder)
    total = 0
    for path in files:
        with safe_open(path, framework="pt") as file:
            total += len(file.keys())
    done = 0
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    yield name, file.get_tensor(name)
                    done += 1
                    if progress:
                        progress(done, total)
        except SafetensorError as error:
            raise BrokenModel(f"{path} cannot be read: {error}") from None
