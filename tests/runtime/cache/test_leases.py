"""Leases: held prefixes, released at most once, broken when pages are short."""

import pytest

from latticework.lang.errors import InvalidArgument
from latticework.runtime.cache.leases import LeaseTable
from latticework.runtime.cache.pages import PagePool
from latticework.runtime.cache.radix import Node, RadixTree


class Bench:
    def __init__(self) -> None:
        self.pool = PagePool(16, 4)
        self.tree = RadixTree(self.pool)
        self.leases = LeaseTable(self.tree)

    def cached(self, tokens: list[int]) -> Node:
        return self.tree.insert(tokens, self.pool.allocate(-(-len(tokens) // 4))).node

    def hold(self, owner: bytes | str, lease_id: int, tokens: list[int]) -> None:
        self.leases.hold(owner, lease_id, tokens, b"", "", self.cached(tokens))
        self.leases.check()


def test_a_lease_keeps_its_pages_until_it_is_released() -> None:
    bench = Bench()
    bench.hold("a", 1, [1, 2, 3, 4, 5])
    assert bench.tree.flush() == 0
    bench.leases.release("a", [1])
    bench.leases.release("a", [1, 7])
    bench.leases.release("nobody", [1])
    assert bench.tree.flush() == 2
    assert len(bench.leases) == 0


def test_a_lease_remembers_tokens_carry_and_namespace() -> None:
    bench = Bench()
    node = bench.cached([1, 2])
    bench.leases.hold(b"\x00conn", 9, [1, 2], b"\xe2\x82", "", node)
    lease = bench.leases.get(b"\x00conn", 9)
    assert (lease.tokens, lease.carry, lease.namespace, lease.is_broken) == ([1, 2], b"\xe2\x82", "", False)


def test_ids_are_scoped_to_their_owner() -> None:
    bench = Bench()
    bench.hold("a", 1, [1])
    with pytest.raises(InvalidArgument, match="lease 1 is not held") as caught:
        bench.leases.get("b", 1)
    assert caught.value.field == "parent_lease"
    bench.leases.release("b", [1])
    assert bench.leases.get("a", 1).tokens == [1]


def test_holding_an_id_again_replaces_it() -> None:
    bench = Bench()
    bench.hold("a", 1, [1, 2, 3, 4])
    bench.hold("a", 1, [5, 6, 7, 8])
    assert len(bench.leases) == 1
    assert bench.tree.flush() == 1
    assert bench.tree.peek([5, 6, 7, 8]) == 4


def test_the_idlest_lease_is_broken_first_and_keeps_its_tokens() -> None:
    bench = Bench()
    for lease_id in (1, 2, 3):
        bench.hold("a", lease_id, [lease_id] * 4)
    bench.leases.touch("a", 1)
    bench.leases.get("a", 2)
    assert bench.leases.break_idlest()
    assert bench.leases.get("a", 3).is_broken
    assert bench.leases.get("a", 3).tokens == [3] * 4
    assert bench.leases.break_idlest()
    assert bench.leases.get("a", 1).is_broken
    assert bench.leases.broken == 2
    assert bench.tree.flush() == 2
    bench.leases.check()


def test_when_every_lease_is_broken_nothing_is_left_to_break() -> None:
    bench = Bench()
    bench.hold("a", 1, [1])
    assert bench.leases.break_idlest()
    assert not bench.leases.break_idlest()
    bench.leases.release_all("a")
    assert len(bench.leases) == 0
    assert bench.leases.broken == 1


def test_losing_an_owner_releases_all_of_its_leases_and_no_other() -> None:
    bench = Bench()
    bench.hold("a", 1, [1])
    bench.hold("a", 2, [2])
    bench.hold("b", 1, [3])
    bench.leases.release_all("a")
    bench.leases.release_all("a")
    assert len(bench.leases) == 1
    assert bench.tree.flush() == 2
    bench.leases.check()


def test_a_lease_may_hold_more_tokens_than_have_kv() -> None:
    bench = Bench()
    bench.leases.hold("a", 1, [1, 2, 3, 4, 5, 6], b"", "", bench.cached([1, 2, 3, 4, 5]), covered=5)
    bench.leases.check()
    bench.leases.hold("a", 2, [7, 8], b"", "", None, covered=0)
    bench.leases.check()
    assert bench.leases.get("a", 2).is_broken
    assert bench.tree.flush() == 0
    assert bench.leases.break_idlest()
    assert not bench.leases.break_idlest()
    assert bench.leases.get("a", 1).tokens == [1, 2, 3, 4, 5, 6]
    assert bench.leases.broken == 1
