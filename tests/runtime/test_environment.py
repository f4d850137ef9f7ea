"""What is said of GPUs: the answer of the driver's own tool, here a script of that name."""

from __future__ import annotations

from pathlib import Path

import pytest

from latticework.runtime.environment import gpus


def put_tool(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_every_gpu_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_tool(tmp_path, "echo '0, NVIDIA H100, 81559 MiB, 580.1'; echo '1, NVIDIA L4, 23034 MiB, 580.1'", monkeypatch)
    assert gpus() == "0, NVIDIA H100, 81559 MiB, 580.1; 1, NVIDIA L4, 23034 MiB, 580.1"


def test_a_driver_that_does_not_answer_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_tool(tmp_path, "echo 'NVIDIA-SMI has failed'; exit 9", monkeypatch)
    assert gpus() == "NVIDIA-SMI has failed"
    put_tool(tmp_path, "", monkeypatch)
    (tmp_path / "nvidia-smi").write_text("#!/no/such/shell\n")
    assert "cannot be run" in gpus()


def test_no_tool_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == "none that a driver of NVIDIA's knows"
