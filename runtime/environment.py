"""What this machine and this installation offer, as (name, value) pairs. Imports none of what it reports on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from latticework.kernels.cpu import build
from latticework.lang.errors import ModelError
from latticework.runtime.config import DEFAULT_MODEL, cache_folder

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "msgspec",
    "pyzmq",
    "safetensors",
    "gguf",
    "triton",
    "flashinfer-python",
    "fastapi",
    "uvicorn",
    "pydantic",
    "openai",
)
CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")


def describe() -> list[tuple[str, str]]:
    """Everything a bug report needs."""
    rows = [("latticework", version("latticework") or "a checkout that is not installed")]
    rows.append(("python", f"{platform.python_version()} ({sys.executable})"))
    rows.append(("system", platform.platform()))
    rows.append(("cpu", cpu()))
    rows.append(("cpu features", " ".join(cpu_features()) or "not known on this system"))
    rows.append(("cores allowed", str(allowed_cores())))
    rows.append(("gpus", gpus()))
    rows.append(("cache folder", str(cache_folder())))
    rows.append(("cpu kernels", cpu_kernels()))
    rows.append((f"model {DEFAULT_MODEL}", default_model()))
    rows += [(name, version(name) or "not installed") for name in PACKAGES]
    return rows


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cpu() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_features() -> list[str]:
    flags = set((_cpuinfo("flags") or _cpuinfo("Features") or "").split())
    return [name for name in CPU_FEATURES if name in flags]


def allowed_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_kernels() -> str:
    """Where they are, or how to get them."""
    try:
        found = build.find(cache_folder() / "kernels")
    except build.BuildFailed as error:
        return str(error)
    return str(found or "not built: latticework kernels build")


def gpus() -> str:
    """Name, memory and driver of each, as the driver's own tool tells."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "none that a driver of NVIDIA's knows"
    asked = [tool, "--query-gpu=index,name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{tool} cannot be run: {error}"
    return "; ".join((done.stdout if done.returncode == 0 else done.stderr or done.stdout).strip().splitlines())


def default_model() -> str:
    """Where it is, or how to get it."""
    from latticework.runtime.model.locate import find_model

    try:
        return find_model(DEFAULT_MODEL).weights
    except ModelError as error:
        return f"{error.message}; {error.hint}" if error.hint else error.message


def _cpuinfo(field: str) -> str | None:
    """The first value of a field of /proc/cpuinfo, on systems that have one."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith(field)), None)
