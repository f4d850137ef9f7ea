"""What steps launch is compiled for a GPU exactly as the runtime launches it: types, alignment, sizes and all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import triton

from latticework.kernels.paged_decode import split_kernel
from latticework.runtime.attention import triton as backend
from latticework.runtime.model.quantize.base import Quantization
from latticework.runtime.schedule.batch import Batch, Entry, build_batch
from tests.kernels import steps
from tests.kernels.ahead_of_time import SHARED_LIMIT
from tests.kernels.launches import Launches, record_launches

pytestmark = [
    pytest.mark.skipif(not isinstance(split_kernel, triton.JITFunction), reason="the interpreter compiles nothing"),
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION is unset"),
]
SHAPE: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 128,
    "vocab_size": 64,
    "max_position_embeddings": 8192,
}
PAGE, PAGES = 16, 320


def decode(sequences: int, length: int) -> list[Entry]:
    """All on the same pages, which are shared where that is worth it."""
    return [Entry([0], length - 1, list(range(-(-length // PAGE))), 1) for _ in range(sequences)]


def batches() -> Iterator[Batch]:
    """Steps of many sizes: one and several sequences, of one page, of 16 and of more; prompts; both together."""
    for entries in (
        decode(1, 5),
        decode(2, 300),
        decode(16, 256),
        decode(17, 5000),
        [Entry([0] * 40, 0, [0, 1, 2], 1)],
        [Entry([0] * 3, 10, [0], 3), *decode(3, 100)],
    ):
        yield build_batch(entries, PAGE)


def launched(shape: dict[str, Any], quantization: Quantization, monkeypatch: pytest.MonkeyPatch) -> Launches:
    monkeypatch.setattr(backend, "is_interpreted", lambda kernel: True)  # so that it takes tensors on the CPU
    model = steps.make_model(SHAPE | shape, torch.device("cpu"), torch.bfloat16, quantization)
    runner = steps.make_runner(model, "triton", PAGES, PAGE)
    launches = record_launches(monkeypatch)
    for batch in batches():
        runner.run(batch)
    for programs in launches.programs.values():
        assert all(program.metadata.shared <= SHARED_LIMIT[90] for program in programs)
    return launches


def test_a_kernel_is_compiled_once_for_steps_of_all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    launches = launched({}, "none", monkeypatch)
    assert launches.counts == {
        "norm_kernel": 2,  # with a sum before it and without
        "turn_kernel": 1,
        "split_kernel": 2,  # also behind a shared prefix
        "merge_kernel": 1,
        "prefix_kernel": 1,
        "extend_kernel": 1,
        "gate_kernel": 1,
    }
    layers, run = 2, 6
    assert launches.launched["norm_kernel"] == run * (2 * layers + 1)
    assert launches.launched["turn_kernel"] == launches.launched["gate_kernel"] == run * layers
    assert launches.launched["prefix_kernel"] == layers


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape",
    [
        {"qk_norm": "head", "norm_offset": 1.0, "norms": "both", "hidden_act": "gelu_pytorch_tanh", "head_dim": 256},
        {"qk_norm": "whole", "norms": "after"},
        {"rope_layers": ("none", "global"), "attention_layers": (steps.WINDOW, steps.WINDOW), "rotary_dim": 64},
    ],
    ids=["as Gemma 3", "as OLMo 2", "as SmolLM 3 and Phi 3"],
)
def test_steps_of_other_kinds_of_models_compile(shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    counts = launched(shape, "none", monkeypatch).counts
    assert counts["extend_kernel"] == 1
    assert max(counts.values()) <= 2 + (shape.get("qk_norm") == "whole")


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_products_are_compiled_for_few_rows_and_for_many(
    quantization: Quantization, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = launched({}, quantization, monkeypatch).counts
    assert counts["int8_kernel"] == 2  # the head, too, has 17 rows once
    assert counts.get("int4_kernel", 0) == (2 if quantization == "int4" else 0)
