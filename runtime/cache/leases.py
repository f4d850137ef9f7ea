"""Prefixes that programs hold between their requests.

A lease names a token sequence by (owner, id): the owner is a connection, the id its choice. The table keeps the
node of each lease locked, so that its pages stay, and its tokens, so that they can be computed again when the
lock had to be broken. It knows nothing of requests or tensors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from latticework.lang.errors import InvalidArgument
from latticework.runtime.cache.radix import Node, RadixTree

Owner = bytes | str


@dataclass(slots=True)
class Lease:
    """What a later request continues from. `carry`: bytes after the tokens, not yet encoded. node None: broken.

    covered: how many of the tokens have their KV kept; the last ones drawn were never computed."""

    tokens: list[int]
    carry: bytes
    namespace: str
    node: Node | None
    covered: int

    @property
    def is_broken(self) -> bool:
        return self.node is None


class LeaseTable:
    """Owner of one lock in the tree per unbroken lease.

    broken: how many leases were ever broken.
    """

    def __init__(self, tree: RadixTree) -> None:
        self._tree = tree
        self._leases: dict[Owner, dict[int, Lease]] = {}
        self._recency: dict[tuple[Owner, int], Lease] = {}  # the unbroken ones, idlest first
        self.broken = 0

    def __len__(self) -> int:
        return sum(map(len, self._leases.values()))

    def hold(
        self,
        owner: Owner,
        lease_id: int,
        tokens: list[int],
        carry: bytes,
        namespace: str,
        node: Node | None,
        covered: int | None = None,
    ) -> Lease:
        """Locks `node`, which covers the first `covered` tokens (None: all), under this id. Without a node nothing
        has KV, and the lease is as good as broken. An id that is in use is released first."""
        if node is not None:
            self._tree.lock(node)  # before the release: both may name the same pages
        self.release(owner, (lease_id,))
        lease = Lease(list(tokens), carry, namespace, node, len(tokens) if covered is None else covered)
        self._leases.setdefault(owner, {})[lease_id] = lease
        if node is not None:
            self._recency[owner, lease_id] = lease
        return lease

    def fill(self, owner: Owner, lease_id: int, lease: Lease, node: Node, covered: int) -> None:
        """Locks `node`, which covers the first `covered` tokens of a lease that was held without one. Ignored if it is
        held no more."""
        if self._leases.get(owner, {}).get(lease_id) is not lease:
            return
        assert lease.is_broken
        self._tree.lock(node)
        lease.node, lease.covered = node, covered
        self._recency[owner, lease_id] = lease

    def get(self, owner: Owner, lease_id: int) -> Lease:
        """The lease, which becomes the most recently used. Raises InvalidArgument if there is none."""
        lease = self._leases.get(owner, {}).get(lease_id)
        if lease is None:
            raise InvalidArgument(
                f"lease {lease_id} is not held",
                field="parent_lease",
                hint="a lease ends when it is released or its connection is lost",
            )
        self.touch(owner, lease_id)
        return lease

    def touch(self, owner: Owner, lease_id: int) -> None:
        """Makes the lease the last to be broken. Ignored if it is not held or broken already."""
        lease = self._recency.pop((owner, lease_id), None)
        if lease is not None:
            self._recency[owner, lease_id] = lease

    def release(self, owner: Owner, ids: Iterable[int]) -> None:
        """Ends leases. Ids not held are ignored."""
        held = self._leases.get(owner, {})
        for lease_id in ids:
            lease = held.pop(lease_id, None)
            if lease is not None and lease.node is not None:
                del self._recency[owner, lease_id]
                self._tree.unlock(lease.node)
        if not held:
            self._leases.pop(owner, None)

    def release_all(self, owner: Owner) -> None:
        """Ends every lease of an owner."""
        self.release(owner, list(self._leases.get(owner, {})))

    def break_idlest(self) -> bool:
        """Unlocks the least recently used lease, so that its pages may be evicted; False if none is left."""
        if not self._recency:
            return False
        key = next(iter(self._recency))
        lease = self._recency.pop(key)
        assert lease.node is not None
        self._tree.unlock(lease.node)
        lease.node = None
        self.broken += 1
        return True

    def check(self) -> None:
        """Proves that every unbroken lease still has the KV of its tokens."""
        unbroken = {
            (owner, lease_id)
            for owner, held in self._leases.items()
            for lease_id, lease in held.items()
            if not lease.is_broken
        }
        assert unbroken == set(self._recency)
        assert all(self._leases.values()), "an owner without leases"
        for lease in self._recency.values():
            assert lease.node is not None
            assert lease.node.locks > 0
            assert self._tree.peek(lease.tokens[: lease.covered], lease.namespace) == lease.covered
