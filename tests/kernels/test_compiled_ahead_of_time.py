"""The attention kernels' code for sm_80 and sm_90 stays under ceilings (see ahead_of_time.py)."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("triton")

import torch
import triton

from latticework.kernels.paged_decode import merge_kernel, merge_options, split_kernel, split_options
from latticework.kernels.paged_extend import extend_kernel, extend_options
from tests.kernels.ahead_of_time import POINTERS, compile_for, types

pytestmark = [
    pytest.mark.skipif(not isinstance(split_kernel, triton.JITFunction), reason="the interpreter compiles nothing"),
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION is unset"),
]
EVERYTHING = [
    pytest.param(capability, dtype, head_dim, {}, marks=pytest.mark.slow)
    for capability in (80, 90)
    for dtype in (torch.bfloat16, torch.float16, torch.float32)
    for head_dim in (64, 80, 96, 128, 256)
]
SHAPE = {"GROUP": 4, "PAGE_SIZE": 16, "CAPPED": False}
CAPPED = {"GROUP": 2, "PAGE_SIZE": 16, "CAPPED": True}


def attention_types(dtype: torch.dtype) -> dict[str, str]:
    return types(
        {
            "q keys values": POINTERS[dtype],
            "page_table lengths": "*i32:16",
            "factor cap": "fp32",
            "window": "i32:16",
            "q_head kv_page kv_token kv_head": "i32:16",
            "table_sequence": "i32",
        }
    )


@pytest.mark.parametrize(
    ("capability", "dtype", "head_dim", "how"),
    [
        (80, torch.bfloat16, 128, {}),
        (90, torch.bfloat16, 128, {}),
        (90, torch.float32, 64, {}),
        pytest.param(90, torch.bfloat16, 256, CAPPED, marks=pytest.mark.slow),
        pytest.param(90, torch.bfloat16, 128, {"PAGE_SIZE": 1}, marks=pytest.mark.slow),
        *EVERYTHING,
    ],
)
def test_the_split_kernel_fits_without_spilling(
    capability: int, dtype: torch.dtype, head_dim: int, how: dict[str, Any]
) -> None:
    arguments = attention_types(dtype) | types({"done": "*i32:16", "partial weight": "*fp32:16", "splits": "i32"})
    shape = SHAPE | {"KV_HEADS": 8, "GROUP_PADDED": 16, "SKIPPING": False} | how
    options = shape | split_options(dtype, head_dim, capability)
    report = compile_for(capability, split_kernel, arguments | {"q_sequence": "i32:16"}, options)
    report.check(registers=168)
    assert report.reads_16_bytes
    assert report.tensor_cores == (dtype != torch.float32)


@pytest.mark.parametrize(
    ("capability", "dtype", "head_dim", "how"),
    [
        (80, torch.bfloat16, 128, {}),
        (90, torch.bfloat16, 128, {}),
        pytest.param(90, torch.bfloat16, 256, CAPPED, marks=pytest.mark.slow),
        pytest.param(90, torch.bfloat16, 128, {"PAGE_SIZE": 1}, marks=pytest.mark.slow),
        *EVERYTHING,
    ],
)
def test_the_extend_kernel_fits_without_spilling(
    capability: int, dtype: torch.dtype, head_dim: int, how: dict[str, Any]
) -> None:
    arguments = attention_types(dtype) | types({"first new": "*i32:16", "out": POINTERS[dtype], "q_token": "i32:16"})
    shape = SHAPE | {"HEADS": 32} | how
    options = shape | extend_options(dtype, head_dim, shape["GROUP"], capability, interpreted=False)
    report = compile_for(capability, extend_kernel, arguments, options)
    report.check(registers=255)
    assert report.reads_16_bytes
    assert report.tensor_cores == (dtype != torch.float32)
    assert ("wgmma" in report.ptx) == (capability == 90 and dtype != torch.float32), "sm_90's own tensor instructions"


@pytest.mark.parametrize("capability", [pytest.param(80, marks=pytest.mark.slow), 90])
def test_the_merge_kernel_fits_without_spilling(capability: int) -> None:
    arguments = types(
        {"partial weight": "*fp32:16", "out": "*bf16:16", "lengths": "*i32:16", "splits": "i32", "window": "i32:16"}
    )
    compile_for(capability, merge_kernel, arguments, {"HEADS": 32} | merge_options(128)).check(registers=64)
