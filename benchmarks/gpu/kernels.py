"""The part about kernels: every kernel beside its twin, then its time beside its rivals'."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.cases import checked, timed
from benchmarks.gpu.deadline import Deadline, attempt
from benchmarks.gpu.device import Device
from benchmarks.gpu.rows import Check, KernelTime, RowFile
from benchmarks.gpu.work import NAMES, Case

CHECKED_DTYPES = (torch.bfloat16, torch.float16)
# Norms of differences: 16-bit results are rounded once, and probabilities and scaled codes before they are multiplied.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 8e-3}
DIFFERENT_DECISIONS = 0.0
CHECK_SECONDS, TIME_SECONDS = 4.0, 6.0  # what one takes at most, compiling included


def measure_kernels(device: Device, rows: RowFile, deadline: Deadline) -> None:
    """Correctness first: a time of something wrong is none."""
    tiny = device.machine().interpreted
    for case, dtype in _with_dtypes(tiny):
        what = f"check of {case}, {NAMES[dtype]}"
        attempt(what, CHECK_SECONDS, deadline, rows, partial(check, case, dtype, device, rows))
        device.tidy()
    for case in timed(tiny):
        attempt(f"time of {case}", TIME_SECONDS, deadline, rows, partial(_time, case, device, rows))
        device.tidy()


def _with_dtypes(tiny: bool) -> Iterator[tuple[Case, torch.dtype]]:
    """float32 for those that have it whatever the model's dtype."""
    for case in checked(tiny):
        for dtype in CHECKED_DTYPES if case.typed else (torch.float32,):
            yield case, dtype


def check(case: Case, dtype: torch.dtype, device: Device, rows: RowFile) -> None:
    work = case.make(device.torch_device, dtype)
    exact = work.exact()
    _leave_nonsense(exact, dtype)
    rows.write(_compared(case.kernel, case.shape, dtype, work.decides, work.run(), exact))
    for name, rival in work.rivals.items():
        if rival.alike:
            kernel = f"{name} for {case.kernel}"
            rows.write(_compared(kernel, case.shape, dtype, work.decides, (rival.run(),), exact[:1]))


def _compared(
    kernel: str, shape: str, dtype: torch.dtype, decides: bool, found: tuple[Tensor, ...], exact: tuple[Tensor, ...]
) -> Check:
    """The worst of the outputs."""
    compare = _different if decides else _distance
    errors = [compare(one, right) for one, right in zip(found, exact, strict=True)]
    is_number = all(error == error for error in errors)
    return Check(
        kernel=kernel,
        shape=shape,
        dtype=NAMES[dtype],
        error=max(errors) if is_number else None,
        tolerance=DIFFERENT_DECISIONS if decides else TOLERANCE[dtype],
    )


def _distance(found: Tensor, exact: Tensor) -> float:
    wide = exact.double()
    return float((found.double() - wide).norm() / wide.norm())


def _different(found: Tensor, exact: Tensor) -> float:
    return float((found != exact).double().mean())


def _leave_nonsense(like: tuple[Tensor, ...], dtype: torch.dtype) -> None:
    """Frees memory full of NaN, in the sizes of the outputs: a kernel that gets it and leaves some of it is seen."""
    for tensor in like:
        kind = dtype if tensor.is_floating_point() else tensor.dtype
        torch.full(tensor.shape, torch.nan if kind.is_floating_point else -99, dtype=kind, device=tensor.device)


def _time(case: Case, device: Device, rows: RowFile) -> None:
    work = case.make(device.torch_device, torch.bfloat16)
    timing = device.time(work.run)
    rivals: dict[str, float] = {}
    for name, rival in work.rivals.items():
        try:
            rivals[name] = device.time(rival.run).seconds
        except Exception as error:  # a rival's fault is its own
            rows.fail(f"time of {name} for {case}", error)
    rows.write(
        KernelTime(
            kernel=case.kernel,
            shape=case.shape,
            seconds=timing.seconds,
            bytes=work.bytes,
            flops=work.flops,
            rivals=rivals,
            launched=timing.launched,
        )
    )
