"""What the device does in a while, from the profiler's timeline: kernels by kind, and the gaps between them.

A gap inside one launch, which for a graph is many kernels, is the device's own; one before the next launch is the
host's, unless it is as short as any two kernels need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import profiler
from torch.autograd import DeviceType

OWN_GAP = 2e-6  # seconds between two kernels that were both launched in time
KINDS = {  # by a part of the kernel's name, in this order
    "attention": ("split_kernel", "merge_kernel", "extend_kernel", "prefix_kernel", "BatchDecode", "BatchPrefill"),
    "matrix products": ("gemm", "gemv", "cutlass", "cublas", "nvjet", "int8_kernel", "int4_kernel", "splitK", "::mm"),
    "norms": ("norm_kernel",),
    "gates": ("gate_kernel",),
    "turning and storing": ("turn_kernel",),
    "sampling": ("sample_kernel", "penalty_kernel", "logprob_kernel"),
    "constraints": ("advance_kernel", "mask_kernel"),
    "copies": ("Memcpy", "Memset", "copy_"),
}


@dataclass(frozen=True)
class Span:
    """Something that the device did, in seconds. launch: the same for all kernels of one graph."""

    name: str
    start: float
    end: float
    launch: int


@dataclass(frozen=True)
class DeviceParts:
    """Seconds in all. kernels: by kind; between: gaps that are the device's own; host: the others."""

    kernels: dict[str, float]
    between: float
    host: float


def device_parts(run: Callable[[], object], on_cuda: bool) -> DeviceParts:
    """Runs it once under the profiler. Without CUDA, torch's operations stand for kernels."""
    activity = profiler.ProfilerActivity.CUDA if on_cuda else profiler.ProfilerActivity.CPU
    with profiler.profile(activities=[activity]) as profile:
        run()
    wanted = DeviceType.CUDA if on_cuda else DeviceType.CPU
    inner = profile.profiler
    assert inner is not None
    spans = [_span(event) for event in inner.kineto_results.events() if event.device_type() == wanted]
    if not spans:
        raise RuntimeError("the profiler saw nothing run on the device")
    return split(spans)


def _span(event: Any) -> Span:
    start = event.start_ns()
    return Span(event.name(), start / 1e9, (start + event.duration_ns()) / 1e9, event.correlation_id())


def split(spans: Iterable[Span]) -> DeviceParts:
    """What of a span another one covers already is not counted twice."""
    kernels: dict[str, float] = {}
    between = host = 0.0
    last: Span | None = None
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        begin = span.start
        if last is not None:
            gap = span.start - last.end
            if gap > 0 and (span.launch == last.launch or gap <= OWN_GAP):
                between += gap
            elif gap > 0:
                host += gap
            begin = max(begin, last.end)
        if span.end > begin:
            kernels[kind_of(span.name)] = kernels.get(kind_of(span.name), 0.0) + span.end - begin
        if last is None or span.end > last.end:
            last = span
    return DeviceParts(kernels, between, host)


def kind_of(name: str) -> str:
    """Of a kernel, by its name."""
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "other")
