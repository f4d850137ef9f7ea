"""What the wrappers of this folder run, and how: kernels or their twins, and on which architecture.

LATTICEWORK_KERNELS=triton (the default) launches kernels; torch runs the plain-torch twins, on any device, to tell
whether a kernel is to blame. Nothing chooses the twins by itself.
"""

from __future__ import annotations

import functools
import os

import torch
import triton

VARIABLE = "LATTICEWORK_KERNELS"
INTERPRETED_AS = 90  # Triton's interpreter compiles nothing; it runs what sm_90 would get


def twins_chosen() -> bool:
    """Raises ValueError for a value that is neither."""
    chosen = os.environ.get(VARIABLE, "triton")
    if chosen not in ("triton", "torch"):
        raise ValueError(f"{VARIABLE} is {chosen!r}; expected triton or torch")
    return chosen == "torch"


def is_interpreted(kernel: object) -> bool:
    """Whether @triton.jit met TRITON_INTERPRET=1, which it reads when it decorates."""
    return not isinstance(kernel, triton.JITFunction)


@functools.cache
def capability_of(device: torch.device) -> int:
    """90 for compute capability 9.0."""
    if device.type != "cuda":
        return INTERPRETED_AS
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
