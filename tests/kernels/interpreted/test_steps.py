"""A whole step through the fused kernels (norms with residuals, turns and stores, gates, attention) is torch's."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from tests.kernels.interpreted.device import DEVICE
from tests.kernels.steps import KINDS, check_kind, check_quantised

FAST = ("Gemma 3: a rope a kind of layer, every head normed", "OLMo 2: norms after, heads normed as a whole")


@pytest.mark.parametrize(
    "kind", [kind if kind in FAST else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_a_step_gives_the_torch_backends_logits(kind: str) -> None:
    check_kind(kind, DEVICE)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.012)])
def test_a_step_in_16_bits_is_as_near_as_they_are(dtype: torch.dtype, tolerance: float) -> None:
    check_kind("Qwen 3: every head normed", DEVICE, dtype, tolerance)


@pytest.mark.parametrize("quantization", ["int8", pytest.param("int4", marks=pytest.mark.slow)])
def test_a_step_of_fewer_bits_gives_the_twins_logits(
    quantization: Literal["int8", "int4"], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_quantised(quantization, DEVICE, monkeypatch)
