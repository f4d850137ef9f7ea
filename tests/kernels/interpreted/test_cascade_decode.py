"""Shared-prefix decode against its twin and against paged_decode: who shares what must change nothing but the reads."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from latticework.kernels.cascade_decode import SharedPrefixes, cascade_decode, cascade_decode_reference
from latticework.kernels.paged_decode import paged_decode
from tests.kernels.interpreted.device import DEVICE
from tests.kernels.interpreted.paged_inputs import TOLERANCE, error_of, in_double, make_pages

Groups = list[tuple[list[int], int]]
SHAPES: dict[str, tuple[int, int, int, int, list[int], Groups]] = {
    # heads, kv_heads, head_dim, page_size, lengths, groups of (members, tokens that they share)
    "two groups and one alone": (4, 1, 8, 16, [300, 270, 530, 40, 520], [([1, 0], 264), ([2, 4], 512)]),
    "more members than a tile, odd pages": (3, 1, 20, 3, [300 + i for i in range(23)], [(list(range(23)), 299)]),
    "nobody shares": (2, 1, 8, 4, [5, 300], []),
    "less than a split is not worth it": (2, 1, 8, 4, [205, 300], [([0, 1], 200)]),
}


def make(
    heads: int, kv_heads: int, head_dim: int, page_size: int, lengths: list[int], groups: Groups, dtype: torch.dtype
) -> Any:
    """Arguments of paged_decode; members' first pages are those of the first member of their group."""
    torch.manual_seed(heads)
    keys, values, table, counts = make_pages(kv_heads, head_dim, page_size, lengths, dtype)
    for members, shared in groups:
        for member in members[1:]:
            pages = shared // page_size
            table[member, :pages] = table[members[0], :pages]
    return torch.randn(len(lengths), heads, head_dim).to(dtype), keys, values, table, counts


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        pytest.param(shape, dtype, marks=pytest.mark.slow if dtype == torch.float16 or "members" in shape else ())
        for shape in SHAPES
        for dtype in TOLERANCE
    ],
)
def test_the_kernels_equal_their_twin(shape: str, dtype: torch.dtype) -> None:
    groups = SHAPES[shape][-1]
    arguments = make(*SHAPES[shape], dtype)
    prefixes = SharedPrefixes.of(groups, len(arguments[0]), DEVICE)
    given = (*arguments, prefixes)
    out = cascade_decode(*given)
    exact = cascade_decode_reference(*in_double(given))
    assert error_of(out, exact) <= TOLERANCE[dtype]
    if dtype == torch.float32:
        assert error_of(out, paged_decode(*arguments)) <= TOLERANCE[dtype]


def test_a_prefix_is_read_through_its_first_member_alone() -> None:
    groups = SHAPES["two groups and one alone"][-1]
    q, keys, values, table, lengths = make(*SHAPES["two groups and one alone"], torch.float32)
    expected = paged_decode(q, keys, values, table, lengths, None, 2.0, 0.4)
    nothing = int(torch.tensor([p for p in range(len(keys)) if p not in table.flatten().tolist()])[0])
    keys[nothing] = values[nothing] = torch.nan
    for members, shared in groups:
        for member in members[1:]:
            table[member, : shared // 256 * 256 // keys.shape[1]] = nothing
    prefixes = SharedPrefixes.of(groups, len(q), DEVICE)
    out = cascade_decode(q, keys, values, table, lengths, prefixes, 2.0, 0.4)
    assert error_of(out, expected) <= TOLERANCE[torch.float32]


def test_prefixes_are_cut_to_whole_splits_and_members_counted() -> None:
    prefixes = SharedPrefixes.of([([4, 1], 700), ([2], 255)], 5, DEVICE)
    assert prefixes.order.tolist() == [4, 1, 2]
    assert prefixes.starts.tolist() == [0, 2, 3]
    assert prefixes.shared.tolist() == [512, 0]
    assert prefixes.done.tolist() == [0, 512, 0, 0, 512]
    assert (prefixes.largest, prefixes.longest) == (2, 512)


@pytest.mark.parametrize("groups", [[([0, 1], 300), ([1, 2], 300)], [([3], 300)]])
def test_a_sequence_in_two_groups_or_in_no_batch_is_refused(groups: Groups) -> None:
    with pytest.raises(ValueError, match=r"cascade_decode: groups .*expected 0 to 2, each once"):
        SharedPrefixes.of(groups, 3, DEVICE)


def test_what_the_kernel_cannot_take_is_named() -> None:
    given = (*make(2, 1, 8, 4, [5, 300], [], torch.float32), SharedPrefixes.of([], 3, DEVICE))
    with pytest.raises(ValueError, match=r"cascade_decode: done \(3,\); expected \[B\] with B = 2"):
        cascade_decode(*given)
