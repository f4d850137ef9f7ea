"""Which device a setting means, and what is said where it is not there. What torch tells of GPUs is made up."""

from __future__ import annotations

import pytest
import torch

from latticework.lang.errors import InvalidArgument, Unsupported
from latticework.runtime.config import EngineConfig
from latticework.runtime.engine import Engine
from latticework.runtime.model.devices import DeviceMemory, fastest_dtype, is_out_of_memory, resolve_device
from latticework.runtime.model.load import resolve_dtype


def pretend(monkeypatch: pytest.MonkeyPatch, gpus: int, capability: tuple[int, int] = (9, 0)) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)


@pytest.mark.parametrize(
    ("name", "gpus", "found"),
    [
        ("cpu", 2, "cpu"),
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda:0"),
        ("cuda", 1, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_a_name_means_a_device(name: str, gpus: int, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus)
    assert resolve_device(name) == torch.device(found)


def test_a_gpu_that_is_not_there_is_an_error_that_says_what_torch_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 2)
    with pytest.raises(Unsupported, match=r"device is 'cuda:2'; torch .* sees 2, numbered from 0") as caught:
        resolve_device("cuda:2")
    assert caught.value.field == "device"
    pretend(monkeypatch, 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(Unsupported, match="was built without CUDA"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(Unsupported, match=r"was built for CUDA 13\.0 and sees no GPU"):
        resolve_device("cuda")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "CUDA", "cuda:x", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="expected auto, cpu, cuda or cuda:N"):
        resolve_device(name)


def test_an_engine_refuses_before_it_reads_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 0)
    with pytest.raises(Unsupported, match="device is 'cuda'"):
        Engine.load(EngineConfig(model="tiny", device="cuda"), progress=lambda share: pytest.fail("a weight was read"))


def test_numbers_are_those_that_a_device_multiplies_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    pretend(monkeypatch, 1, (9, 0))
    assert fastest_dtype(gpu) == resolve_dtype("auto", gpu) == "bfloat16"
    pretend(monkeypatch, 1, (7, 5))
    assert fastest_dtype(gpu) == "float16"
    assert resolve_dtype("float32", gpu) == "float32"


def test_what_loading_holds_is_the_difference() -> None:
    assert DeviceMemory(total=100, before=90, free=20).held == 70
    assert DeviceMemory(total=100, before=90, free=95).held == 0  # another process has ended


def test_running_out_of_memory_is_told_from_other_failures() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
