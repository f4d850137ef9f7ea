"""16-bit steps are padded to few sizes; nobody sees it but the matmuls."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from latticework.runtime.model.base import Attend
from latticework.runtime.model.decoder import Decoder
from latticework.runtime.model.runner import matmul_rows
from latticework.runtime.model.tiny import SPEC, tiny_weights
from tests.runtime.model.by_hand import Row, make_runner, step


class Watched:
    """A model that notes how many rows it is given."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.model = Decoder(SPEC, dtype)
        self.model.load(tiny_weights())
        self.spec = SPEC
        self.rows: list[int] = []

    def __call__(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        self.rows.append(len(tokens))
        found: Tensor = self.model(tokens, positions, attend)
        return found

    def logits(self, hidden: Tensor) -> Tensor:
        self.rows.append(len(hidden))
        return self.model.logits(hidden)

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.model.parameters()

    @property
    def pads(self) -> bool:
        return self.model.pads

    def held(self) -> dict[str, int]:
        return self.model.held()


def one_by_one_and_together(dtype: torch.dtype) -> tuple[Watched, Tensor, Tensor]:
    """A model, and the logits of three sequences in steps of their own and in one."""
    model = Watched(dtype)
    texts = [list(range(40, 53)), list(range(60, 81)), [7]]
    apart = [step(make_runner(model, dtype), [(Row(list(range(8))), text)])[0] for text in texts]
    rows = [Row(list(range(8 * index, 8 * index + 8))) for index in range(3)]
    together = step(make_runner(model, dtype), list(zip(rows, texts, strict=True)))
    return model, torch.cat(apart), torch.cat(together)


def test_a_padded_size_is_never_smaller_and_there_are_few() -> None:
    sizes = [matmul_rows(count) for count in range(1, 513)]
    assert all(size >= count for count, size in enumerate(sizes, 1))
    assert all(size == matmul_rows(size) for size in sizes)
    assert len(set(sizes)) < 40
    assert all(size - count < max(8, count / 8) for count, size in enumerate(sizes, 1))


def test_a_16_bit_model_sees_padded_sizes_alone_and_gives_the_same_logits() -> None:
    model, apart, together = one_by_one_and_together(torch.bfloat16)
    assert model.rows == [16, 16, 24, 24, 1, 1, 40, 40]  # for 13, 21, 1 and 35 tokens: layers, then head
    _, exact, _ = one_by_one_and_together(torch.float64)
    assert apart.shape == together.shape == exact.shape == (35, SPEC.vocab_size)
    for found in (apart, together):
        assert (found.double() - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_other_models_see_what_there_is() -> None:
    model, apart, together = one_by_one_and_together(torch.float64)
    assert model.rows == [13, 13, 21, 21, 1, 1, 35, 35]
    torch.testing.assert_close(apart, together, rtol=1e-12, atol=1e-12)
