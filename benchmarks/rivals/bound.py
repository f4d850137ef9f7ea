"""What the matrix products alone allow: a pass of the default model's matmuls, by number format and rows.

    python -m benchmarks.rivals.bound --threads 2 --out FILE

Nothing else of a model is computed: no attention, no norms, no sampling, no server. Random weights of the model's
shapes, every layer its own, so that they come from memory as they would.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from latticework.runtime.config import DEFAULT_MODEL
from latticework.runtime.model.locate import find_model
from latticework.runtime.model.spec import ModelSpec

ROWS = (1, 16, 256)  # drawn at a time, and a chunk of prompts
CHUNK = 256
ROWS_OF = {"one_stream": 1, "batch": 16, "prefix": 16}  # drawn at a time, without drafts
SECONDS = 1.0  # of each measurement
FORMATS = ("bf16", "int8", "int4")  # int8: of inputs quantised on the way; int4: of weights only
GROUP = 32  # weights that share an int4 scale

Table = dict[str, dict[str, list[float]]]
"""format -> rows -> seconds of [a pass of the layers, the head]"""


def layer_shapes(spec: ModelSpec) -> list[tuple[int, int]]:
    """(outputs, inputs) of a layer's products, with q, k, v and gate, up fused."""
    hidden, middle = spec.hidden_size, spec.intermediate_size
    heads, kv_heads = spec.num_attention_heads * spec.head_dim, spec.num_key_value_heads * spec.head_dim
    return [(heads + 2 * kv_heads, hidden), (hidden, heads), (2 * middle, hidden), (hidden, middle)]


def product(kind: str, weight: Any) -> Callable[[Any], Any]:
    """Packs float32 weights [outputs, inputs] once. x [M, inputs] -> about x @ weight.T; x is float32 for int8, else
    bfloat16. kind: of FORMATS."""
    import torch

    if kind == "bf16":
        ops: Any = torch.ops.mkldnn
        packed = ops._reorder_linear_weight(weight.bfloat16(), None)
        return lambda x: ops._linear_pointwise(x, packed, None, "none", [], "")
    if kind == "int8":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that these will go away one day
            quantised = torch.quantize_per_tensor(weight, float(weight.abs().max()) / 127, 0, torch.qint8)
            packed = torch.ops.quantized.linear_prepack(quantised, None)
        return lambda x: torch.ops.quantized.linear_dynamic(x, packed)
    groups = weight.unflatten(1, (-1, GROUP))
    least, most = groups.amin(-1), groups.amax(-1)
    scale = (most - least) / 15
    codes = ((groups - least[..., None]) / scale[..., None]).round().clamp(0, 15).flatten(1).int()
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    scales = torch.stack([scale, least + 8 * scale], dim=-1).transpose(0, 1).contiguous().bfloat16()
    return lambda x: torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, GROUP, scales)


def measure(threads: int, seconds: float = SECONDS) -> Table:
    import torch

    torch.set_num_threads(threads)
    spec = find_model(DEFAULT_MODEL).spec
    found: Table = {}
    with torch.inference_mode():
        for kind in FORMATS:
            shapes = layer_shapes(spec) * spec.num_hidden_layers
            layers = [(inputs, product(kind, torch.randn(outputs, inputs))) for outputs, inputs in shapes]
            head = [(spec.hidden_size, product(kind, torch.randn(spec.vocab_size, spec.hidden_size)))]
            dtype = torch.float32 if kind == "int8" else torch.bfloat16
            found[kind] = {}
            for rows in ROWS:
                inputs = {size: torch.randn(rows, size).to(dtype) for size, _ in layers}
                found[kind][str(rows)] = [_timed(part, inputs, seconds) for part in (layers, head)]
    return found


def _timed(part: list[tuple[int, Callable[[Any], Any]]], inputs: Mapping[int, Any], seconds: float) -> float:
    """Median seconds of a pass, after one that is not counted."""
    times: list[float] = []
    for count in range(1000):
        began = time.perf_counter()
        for size, multiply in part:
            multiply(inputs[size])
        times.append(time.perf_counter() - began)
        if count >= 3 and sum(times) > seconds:
            break
    return statistics.median(times[1:])


def tokens_per_second(table: Table, formats: tuple[str, ...], rows: int, output: float, computed: float) -> float:
    """The most output tokens a second: `output` tokens drawn `rows` at a time after `computed` prompt tokens, each
    product in the fastest of the formats."""
    step = min(sum(table[kind][str(rows)]) for kind in formats)
    chunk = min(table[kind][str(CHUNK)][0] for kind in formats)
    return output / (output / rows * step + computed / CHUNK * chunk)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.rivals.bound", description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    options.out.write_text(json.dumps(measure(options.threads)))


if __name__ == "__main__":
    main()
