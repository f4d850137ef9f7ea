"""Arrays that go through one buffer are the same on the other side; here from a CPU to a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from latticework.runtime.attention.staging import ALIGNED, Buffered, InPlace, make_staging

CPU = torch.device("cpu")


def arrays_of(seed: int, most: int) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(seed)

    def size() -> int:
        return int(random.integers(0, most))

    return {
        "tokens": random.integers(0, 1000, size()),
        "table": random.integers(0, 1000, (size(), 3)).astype(np.int32),
        "every other": random.integers(0, 1000, 2 * size())[::2],
        "bytes": random.integers(0, 255, size()).astype(np.uint8),
        "numbers": random.random(size()),
    }


@pytest.mark.parametrize("kind", ["in place", "buffered"])
def test_arrays_arrive_as_they_are_however_large_steps_become(kind: str) -> None:
    staging = InPlace() if kind == "in place" else Buffered(CPU, size=100, pinned=False)
    for seed, most in enumerate((3, 50, 7, 400, 400, 2)):
        arrays = arrays_of(seed, most)
        found = staging.put(arrays)
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].shape == array.shape
            assert np.array_equal(found[name].numpy(), array)


def test_every_array_begins_where_kernels_may_read_vectors() -> None:
    staging = Buffered(CPU, pinned=False)
    start = staging.put({"first": np.zeros(1)})["first"].data_ptr()
    staging.put({})
    for tensor in staging.put(arrays_of(1, 9)).values():
        assert (tensor.data_ptr() - start) % ALIGNED == 0 or not len(tensor)


def test_one_steps_arrays_outlive_the_next_steps() -> None:
    staging = Buffered(CPU, pinned=False)
    first = staging.put({"a": np.arange(5)})["a"]
    second = staging.put({"a": np.arange(5, 10)})["a"]
    assert first.tolist() == [0, 1, 2, 3, 4]
    third = staging.put({"a": np.arange(10, 15)})["a"]
    assert second.tolist() == [5, 6, 7, 8, 9]
    assert third.data_ptr() == first.data_ptr()  # kept from step to step


def test_a_cpu_needs_no_buffers() -> None:
    array = np.arange(3)
    found = make_staging(CPU).put({"a": array})["a"]
    array[0] = 7
    assert found.tolist() == [7, 1, 2]
