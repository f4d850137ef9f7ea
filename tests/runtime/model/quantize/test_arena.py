from __future__ import annotations

import torch

from latticework.runtime.model.quantize import arena
from latticework.runtime.model.quantize.arena import Arena


def test_pieces_hold_what_was_placed_and_do_not_overlap() -> None:
    memory = Arena()
    torch.manual_seed(1)
    given = [torch.randn(3, 5), torch.randn(7).bfloat16(), torch.randint(-9, 9, (1000, 33), dtype=torch.int8)]
    placed = [memory.place(tensor) for tensor in given for _ in range(2)]
    for index, tensor in enumerate(placed):
        assert torch.equal(tensor, given[index // 2])
        assert tensor.data_ptr() % 64 == 0
    ends = [tensor.data_ptr() + tensor.nbytes for tensor in placed]
    assert all(end <= after.data_ptr() for end, after in zip(ends, placed[1:], strict=False))


def test_what_is_larger_than_a_chunk_gets_one_of_its_own() -> None:
    memory = Arena()
    small = memory.place(torch.ones(10))
    large = memory.place(torch.arange(arena._CHUNK + 5, dtype=torch.int64).to(torch.uint8))
    after = memory.place(torch.full((10,), 2.0))
    assert int(large[-1]) == (arena._CHUNK + 4) % 256
    assert small.sum() == 10
    assert after.sum() == 20


def test_pieces_outlive_their_arena() -> None:
    placed = Arena().place(torch.arange(100))
    assert placed.sum() == 4950
