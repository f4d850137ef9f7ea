"""The code of all kernels but attention's for sm_80 and sm_90 stays under ceilings (see ahead_of_time.py)."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

import torch
import triton

from latticework.kernels.affordable import affordable_kernel, affordable_options
from latticework.kernels.automaton import advance_kernel, mask_kernel, mask_options
from latticework.kernels.barred import bar_kernel, bar_options
from latticework.kernels.cascade_decode import prefix_kernel, prefix_options
from latticework.kernels.gated import gate_kernel, gate_options
from latticework.kernels.int4_matmul import int4_kernel
from latticework.kernels.int8_matmul import int8_kernel, matmul_options
from latticework.kernels.logprobs import logprob_kernel, logprob_options
from latticework.kernels.penalise import BLOCK as PENALISED
from latticework.kernels.penalise import penalty_kernel
from latticework.kernels.rms_norm import norm_kernel, norm_options
from latticework.kernels.sample import sample_kernel, sample_options
from latticework.kernels.turn_and_store import turn_kernel, turn_options
from tests.kernels.ahead_of_time import POINTERS, compile_for, types

pytestmark = [
    pytest.mark.skipif(not isinstance(norm_kernel, triton.JITFunction), reason="the interpreter compiles nothing"),
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION is unset"),
]
CAPABILITIES = [pytest.param(80, marks=pytest.mark.slow), 90]
YES_AND_NO = [True, pytest.param(False, marks=pytest.mark.slow)]
DTYPES = [torch.bfloat16, *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in (torch.float16, torch.float32))]


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_norm_fits(capability: int, dtype: torch.dtype) -> None:
    pointer = POINTERS[dtype]
    arguments = types({"x residual weight normed total": pointer, "eps offset": "fp32", "x_row residual_row": "i32:16"})
    for size in (4096, 16384) if dtype == torch.float32 else (4096,):
        report = compile_for(capability, norm_kernel, arguments, {"ADDING": True} | norm_options(size))
        report.check(registers=128)
        assert report.reads_16_bytes


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("silu", YES_AND_NO)
def test_the_gate_fits(capability: int, dtype: torch.dtype, silu: bool) -> None:
    arguments = types({"x out": POINTERS[dtype], "x_row inner": "i32:16"})
    report = compile_for(capability, gate_kernel, arguments, {"SILU": silu} | gate_options())
    report.check(registers=64)
    assert report.reads_16_bytes


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normed", YES_AND_NO)
def test_turning_and_storing_fits(capability: int, dtype: torch.dtype, normed: bool) -> None:
    pointer = POINTERS[dtype]
    arguments = types(
        {
            "qkv q keys values cos sin q_weight k_weight": pointer,
            "positions slots": "*i64:16",
            "eps offset": "fp32",
            "qkv_row kv_page kv_token kv_head": "i32:16",
        }
    )
    shape = {"HEADS": 32, "KV_HEADS": 8, "PAGE_SIZE": 16, "NORMED": normed}
    report = compile_for(capability, turn_kernel, arguments, shape | turn_options(128, 128))
    report.check(registers=128)
    assert report.reads_16_bytes


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(
    ("dtype", "head_dim"),
    [
        (torch.bfloat16, 128),
        *(
            pytest.param(dtype, head_dim, marks=pytest.mark.slow)
            for dtype in (torch.float16, torch.float32)
            for head_dim in (64, 80, 128, 256)
        ),
    ],
)
def test_the_shared_prefix_kernel_fits(capability: int, dtype: torch.dtype, head_dim: int) -> None:
    arguments = types(
        {
            "q keys values": POINTERS[dtype],
            "page_table order starts shared": "*i32:16",
            "partial weight": "*fp32:16",
            "factor cap": "fp32",
            "q_sequence q_head kv_page kv_token kv_head": "i32:16",
            "table_sequence splits tiles": "i32",
        }
    )
    shape = {"HEADS": 32, "GROUP": 4, "PAGE_SIZE": 16, "CAPPED": False}
    options = shape | prefix_options(dtype, head_dim, 4, capability, interpreted=False)
    report = compile_for(capability, prefix_kernel, arguments, options)
    report.check(registers=255)
    assert report.reads_16_bytes or dtype == torch.float32
    assert report.tensor_cores == (dtype != torch.float32)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("masked", YES_AND_NO)
def test_sampling_fits(capability: int, masked: bool) -> None:
    arguments = types(
        {
            "logits": "*fp32:16",
            "tokens seeds positions": "*i64:16",
            "p temperature top_p min_p": "*fp64:16",
            "status top_k masks states": "*i32:16",
            "vocabulary logits_row masks_row": "i32:16",
        }
    )
    report = compile_for(capability, sample_kernel, arguments, {"MASKED": masked} | sample_options(128256))
    report.check(registers=128)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_penalties_and_logprobs_fit(capability: int) -> None:
    lists = {"tokens": "*i64:16", "times": "*i32:16", "bias": "*fp64:16", "count": "i32", "logits_row": "i32:16"}
    arguments = types({"logits": "*fp32:16", "repetition frequency presence": "*fp64:16"}) | lists
    compile_for(capability, penalty_kernel, arguments, {"BLOCK": PENALISED, "num_warps": 4}).check(registers=64)
    arguments = types(
        {
            "logits": "*fp32:16",
            "tokens likeliest": "*i64:16",
            "own theirs": "*fp64:16",
            "vocabulary logits_row": "i32:16",
            "count": "i32",
        }
    )
    report = compile_for(capability, logprob_kernel, arguments, logprob_options(128256))
    report.check(registers=128)
    assert report.reads_16_bytes


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_automata_fit(capability: int) -> None:
    tables = types({"transitions starts rows states": "*i32:16", "data": "*u8:16", "tokens": "*i64:16"})
    counts = dict.fromkeys(("states", "vocabulary", "words"), "i32")
    report = compile_for(capability, mask_kernel, tables | counts, mask_options())
    report.check(registers=64)
    compile_for(capability, advance_kernel, tables, {"num_warps": 1}).check(registers=40)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, pytest.param(512, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind", ["by group", "q4_1", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("int8", "q4_0"))]
)
def test_products_with_quantised_weights_fit(capability: int, dtype: torch.dtype, rows: int, kind: str) -> None:
    arguments = types({"x out": POINTERS[dtype], "minima": "*fp16:16", "rows": "i32", "outputs": "i32:16"})
    arguments |= types({"inputs groups x_row": "i32:16"})
    if kind in ("int8", "by group"):
        arguments |= {"codes": "*i8:16", "scales": "*fp32:16" if kind == "int8" else "*fp16:16"}
        options = {"BY_GROUP": kind == "by group"} | matmul_options("int8_matmul", dtype, rows, capability)
        report = compile_for(capability, int8_kernel, arguments, options)
    else:
        arguments |= {"codes": "*u8:16", "scales": "*fp16:16"}
        options = {"CENTRED": kind == "q4_0"} | matmul_options("int4_matmul", dtype, rows, capability)
        report = compile_for(capability, int4_kernel, arguments, options)
    report.check(registers=255)
    assert report.reads_16_bytes or dtype == torch.float32
    assert report.tensor_cores == (dtype != torch.float32)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_masks_of_a_step_fit(capability: int) -> None:
    columns = types({"states remaining masks transitions costs need starts out": "*i32:16", "data": "*u8:16"})
    sizes = types({"vocabulary words": "i32:16"})
    report = compile_for(capability, affordable_kernel, columns | sizes, affordable_options())
    report.check(registers=128)
    arguments = types({"rows": "*i32:16", "barred until positions": "*i64:16", "count": "i32"}) | sizes
    report = compile_for(capability, bar_kernel, arguments, bar_options(128 * 1024))
    report.check(registers=128)
