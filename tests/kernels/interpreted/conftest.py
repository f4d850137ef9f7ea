"""Kernels against their twins: in Triton's interpreter, or on a GPU.

Triton chooses its interpreter when it is imported, so these tests run in processes of their own
(tests/kernels/test_kernels_in_interpreter.py): with TRITON_INTERPRET=1 on CPU tensors, with LATTICEWORK_TEST_GPU=1 on
the GPU. They do not exist without one of the two.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") == "1":
    collect_ignore_glob = []
elif os.environ.get("LATTICEWORK_TEST_GPU") == "1":
    collect_ignore_glob = ["test_engine.py", "test_triton_attention.py", "test_tune.py"]  # they are about the CPU
else:
    collect_ignore_glob = ["test_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    """The interpreter of Triton 3.6 reads scalars out of arrays of one number, which numpy is about to give up."""
    config.addinivalue_line("filterwarnings", "ignore:Conversion of an array with ndim > 0 to a scalar")


@pytest.fixture(autouse=True)
def on_the_device() -> Iterator[None]:
    """Tensors are made on the GPU where the tests run on one."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        yield
        return
    with torch.device("cuda"):
        yield
