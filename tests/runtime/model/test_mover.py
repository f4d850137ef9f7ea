"""Weights are the same after they have gone through two small buffers; here from a CPU to a CPU."""

from __future__ import annotations

import pytest
import torch

from latticework.runtime.model import mover as module
from latticework.runtime.model.mover import Mover, moved
from latticework.runtime.model.quantize.four_bit import FourBit

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _nothing_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WORTH_IT", 0)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.uint8, torch.int8]
)
@pytest.mark.parametrize("shape", [(1,), (7, 13), (3, 64), (5, 1, 9)])
def test_tensors_arrive_as_they_are(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    mover = Mover(CPU, window=64, pinned=False)
    for _ in range(3):  # buffers are used again
        tensor = (torch.rand(shape) * 100).to(dtype)
        found = mover.move(tensor)
        assert found.dtype == dtype
        assert torch.equal(found, tensor)
        assert found.data_ptr() != tensor.data_ptr()


def test_views_and_empty_tensors_arrive_too() -> None:
    mover = Mover(CPU, window=16, pinned=False)
    whole = torch.arange(60.0).view(6, 10)
    assert torch.equal(mover.move(whole.T), whole.T)
    assert torch.equal(mover.move(whole[1:5:2, 3:]), whole[1:5:2, 3:])
    assert mover.move(whole[:0]).shape == (0, 10)


def test_small_tensors_need_no_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WORTH_IT", 1 << 20)
    monkeypatch.setattr(Mover, "_copy", lambda *_: pytest.fail("went through a buffer"))
    assert torch.equal(Mover(CPU, pinned=False).move(torch.ones(5)), torch.ones(5))


def test_weights_of_four_bits_are_moved_in_their_parts() -> None:
    weight = FourBit.rounded(torch.randn(8, 64))
    ((name, found), (_, other)) = moved([("a", weight), ("b", torch.ones(2))], Mover(CPU, window=100, pinned=False))
    assert name == "a"
    assert isinstance(found, FourBit)
    assert torch.equal(found.dense(), weight.dense())
    assert isinstance(other, torch.Tensor)
