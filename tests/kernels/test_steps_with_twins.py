"""Steps through the Triton backend, its kernels replaced by their twins: everything around the kernels, in seconds."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from tests.kernels.steps import KINDS, check_kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_gives_the_torch_backends_logits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATTICEWORK_KERNELS", "torch")
    check_kind(kind, torch.device("cpu"))
