"""One model step: a batch in, logits out.

This file moves a `Batch` onto the device and through the model. It knows no scheduler and draws no tokens.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latticework.kernels.cpu.library import Library
from latticework.runtime.attention.base import AttentionBackend, KVCache, QkvBackend, Turning
from latticework.runtime.attention.staging import make_staging
from latticework.runtime.model.base import Attend, Model, QkvAttend
from latticework.runtime.model.one_call import OneCall
from latticework.runtime.profile import Profile
from latticework.runtime.schedule.batch import Batch


class ModelRunner:
    """Runs batches over one KV cache. Not thread-safe: steps follow each other."""

    def __init__(
        self,
        model: Model,
        attention: AttentionBackend,
        kv: KVCache,
        profile: Profile | None = None,
        library: Library | None = None,
        one_call: OneCall | None = None,
    ) -> None:
        """library: the operations of a CPU that were built. one_call: the model's layers, if they go in one call."""
        assert attention.layers == model.spec.attention_layers, "the attention was made for another model"
        self.model = model
        self.attention = attention
        self.kv = kv
        self.profile = profile or Profile(False)
        weights = next(model.parameters())
        self._staging = make_staging(weights.device)
        self.library = library
        self._one_call = one_call
        self._pads = weights.device.type == "cpu" and model.pads and not isinstance(attention, QkvBackend)

    @torch.inference_mode()
    def run(self, batch: Batch) -> Tensor:
        """Computes the batch's tokens and writes their KV. Returns logits [R, V]: float32, or float64 from a
        float64 model."""
        plan = self.attention.plan(batch, self.kv)
        count = len(batch.tokens)
        rows = self._rows(count)
        padded: list[Tensor] = []  # what attention gives, and zeros for rows that are nobody's

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with self.profile.part("attention"):
                if rows == count:
                    return self.attention.forward(layer, q, k, v, self.kv, plan)
                if not padded:
                    padded.append(torch.zeros_like(q))
                padded[0][:count] = self.attention.forward(layer, q[:count], k[:count], v[:count], self.kv, plan)
                return padded[0]

        how: Attend = attend
        if isinstance(self.attention, QkvBackend):
            how = QkvAttend(attend, partial(self._attend_qkv, self.attention, plan))
        drawn = len(batch.logit_rows)
        inputs = self._staging.put(
            {
                "tokens": _padded(batch.tokens, rows),
                "positions": _padded(batch.positions, rows),
                "drawn": _padded(batch.logit_rows, self._rows(drawn)),
            }
        )
        with self.profile.part("layers"):
            if self._one_call is not None:
                hidden = self._one_call(inputs["tokens"], inputs["positions"], batch, plan)
                self.profile.of_which("attention", self._one_call.attention_seconds)
            else:
                hidden = self.model(inputs["tokens"], inputs["positions"], how)
        with self.profile.part("head"):
            logits = self.model.logits(hidden[inputs["drawn"]])[:drawn]
        return logits if logits.dtype == torch.float64 else logits.float()

    def _attend_qkv(self, attention: QkvBackend, plan: object, layer: int, qkv: Tensor, turning: Turning) -> Tensor:
        with self.profile.part("attention"):
            return attention.forward_qkv(layer, qkv, turning, self.kv, plan)

    def _rows(self, count: int) -> int:
        return matmul_rows(count) if self._pads else count


def _padded(numbers: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """[T] -> [rows], zeros at the end."""
    return numbers if len(numbers) == rows else np.concatenate((numbers, np.zeros(rows - len(numbers), dtype=np.int64)))


def matmul_rows(count: int) -> int:
    """`count` or a little more, such that there are few such sizes: 1, 2, every fourth up to 32, every eighth up to
    128, and eight between each power of two and the next.

    oneDNN, which multiplies 16-bit matrices where the C++ operations do not, compiles a kernel for each number of rows:
    some 0.5 MB and 1 to 2 ms for each shape of weight, kept for a thousand of them. Up to 32 rows, reading the weights
    is what takes time."""
    if count <= 2:
        return count
    step = 4 if count <= 32 else 1 << max(3, (count - 1).bit_length() - 4)
    return -(-count // step) * step
