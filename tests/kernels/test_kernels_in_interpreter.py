"""Runs tests/kernels/interpreted in a process of its own: Triton chooses its interpreter when it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
HERE = Path(__file__).parent


def test_kernels_equal_their_twins_in_the_interpreter() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", str(HERE / "interpreted"), "-p", "no:cacheprovider"],
        cwd=HERE.parent.parent,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert run.returncode == 0, run.stdout + run.stderr
