"""A whole step through the fused kernels (norms with residuals, turns and stores, gates, attention) is torch's."""

from __future__ import annotations

import pytest

from tests.kernels.interpreted.device import DEVICE
from tests.kernels.steps import KINDS, check_kind

FAST = ("Gemma 3: a rope a kind of layer, every head normed", "OLMo 2: norms after, heads normed as a whole")


@pytest.mark.parametrize(
    "kind", [kind if kind in FAST else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_a_step_gives_the_torch_backends_logits(kind: str) -> None:
    check_kind(kind, DEVICE)
