"""Where a model runs: which device a setting means, which numbers suit it, how much memory it has.

Nothing but this file and the kernels asks torch about CUDA, so the rest is tested without one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from latticework.lang.errors import InvalidArgument, Unsupported

_NAME = re.compile(r"auto|cpu|cuda(?::(\d+))?")
_HAS_BFLOAT16 = 80  # compute capability 8.0


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes of a device. total: all there is. before: what was free when loading began. free: what is now."""

    total: int
    before: int
    free: int

    @property
    def held(self) -> int:
        """What loading has taken."""
        return max(0, self.before - self.free)


def resolve_device(name: str) -> torch.device:
    """The device of EngineConfig.device; "auto" is the first GPU that torch sees, else the CPU.

    Raises InvalidArgument for another name, Unsupported for a GPU that is not there."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise InvalidArgument(f"device is {name!r}; expected auto, cpu, cuda or cuda:N", field="device")
    if name == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda", 0) if count else torch.device("cpu")
    index = int(match[1] or 0)
    if index >= count:
        raise Unsupported(
            f"device is {name!r}; torch {torch.__version__} {_seen(count)}",
            hint="device='cpu' runs without a GPU; `nvidia-smi` shows which the driver sees",
            field="device",
        )
    return torch.device("cuda", index)


def _seen(count: int) -> str:
    if count:
        return f"sees {count}, numbered from 0"
    if torch.version.cuda is None:
        return "was built without CUDA"
    return f"was built for CUDA {torch.version.cuda} and sees no GPU"


def fastest_dtype(device: torch.device) -> str:
    """bfloat16 where the device multiplies it in hardware; else float16 on a GPU, float32 on a CPU."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return "bfloat16" if 10 * major + minor >= _HAS_BFLOAT16 else "float16"
    found = torch.cpu.get_capabilities()
    return "bfloat16" if found.get("avx512_bf16") or found.get("amx_bf16") else "float32"


def free_memory(device: torch.device) -> tuple[int, int]:
    """(free, total) bytes of a GPU, whatever torch keeps for later given back first."""
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says with it that an allocation failed, on a GPU or in main memory."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def gibibytes(size: float) -> str:
    return f"{size / (1 << 30):.2f} GiB"
