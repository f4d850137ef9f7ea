"""Tests that need Triton's interpreter. It must be chosen before triton is imported, so they run in a process of
their own (tests/kernels/test_kernels_in_interpreter.py) and do not exist without TRITON_INTERPRET=1."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
