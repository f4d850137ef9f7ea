"""Runs tests/kernels/interpreted on a GPU, long shapes too, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.gpu
@pytest.mark.timeout(1200)
def test_kernels_equal_their_twins_on_the_device() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", str(HERE / "interpreted"), "-p", "no:cacheprovider", "-m", ""],
        cwd=HERE.parent.parent,
        env={**environment, "LATTICEWORK_TEST_GPU": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert run.returncode == 0, run.stdout + run.stderr
