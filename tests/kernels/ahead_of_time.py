"""Compiles kernels for GPUs that are not there, and tells what their code needs: registers, spills, memory.

Compiler, ptxas and cuobjdump come with the triton package; no driver is used. Figures move with the compiler's
version, so ceilings are asserted, never equality.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}  # bytes a block may ask for, by compute capability
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
POINTERS = {torch.bfloat16: "*bf16:16", torch.float16: "*fp16:16", torch.float32: "*fp32:16"}


@dataclass(frozen=True, slots=True)
class Report:
    """registers: per thread. stack, shared: bytes. spills: instructions that move registers to memory and back."""

    capability: int
    registers: int
    stack: int
    spills: int
    shared: int
    ptx: str

    def check(self, registers: int) -> None:
        """A ceiling on registers, nothing in local memory, and shared memory that the device has."""
        assert self.registers <= registers, (self.registers, self.spills)
        assert (self.stack, self.spills) == (0, 0), (self.stack, self.spills, self.registers)
        assert self.shared <= SHARED_LIMIT[self.capability]

    @property
    def reads_16_bytes(self) -> bool:
        """Global memory is read in vectors, into registers or straight into shared memory."""
        into_registers = r"ld\.global\S*\.v(4\.[bf]32|8\.b16|2\.[bf]64)"
        return bool(re.search(into_registers + r"|cp\.async\.c[ag]\.shared\.global[^;]*\b(0x10|16)\b", self.ptx))

    @property
    def tensor_cores(self) -> bool:
        return "mma.sync" in self.ptx or "wgmma" in self.ptx


def compile_for(capability: int, kernel: Any, arguments: Mapping[str, str], options: Mapping[str, Any]) -> Report:
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

    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / f"{kernel.__name__}.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage = re.search(r"REG:(\d+) STACK:(\d+)", _dump(cubin, "--dump-resource-usage"))
        assert usage, "cuobjdump prints what a cubin needs"
        spills = re.findall(r"\b(?:STL|LDL)\b", _dump(cubin, "--dump-sass"))
    return Report(capability, int(usage[1]), int(usage[2]), len(spills), compiled.metadata.shared, compiled.asm["ptx"])


def _dump(cubin: Path, what: str) -> str:
    return subprocess.run([str(CUOBJDUMP), what, str(cubin)], capture_output=True, text=True, check=True).stdout


def types(kinds: Mapping[str, str]) -> dict[str, str]:
    """{"q keys": "*bf16:16"} -> one entry a name."""
    return {name: kind for names, kind in kinds.items() for name in names.split()}
