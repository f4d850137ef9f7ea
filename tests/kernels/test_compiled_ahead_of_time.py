"""Compiles the kernels for GPUs that are not there, and holds what their code needs: registers, spills, memory.

Compiler, ptxas and cuobjdump come with the triton package; no driver is used. Figures move with the compiler's
version, so ceilings are asserted, never equality.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from latticework.kernels.paged_decode import merge_kernel, merge_options, split_kernel, split_options

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}  # bytes a block may ask for, by compute capability
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"

pytestmark = [
    pytest.mark.skipif(not isinstance(split_kernel, triton.JITFunction), reason="the interpreter compiles nothing"),
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION is unset"),
]


@dataclass(frozen=True, slots=True)
class Report:
    """registers: per thread. stack, shared: bytes. spills: instructions that move registers to memory and back."""

    registers: int
    stack: int
    spills: int
    shared: int
    ptx: str


def compile_for(
    capability: int, kernel: Any, arguments: Mapping[str, str], options: Mapping[str, Any], folder: Path
) -> Report:
    """arguments: Triton types by name, with ":16" behind those known to be multiples of 16, as pointers are."""
    constants = {name: value for name, value in options.items() if name in kernel.arg_names}
    signature: dict[str, str] = {}
    aligned: dict[tuple[int, ...], list[list[object]]] = {}
    for index, name in enumerate(kernel.arg_names):
        kind, _, divisor = ("constexpr", "", "") if name in constants else arguments[name].partition(":")
        signature[name] = kind
        if divisor:
            aligned[(index,)] = [["tt.divisibility", int(divisor)]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    rest = {name: value for name, value in options.items() if name not in constants}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=rest)

    cubin = folder / f"{kernel.__name__}.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    usage = re.search(r"REG:(\d+) STACK:(\d+)", _dump(cubin, "--dump-resource-usage"))
    assert usage, "cuobjdump prints what a cubin needs"
    spills = re.findall(r"\b(?:STL|LDL)\b", _dump(cubin, "--dump-sass"))
    return Report(int(usage[1]), int(usage[2]), len(spills), compiled.metadata.shared, compiled.asm["ptx"])


def _dump(cubin: Path, what: str) -> str:
    return subprocess.run([str(CUOBJDUMP), what, str(cubin)], capture_output=True, text=True, check=True).stdout


def check_resources(report: Report, capability: int, registers: int) -> None:
    assert report.registers <= registers
    assert report.stack == 0
    assert report.spills == 0
    assert report.shared <= SHARED_LIMIT[capability]


@pytest.mark.parametrize(
    ("capability", "dtype", "head_dim"),
    [
        (80, torch.bfloat16, 128),
        (90, torch.bfloat16, 128),
        (90, torch.float32, 64),
        *(
            pytest.param(capability, dtype, head_dim, marks=pytest.mark.slow)
            for capability in (80, 90)
            for dtype in (torch.bfloat16, torch.float16, torch.float32)
            for head_dim in (64, 80, 128, 256)
        ),
    ],
)
def test_the_split_kernel_fits_without_spilling(
    capability: int, dtype: torch.dtype, head_dim: int, tmp_path: Path
) -> None:
    number = {torch.bfloat16: "*bf16:16", torch.float16: "*fp16:16", torch.float32: "*fp32:16"}[dtype]
    arguments = dict.fromkeys(("q", "keys", "values"), number)
    arguments |= dict.fromkeys(("page_table", "lengths"), "*i32:16") | {"scale": "fp32", "splits": "i32"}
    arguments |= dict.fromkeys(("partial", "weight"), "*fp32:16")
    arguments |= dict.fromkeys(("q_sequence", "q_head", "kv_page", "kv_token", "kv_head"), "i32:16")
    arguments |= {"table_sequence": "i32"}
    shape = {"KV_HEADS": 8, "GROUP": 4, "GROUP_PADDED": 16, "PAGE_SIZE": 16}
    report = compile_for(capability, split_kernel, arguments, shape | split_options(dtype, head_dim), tmp_path)
    check_resources(report, capability, registers=168)
    assert "v4.b32" in report.ptx, "keys and values are read 16 bytes at a time"
    assert ("mma.sync" in report.ptx) == (dtype != torch.float32), "16-bit inputs go through the tensor cores"


@pytest.mark.parametrize("capability", [80, 90])
def test_the_merge_kernel_fits_without_spilling(capability: int, tmp_path: Path) -> None:
    arguments = dict.fromkeys(("partial", "weight"), "*fp32:16")
    arguments |= {"out": "*bf16:16", "lengths": "*i32:16", "splits": "i32"}
    options = {"HEADS": 32} | merge_options(128)
    check_resources(compile_for(capability, merge_kernel, arguments, options, tmp_path), capability, registers=64)
