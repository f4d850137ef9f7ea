from __future__ import annotations

import pytest
import torch

from latticework.kernels.cpu.library import Library
from latticework.kernels.cpu.pack_tiles import pack_tiles, pack_tiles_reference


@pytest.mark.parametrize(("outputs", "count"), [(1, 1), (32, 16), (33, 17), (576, 288), (300, 40)])
def test_tiles_equal_their_twin(library: Library | None, outputs: int, count: int) -> None:
    if library is None:
        pytest.skip("needs a C++ compiler")
    words = torch.randint(-(2**31), 2**31, (outputs, count), dtype=torch.int32)
    packed = pack_tiles(library, words, lambda shape, dtype: torch.full(shape, 7, dtype=dtype))
    assert torch.equal(packed, pack_tiles_reference(words))
    assert int(packed[0, 0, 0, 0, 0]) == int(words[0, 0])
    assert packed.count_nonzero() == words.count_nonzero()
