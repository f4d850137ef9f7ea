"""One part of a run, in a process of its own: `python -m benchmarks.gpu.part NAME ROWS SECONDS SEED`.

A kernel that reads where it may not takes the whole process's device with it; here, only its part.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import torch

from benchmarks.gpu.deadline import Deadline
from benchmarks.gpu.device import Device, find_device
from benchmarks.gpu.limits import limits
from benchmarks.gpu.rows import RowFile
from benchmarks.gpu.shapes import LLAMA_8B, QWEN3_06B, TINY_LLAMA, TINY_QWEN3


def main(name: str, path: str, seconds: str, seed: str) -> int:
    """Exit status 1 if the part as a whole failed; single measurements that did have rows of their own."""
    rows, deadline = RowFile(Path(path), name), Deadline(float(seconds))
    torch.manual_seed(int(seed))
    device = find_device()
    rows.write(device.machine())
    rows.write(limits(device))
    device.tidy()
    try:
        measure(name, device, rows, deadline)
    except Exception as error:
        traceback.print_exc()
        rows.fail("all that is not listed", error)
        return 1
    return 0


def measure(name: str, device: Device, rows: RowFile, deadline: Deadline) -> None:
    """Imports what the part needs and no more: transformers alone takes seconds."""
    tiny = device.machine().interpreted
    which, _, who = name.rpartition(" ")
    shape = {"llama": TINY_LLAMA if tiny else LLAMA_8B, "qwen": TINY_QWEN3 if tiny else QWEN3_06B}.get(who)
    if shape is None:
        from benchmarks.gpu.kernels import measure_kernels

        measure_kernels(device, rows, deadline)
    elif which == "transformers":
        from benchmarks.gpu.transformers_rival import measure_transformers

        measure_transformers(shape, device, rows, deadline)
    else:
        from benchmarks.gpu.models import measure_model

        measure_model(shape, device, rows, deadline)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
