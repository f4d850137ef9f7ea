"""The two libraries that vLLM's documentation preloads on a CPU: Intel's OpenMP and a faster malloc."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.rivals.places import LIBRARIES, VLLM_PYTHON

MALLOC = "libtcmalloc_minimal.so.4"
MALLOC_PACKAGE = "libtcmalloc-minimal4"  # Debian's and Ubuntu's
OPENMP = "libiomp5.so"
_SYSTEM = (Path("/usr/lib"), Path("/usr/local/lib"), Path("/lib"))


class NoLibrary(OSError):
    """Neither there nor to be had."""


def preloads() -> list[Path]:
    """Both, fetched if need be. Raises NoLibrary."""
    return [malloc(), openmp()]


def openmp() -> Path:
    """Of the `intel-openmp` package in vLLM's venv."""
    found = sorted(VLLM_PYTHON.parents[1].rglob(OPENMP))
    if not found:
        raise NoLibrary(f"there is no {OPENMP} under {VLLM_PYTHON.parents[1]}; python -m benchmarks.rivals.setup vllm")
    return found[0]


def malloc() -> Path:
    """The system's; else Debian's package unpacked into .peers/, which needs no rights."""
    for folder in (LIBRARIES, *_SYSTEM):
        found = sorted(folder.rglob(MALLOC)) if folder.is_dir() else []
        if found:
            return found[0]
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise NoLibrary(f"there is no {MALLOC}; install gperftools' tcmalloc_minimal")
    with tempfile.TemporaryDirectory() as place:
        download = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", MALLOC_PACKAGE]
        done = subprocess.run(download, cwd=place, capture_output=True, text=True)
        packages = list(Path(place).glob("*.deb"))
        if done.returncode or not packages:
            raise NoLibrary(f"apt-get download {MALLOC_PACKAGE} failed; try apt-get update: {done.stderr.strip()}")
        LIBRARIES.mkdir(parents=True, exist_ok=True)
        subprocess.run(["dpkg-deb", "-x", packages[0], LIBRARIES], check=True)
    return sorted(LIBRARIES.rglob(MALLOC))[0]
