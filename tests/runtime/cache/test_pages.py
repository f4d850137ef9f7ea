"""The page pool: pages leave once and come back once."""

import pytest

from latticework.runtime.cache.pages import OutOfPages, PagePool


def test_allocated_pages_are_distinct_and_counted() -> None:
    pool = PagePool(5, 16)
    pages = pool.allocate(3)
    assert len(set(pages)) == 3
    assert (pool.free_count, pool.total) == (2, 5)
    pool.free(pages)
    assert pool.free_count == 5
    assert sorted(pool.allocate(5)) == [0, 1, 2, 3, 4]


def test_allocating_too_many_takes_nothing() -> None:
    pool = PagePool(4, 1)
    pool.allocate(2)
    with pytest.raises(OutOfPages, match="3 pages wanted, 2 of 4 free"):
        pool.allocate(3)
    assert pool.free_count == 2
    assert pool.allocate(0) == []


def test_freeing_a_page_twice_is_caught() -> None:
    pool = PagePool(4, 1)
    (page,) = pool.allocate(1)
    pool.free([page])
    with pytest.raises(AssertionError, match="freed twice"):
        pool.free([page])
