"""Where kernels run and how a call is timed: a CUDA device by its events, or Triton's interpreter by the wall clock.

On a device a call is captured in a graph and replayed, so that short kernels are not measured by how fast Python
launches them; before each replay the L2 cache is written over. This file knows no kernel.
"""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

import torch
import triton

from benchmarks.gpu.rows import Machine
from latticework.kernels.choice import capability_of

PACKAGES = ("torch", "triton", "transformers", "flashinfer-python", "numpy")
FLUSH_BYTES = 512 << 20  # several times any L2; writing it takes longer than launching what is timed
FEWEST, MOST = 7, 200  # repeats

Run = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """seconds: median of the repeats. launched: not captured in a graph."""

    seconds: float
    repeats: int
    launched: bool


class Device(ABC):
    """A torch device and its clock."""

    def __init__(self, torch_device: torch.device) -> None:
        self.torch_device = torch_device

    @abstractmethod
    def time(self, run: Run, seconds: float = 0.25) -> Timing:
        """How long one call takes, from about so many seconds of repeats."""

    @abstractmethod
    def wait(self) -> None:
        """Until everything that was launched has run."""

    @abstractmethod
    def tidy(self) -> None:
        """Gives the memory of what came before to what comes next."""

    @abstractmethod
    def machine(self) -> Machine:
        """What this is."""


class CudaDevice(Device):
    """The first CUDA device, or the one that CUDA_VISIBLE_DEVICES leaves."""

    def __init__(self) -> None:
        super().__init__(torch.device("cuda", 0))
        self._over_l2: torch.Tensor | None = None

    def time(self, run: Run, seconds: float = 0.25) -> Timing:
        run()  # compiles
        self.wait()
        replay, graph = self._captured(run)
        expected = statistics.median(self._times(replay, 3))
        repeats = max(FEWEST, min(MOST, int(seconds / max(expected, 1e-6))))
        return Timing(statistics.median(self._times(replay, repeats)), repeats, launched=graph is None)

    def wait(self) -> None:
        torch.cuda.synchronize(self.torch_device)

    def tidy(self) -> None:
        self._over_l2 = None
        gc.collect()
        torch.cuda.empty_cache()

    def machine(self) -> Machine:
        properties = torch.cuda.get_device_properties(self.torch_device)
        packages = _packages() | {"cuda": torch.version.cuda or "none", "driver": _driver()}
        return Machine(
            name=properties.name,
            interpreted=False,
            memory=properties.total_memory,
            capability=capability_of(self.torch_device),
            packages=packages,
        )

    def _captured(self, run: Run) -> tuple[Run, torch.cuda.CUDAGraph | None]:
        """A replay of the call; the call itself where it cannot be captured, because it waits for the device."""
        stream = torch.cuda.Stream(self.torch_device)
        stream.wait_stream(torch.cuda.current_stream(self.torch_device))
        with torch.cuda.stream(stream):
            run()
        torch.cuda.current_stream(self.torch_device).wait_stream(stream)
        self.wait()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                run()
        except RuntimeError:
            self.wait()
            return run, None
        return graph.replay, graph

    def _times(self, replay: Run, repeats: int) -> list[float]:
        """Seconds of each repeat. All are launched before the first has run, so the device never waits."""
        if self._over_l2 is None:
            self._over_l2 = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=self.torch_device)
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
        for begin, end in events:
            self._over_l2.zero_()
            begin.record()
            replay()
            end.record()
        self.wait()
        return [begin.elapsed_time(end) / 1e3 for begin, end in events]


class InterpretedDevice(Device):
    """A CPU with Triton's interpreter: to see that everything runs. Its times say nothing about a GPU."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))

    def time(self, run: Run, seconds: float = 0.25) -> Timing:
        began = time.perf_counter()
        run()
        return Timing(time.perf_counter() - began, 1, launched=True)

    def wait(self) -> None:
        pass

    def tidy(self) -> None:
        gc.collect()

    def machine(self) -> Machine:
        return Machine(
            name="Triton's interpreter",
            interpreted=True,
            memory=0,
            capability=capability_of(self.torch_device),
            packages=_packages(),
        )


def find_device() -> Device:
    """By TRITON_INTERPRET. Exits where it is not set and there is no CUDA device."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return InterpretedDevice()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu needs a CUDA device and torch sees none; --dry-run needs none")
    return CudaDevice()


def _packages() -> dict[str, str]:
    found = {"triton": str(triton.__version__)}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found.setdefault(name, "none")
    return found


def _driver() -> str:
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "not known"
