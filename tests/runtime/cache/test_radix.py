"""The prefix cache in named scenes; `test_radix_random.py` walks it at random."""

from collections.abc import Sequence

import pytest

from latticework.runtime.cache.pages import PagePool
from latticework.runtime.cache.radix import Inserted, Match, RadixTree

Tokens = Sequence[int]


class Cache:
    """A tree whose pages are filled by the calls themselves, checked after each."""

    def __init__(self, pages: int = 64, page_size: int = 4) -> None:
        self.pool = PagePool(pages, page_size)
        self.tree = RadixTree(self.pool)

    def put(self, tokens: Tokens, namespace: str = "", reuse: bool = True) -> Inserted:
        """What a finished sequence does: keep the matched pages, compute the others, offer all."""
        found = self.tree.match(tokens, namespace).pages if reuse else []
        size = self.pool.page_size
        pages = found + self.pool.allocate(-(-len(tokens) // size) - len(found))
        inserted = self.tree.insert(tokens, pages, namespace)
        self.pool.free(inserted.duplicates)
        self.tree.check()
        return inserted

    def find(self, tokens: Tokens, namespace: str = "") -> Match:
        match = self.tree.match(tokens, namespace)
        self.tree.check()
        return match

    def tokens_found(self, tokens: Tokens, namespace: str = "") -> int:
        return self.tree.peek(tokens, namespace)


def test_an_empty_tree_matches_nothing() -> None:
    cache = Cache()
    assert cache.find([1, 2, 3]).length == 0
    assert cache.find([]).pages == []
    assert cache.tree.evict(10) == 0


def test_a_prefix_is_found_in_whole_pages_and_a_partial_one() -> None:
    cache = Cache()
    inserted = cache.put(range(10))
    match = cache.find([0, 1, 2, 3, 4, 5, 99])
    assert match.pages == inserted.pages[:1]
    assert match.length == 4
    assert (match.partial_page, match.partial) == (inserted.pages[1], 2)


def test_a_query_that_ends_inside_a_page_matches_to_its_end() -> None:
    cache = Cache()
    inserted = cache.put(range(8))
    match = cache.find(range(6))
    assert (match.length, match.partial_page, match.partial) == (4, inserted.pages[1], 2)


def test_a_partly_filled_last_page_is_matched_as_far_as_it_goes() -> None:
    cache = Cache()
    inserted = cache.put(range(6))
    match = cache.find(range(20))
    assert (match.length, match.partial_page, match.partial) == (4, inserted.pages[1], 2)


def test_matching_at_a_page_boundary_needs_no_copy() -> None:
    cache = Cache()
    inserted = cache.put(range(8))
    match = cache.find([*range(8), 50, 51])
    assert (match.pages, match.length, match.partial_page, match.partial) == (inserted.pages, 8, None, 0)


def test_siblings_that_differ_inside_a_page_are_both_found() -> None:
    cache = Cache()
    left = cache.put([1, 2, 3, 4, 5, 6, 7, 8])
    right = cache.put([1, 2, 3, 4, 5, 6, 70, 80])
    assert left.pages[0] == right.pages[0]
    assert left.pages[1] != right.pages[1]
    assert cache.find([1, 2, 3, 4, 5, 6, 70, 81]).partial_page == right.pages[1]
    assert cache.find([1, 2, 3, 4, 5, 6, 70, 81]).partial == 3


def test_duplicates_are_returned_and_the_trees_pages_named() -> None:
    cache = Cache()
    first = cache.put(range(8))
    own = cache.pool.allocate(3)
    second = cache.tree.insert(range(9), own)
    assert second.duplicates == own[:2]
    assert second.pages == [*first.pages, own[2]]
    cache.tree.check(held=own[:2])


def test_a_shorter_sequence_is_a_duplicate_of_a_longer_one() -> None:
    cache = Cache()
    cache.put(range(11))
    own = cache.pool.allocate(2)
    inserted = cache.tree.insert(range(6), own)
    assert inserted.duplicates == own
    cache.tree.lock(inserted.node)
    cache.tree.check(held=own)
    assert cache.tree.evictable_count == 1, "the lock covers two pages of three"


def test_a_fuller_leaf_replaces_a_partial_one() -> None:
    cache = Cache()
    partial = cache.put(range(6))
    fuller = cache.put(range(11))
    assert fuller.pages[0] == partial.pages[0]
    assert fuller.pages[1] != partial.pages[1]
    assert cache.tree.cached_pages == 3
    assert cache.pool.is_free(partial.pages[1])


def test_a_held_partial_leaf_is_not_replaced() -> None:
    cache = Cache()
    partial = cache.put(range(6))
    cache.tree.lock(partial.node)
    cache.put(range(11))
    assert cache.tree.cached_pages == 4
    assert not cache.pool.is_free(partial.pages[1])
    assert cache.tokens_found(range(11)) == 11
    cache.tree.unlock(partial.node)
    assert cache.tree.flush() == 4


def test_writing_to_a_page_after_giving_it_away_is_caught() -> None:
    cache = Cache()
    pages = cache.put(range(6)).pages
    with pytest.raises(AssertionError, match="written to after"):
        cache.tree.insert(range(7), pages)


def test_evicting_never_frees_a_leased_page() -> None:
    cache = Cache()
    kept = cache.put([1, 2, 3, 4, 5])
    cache.put([1, 2, 3, 4, 6, 6, 6, 6, 7])
    cache.tree.lock(kept.node)
    assert cache.tree.evictable_count == 2
    assert cache.tree.evict(100) == 2
    assert cache.tokens_found([1, 2, 3, 4, 5]) == 5
    cache.tree.check()
    cache.tree.unlock(kept.node)
    assert cache.tree.evict(100) == 2
    assert cache.pool.free_count == cache.pool.total


def test_a_split_keeps_the_locks_of_both_halves() -> None:
    cache = Cache()
    long = cache.put(range(16))
    cache.tree.lock(long.node)
    short = cache.find(range(8))
    cache.tree.lock(short.node)
    assert cache.tree.evictable_count == 0
    cache.tree.unlock(long.node)
    cache.tree.check()
    assert cache.tree.evict(100) == 2
    assert cache.tokens_found(range(16)) == 8
    cache.tree.unlock(short.node)
    assert cache.tree.evict(100) == 2


def test_a_lock_on_a_match_does_not_hold_what_lies_beyond_it() -> None:
    cache = Cache()
    cache.put(range(40))
    match = cache.find(range(9))
    cache.tree.lock(match.node)
    assert cache.tree.evictable_count == 8


def test_the_page_of_a_partial_match_can_be_locked_until_it_is_copied() -> None:
    cache = Cache()
    cache.put(range(8))
    match = cache.find(range(6))
    assert match.partial_node is not None
    cache.tree.lock(match.partial_node)
    assert cache.tree.evict(100) == 0
    cache.tree.unlock(match.partial_node)
    assert cache.tree.evict(100) == 2


def test_the_least_recently_used_leaf_goes_first() -> None:
    cache = Cache()
    for start in (10, 20, 30):
        cache.put(range(start, start + 4))
    cache.find(range(10, 14))
    assert cache.tree.evict(1) == 1
    assert [cache.tokens_found(range(start, start + 4)) for start in (10, 20, 30)] == [4, 0, 4]
    assert cache.tree.evict(1) == 1
    assert [cache.tokens_found(range(start, start + 4)) for start in (10, 20, 30)] == [4, 0, 0]


def test_peeking_changes_no_recency_and_splits_nothing() -> None:
    cache = Cache()
    cache.put(range(10, 18))
    cache.put(range(20, 28))
    assert cache.tokens_found(range(10, 15)) == 5
    assert cache.tree.evict(2) == 2
    assert cache.tokens_found(range(10, 18)) == 0


def test_eviction_takes_only_as_many_pages_as_wanted_from_the_end() -> None:
    cache = Cache()
    cache.put(range(15))
    assert cache.tree.evict(1) == 1
    assert cache.tokens_found(range(15)) == 12
    cache.tree.check()
    assert cache.tree.evict(2) == 2
    assert cache.tokens_found(range(15)) == 4


def test_namespaces_share_nothing() -> None:
    cache = Cache()
    a = cache.put(range(8), "a")
    assert cache.find(range(8), "b").length == 0
    b = cache.put(range(8), "b")
    assert not set(a.pages) & set(b.pages)
    assert cache.tree.flush() == 4
    assert cache.find(range(8), "a").length == 0


def test_a_lock_on_the_root_survives_the_root() -> None:
    cache = Cache()
    match = cache.find([1, 2, 3])
    cache.tree.lock(match.node)
    cache.put([1, 2, 3, 4])
    cache.tree.flush()
    cache.tree.unlock(match.node)
    cache.tree.check()


def test_an_evicted_node_cannot_be_locked() -> None:
    cache = Cache()
    match = cache.put(range(4))
    cache.tree.flush()
    with pytest.raises(AssertionError, match="evicted before"):
        cache.tree.lock(match.node)


def test_ten_thousand_siblings_are_told_apart() -> None:
    count = 10_000
    cache = Cache(pages=count, page_size=4)
    pages = cache.pool.allocate(count)
    order = [(index * 7919) % count for index in range(count)]
    for index in order:
        cache.tree.insert([index // 100, index % 100, 7, 8], [pages[index]])
    cache.tree.check()
    for index in order[::97]:
        match = cache.tree.match([index // 100, index % 100, 7, 9])
        assert (match.partial_page, match.partial) == (pages[index], 3)
        assert cache.tree.match([index // 100, index % 100, 7, 8]).pages == [pages[index]]
    assert cache.tree.evict(count - 1) == count - 1
    cache.tree.check()


def test_check_finds_a_page_with_two_owners_and_one_with_none() -> None:
    cache = Cache()
    pages = cache.put(range(8)).pages
    with pytest.raises(AssertionError, match="is held and belongs to tree"):
        cache.tree.check(held=pages[:1])
    lost = cache.pool.allocate(1)
    with pytest.raises(AssertionError, match="has no owner"):
        cache.tree.check()
    cache.tree.check(held=lost)
