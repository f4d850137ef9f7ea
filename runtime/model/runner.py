"""One model step: a batch in, logits out.

This file moves a `Batch` onto the device and through the model. It knows no scheduler and draws no tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latticework.runtime.attention.base import AttentionBackend, KVCache
from latticework.runtime.model.base import Model
from latticework.runtime.profile import Profile
from latticework.runtime.schedule.batch import Batch


class ModelRunner:
    """Runs batches over one KV cache. Not thread-safe: steps follow each other."""

    def __init__(self, model: Model, attention: AttentionBackend, kv: KVCache, profile: Profile | None = None) -> None:
        assert attention.layers == model.spec.attention_layers, "the attention was made for another model"
        self.model = model
        self.attention = attention
        self.kv = kv
        self.profile = profile or Profile(False)
        self._device = next(model.parameters()).device

    @torch.inference_mode()
    def run(self, batch: Batch) -> Tensor:
        """Computes the batch's tokens and writes their KV. Returns logits [R, V]: float32, or float64 from a
        float64 model."""
        plan = self.attention.plan(batch, self.kv)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with self.profile.part("attention"):
                return self.attention.forward(layer, q, k, v, self.kv, plan)

        tokens = torch.from_numpy(batch.tokens).to(self._device)
        positions = torch.from_numpy(batch.positions).to(self._device)
        with self.profile.part("layers"):
            hidden = self.model(tokens, positions, attend)
        with self.profile.part("head"):
            logits = self.model.logits(hidden[torch.from_numpy(batch.logit_rows).to(self._device)])
        return logits if logits.dtype == torch.float64 else logits.float()
