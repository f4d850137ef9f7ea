"""Sequences with the same first pages are found from the page table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latticework.runtime.attention.shared import saved_tokens, shared_prefixes

PAGE = 4


def table_of(*rows: list[int]) -> NDArray[np.int32]:
    wide = max(map(len, rows))
    return np.array([row + [0] * (wide - len(row)) for row in rows], dtype=np.int32)


def test_one_group_shares_what_all_its_members_share() -> None:
    table = table_of([3, 1, 4, 7], [3, 1, 4, 8], [9], [3, 1, 4, 5, 2])
    assert shared_prefixes(table, np.array([13, 16, 4, 17]), PAGE) == [([0, 1, 3], 12)]


def test_parts_are_taken_where_they_save_more_than_the_whole() -> None:
    table = table_of([1, 2, 3, 4, 10], [1, 2, 3, 4, 11], [1, 5, 6, 7, 12], [1, 5, 6, 7, 13])
    groups = shared_prefixes(table, np.array([20] * 4), PAGE)
    assert groups == [([0, 1], 16), ([2, 3], 16)]
    assert saved_tokens(groups) == 32 > 3 * PAGE


def test_the_page_with_the_last_token_is_never_shared() -> None:
    """Members have more tokens than they share, and pages after a sequence's end say nothing."""
    table = table_of([1, 2, 0], [1, 2, 0], [1, 2, 3])
    assert shared_prefixes(table, np.array([8, 9, 12]), PAGE) == [([0, 1, 2], 4)]
    assert shared_prefixes(table[:1], np.array([8]), PAGE) == []
    assert shared_prefixes(table[:0], np.array([], dtype=np.int64), PAGE) == []


def test_prefixes_shorter_than_a_unit_save_nothing() -> None:
    table = table_of([1, 2, 3], [1, 2, 4])
    assert shared_prefixes(table, np.array([9, 9]), PAGE, unit=16) == []
    assert shared_prefixes(table, np.array([9, 9]), PAGE, unit=8) == [([0, 1], 8)]


def test_groups_save_no_less_than_any_one_prefix_would() -> None:
    random = np.random.default_rng(1)
    for _ in range(200):
        steps = random.integers(1, 3, (6, 5)).cumsum(axis=1)
        table = (steps * 3 + np.arange(5)).astype(np.int32)
        lengths = random.integers(1, 5 * PAGE + 1, 6)
        groups = shared_prefixes(table, lengths, PAGE)
        everyone = [member for members, _ in groups for member in members]
        assert len(everyone) == len(set(everyone))
        for members, tokens in groups:
            pages = tokens // PAGE
            assert len(members) > 1
            assert (table[members, :pages] == table[members[0], :pages]).all()
            assert (lengths[members] > tokens).all()
        for first in range(6):
            for pages in range(1, 5):
                alike = [
                    b
                    for b in range(6)
                    if lengths[b] > pages * PAGE and (table[b, :pages] == table[first, :pages]).all()
                ]
                assert saved_tokens(groups) >= (len(alike) - 1) * pages * PAGE
