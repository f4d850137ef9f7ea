"""Random weights of any shape, made where they will lie: the same for one shape, type and kind of device.

Matrices keep a row's size, norms multiply by one, so that activations neither vanish nor overflow however deep the
model is. What it writes means nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from latticework.runtime.model.decoder import Decoder
from latticework.runtime.model.places import shapes
from latticework.runtime.model.weights import Progress

SEED = 20


def dummy_weights(model: Decoder, progress: Progress | None = None) -> Iterator[tuple[str, Tensor]]:
    """Every weight by its name in files, in the model's type, one after the other."""
    dtype, device = model.embed.dtype, model.embed.device
    random = torch.Generator(device).manual_seed(SEED)
    wanted = list(shapes(model))
    for done, (name, shape) in enumerate(wanted, start=1):
        if "norm" in name:
            yield name, torch.full(shape, 1.0 - model.spec.norm_offset, dtype=dtype, device=device)
        else:
            numbers = torch.randn(shape, generator=random, dtype=dtype, device=device)
            yield name, numbers.mul_(_scale(name, shape))
        if progress:
            progress(done, len(wanted))


def _scale(name: str, shape: torch.Size) -> float:
    if name.endswith("bias"):
        return 0.02
    return 1.0 if "embed_tokens" in name else float(shape[-1] ** -0.5)
