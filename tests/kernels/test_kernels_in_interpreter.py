"""Runs tests/kernels/interpreted in a process of its own: Triton chooses its interpreter when it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
HERE = Path(__file__).parent
ROOT = HERE.parent.parent
OLDEST = ROOT / ".triton-3.6"  # python -m pip install --target .triton-3.6 --no-deps triton==3.6.0 numpy==2.3.5


def run_interpreted(marks: str, timeout: int, packages: Path = ROOT) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", str(HERE / "interpreted"), "-p", "no:cacheprovider", "-m", marks],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_kernels_equal_their_twins_in_the_interpreter() -> None:
    run_interpreted("not slow and not gpu", timeout=280)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kernels_equal_their_twins_on_long_shapes() -> None:
    run_interpreted("slow and not gpu", timeout=3600)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not OLDEST.is_dir(), reason=f"{OLDEST.name} holds no Triton 3.6; see the top of this file")
def test_kernels_equal_their_twins_on_the_oldest_triton() -> None:
    run_interpreted("not slow and not gpu", timeout=1200, packages=OLDEST)
