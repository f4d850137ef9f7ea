"""The prefix cache: which token sequences have their KV in which pages.

A radix tree over token ids whose edges are whole pages, compared token by token (no hash to collide). It knows
pages as numbers and who holds them; it knows no tensors, requests or clock time. After SGLang's RadixAttention
(Zheng et al. 2024), with page edges, exact partial pages and a lazy eviction heap.

    page size 4            root ""                              one root per namespace
                             │
                  [the cat sat on]            page 7            a node: tokens, and one page per `page_size` of them
                  ┌──────────┴───────────┐
       [a mat . He│purred]  3, 9    [a mat and]  5              siblings differ within their first page; a leaf's last
                                                                page may be partly filled

    who owns a page        free list  ──allocate──▶  a sequence  ──insert──▶  tree  ──evict──▶  free list
                                      ◀────free────              ◀─duplicates─
"""

from __future__ import annotations

import heapq
import sys
from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from latticework.runtime.cache.pages import PagePool

_ID_BYTES = 4


class Node:
    """One edge of the tree and what hangs below it. Owned by its `RadixTree`; others only pass it back."""

    __slots__ = ("children", "data", "locks", "namespace", "order", "pages", "parent", "queued", "used")

    def __init__(self, parent: Node | None, data: bytes, pages: list[int], used: int, namespace: str = "") -> None:
        self.parent = parent
        self.namespace = namespace  # of a root
        self.data = data  # token ids as big-endian uint32: slices compare at C speed, and sort like the ids
        self.pages = pages
        self.children: dict[bytes, Node] = {}  # by the tokens of the child's first page
        self.order: list[bytes] = []  # the keys of `children`, sorted: neighbours share the longest prefixes
        self.locks = 0  # locks on this node and on everything below
        self.used = used
        self.queued = False  # has its one entry in the eviction heap


@dataclass(frozen=True, slots=True)
class Match:
    """The longest cached prefix. Lock `node` to keep `pages`.

    pages: whole pages, for the first `length` tokens. partial_page holds the `partial` tokens after those (fewer
    than a page) and more that do not match: copy them into a page of your own before anything else is allocated,
    or lock `partial_node` until then.
    """

    node: Node
    pages: list[int]
    length: int
    partial_page: int | None = None
    partial: int = 0
    partial_node: Node | None = None


@dataclass(frozen=True, slots=True)
class Inserted:
    """What became of the pages that were offered.

    node: the deepest node covering the tokens; lock it to keep them. pages: the tree's own page in each place.
    duplicates: offered pages that the tree did not take; still the caller's, to be freed.
    """

    node: Node
    pages: list[int]
    duplicates: list[int]


class RadixTree:
    """Owner of every page that holds a cached prefix and of no other."""

    def __init__(self, pool: PagePool) -> None:
        self.pool = pool
        self.page_size = pool.page_size
        self.cached_pages = 0
        self._locked_pages = 0
        self._width = pool.page_size * _ID_BYTES  # bytes of a whole page in Node.data
        self._roots: dict[str, Node] = {}
        self._clock = 0
        self._heap: list[tuple[int, int, Node]] = []  # (used when queued, tie break, leaf)
        self._serial = 0

    @property
    def evictable_count(self) -> int:
        """Pages that `evict` could free now."""
        return self.cached_pages - self._locked_pages

    # ------------------------------------------------------------ finding

    def match(self, tokens: Sequence[int], namespace: str = "") -> Match:
        """The longest cached prefix of `tokens`, which becomes the most recently used.

        A model needs at least one token to compute: leave the last one out of `tokens` if its logits are wanted.
        """
        root = self._roots.get(namespace)
        if root is None:
            return Match(Node(None, b"", [], 0), [], 0)
        node, near, partial = self._descend(root, _encode(tokens))
        self._touch(near or node)
        pages = _path_pages(node)
        length = len(pages) * self.page_size
        if near is None:
            return Match(node, pages, length)
        return Match(node, pages, length, near.pages[0], partial, near)

    def peek(self, tokens: Sequence[int], namespace: str = "") -> int:
        """How many tokens `match` would find, partial page included; changes nothing."""
        node = self._roots.get(namespace)
        if node is None:
            return 0
        data, at = _encode(tokens), 0
        while True:
            child = node.children.get(data[at : at + self._width])
            if child is None or len(data) - at < self._width:
                _, common = self._nearest(node, data[at : at + self._width])
                return at // _ID_BYTES + common
            common = _common(child.data, data[at : at + len(child.data)])
            at += common * _ID_BYTES
            if common < len(child.pages) * self.page_size:
                return at // _ID_BYTES
            node = child

    def _descend(self, root: Node, data: bytes) -> tuple[Node, Node | None, int]:
        """(node, near, partial): `node` ends where the whole matching pages end, splitting an edge if need be;
        `near` is its child whose first page has the most further tokens in common, `partial` of them (> 0)."""
        node, at = root, 0
        while True:
            page = data[at : at + self._width]
            child = node.children.get(page) if len(page) == self._width else None
            if child is None:
                near, partial = self._nearest(node, page)
                return node, near, partial
            common = _common(child.data, data[at : at + len(child.data)])
            whole = common // self.page_size
            if whole < len(child.pages):
                node = self._split(child, whole)
                partial = common - whole * self.page_size
                return node, child if partial else None, partial
            node = child
            at += len(child.data)

    def _nearest(self, node: Node, page: bytes) -> tuple[Node | None, int]:
        """The child whose first page shares the most tokens with `page`, and how many (None, 0 if none do).

        Among sorted keys the longest common prefix is next to the place where `page` would go."""
        place = bisect_left(node.order, page)
        best, most = None, 0
        for key in node.order[max(0, place - 1) : place + 1]:
            common = _common(key, page)
            if common > most:
                best, most = node.children[key], common
        return best, most

    # ------------------------------------------------------------ growing

    def insert(self, tokens: Sequence[int], pages: list[int], namespace: str = "") -> Inserted:
        """Offers the pages of a sequence: page i holds the tokens from i * page_size, the last may be partly filled.

        The first pages may be the tree's own (the same ids). Pages that are taken are the tree's from here on and
        must not be written to any more. A partial page that nobody holds gives way to a fuller one.
        """
        assert len(pages) == -(-len(tokens) // self.page_size), (len(pages), len(tokens))
        root = self._roots.get(namespace)
        if root is None:
            root = Node(None, b"", [], 0, namespace)
            if pages:
                self._roots[namespace] = root
        data = _encode(tokens)
        node, near, partial = self._descend(root, data)
        own = _path_pages(node)
        rest, left = data[len(own) * self._width :], pages[len(own) :]
        if left:
            node = self._grow(node, near, partial, rest, left)
            own += node.pages
        self._touch(node)
        assert len(own) == len(pages)
        return Inserted(node, own, [page for page, mine in zip(pages, own, strict=True) if page != mine])

    def _grow(self, node: Node, near: Node | None, partial: int, rest: bytes, left: list[int]) -> Node:
        """Puts what is left of a sequence below `node`; returns the node that covers it."""
        offered = min(len(rest), self._width) // _ID_BYTES
        if near is not None and partial == offered:
            return self._split(near, 1) if len(near.pages) > 1 else near
        if near is not None and partial == len(near.data) // _ID_BYTES and near.locks == 0:
            self._detach(near)  # a leaf of one partial page, and the offered one is fuller
            assert near.pages[0] != left[0], f"page {left[0]} was written to after the tree had taken it"
            self.pool.free(near.pages)
            self.cached_pages += len(left) - 1
            near.data, near.pages = rest, list(left)
            self._attach(node, near)
            return near
        child = Node(node, rest, list(left), self._clock)
        self.cached_pages += len(left)
        self._attach(node, child)
        self._queue(child)
        return child

    def _attach(self, parent: Node, child: Node) -> None:
        key = child.data[: self._width]
        assert key not in parent.children
        child.parent = parent
        parent.children[key] = child
        insort(parent.order, key)

    def _detach(self, child: Node) -> None:
        parent = child.parent
        assert parent is not None
        key = child.data[: self._width]
        del parent.children[key]
        del parent.order[bisect_left(parent.order, key)]

    def _split(self, node: Node, whole: int) -> Node:
        """Cuts an edge after `whole` pages and returns the new upper half.

        `node` stays the lower half: a lock names the deepest node of its path, so it still covers both."""
        assert node.parent is not None
        assert 0 < whole < len(node.pages)
        cut = whole * self._width
        upper = Node(node.parent, node.data[:cut], node.pages[:whole], node.used)
        upper.locks = node.locks
        node.parent.children[node.data[: self._width]] = upper  # same key: `order` stays
        node.data, node.pages = node.data[cut:], node.pages[whole:]
        self._attach(upper, node)
        return upper

    def _touch(self, node: Node | None) -> None:
        self._clock += 1
        while node is not None:
            node.used = self._clock
            node = node.parent

    # ------------------------------------------------------------ holding

    def lock(self, node: Node) -> None:
        """Keeps the pages from the root to `node`; each lock needs one `unlock`."""
        for step in _upwards(node):
            assert step.pages or step.parent is None, "the node was evicted before it was locked"
            if step.locks == 0:
                self._locked_pages += len(step.pages)
            step.locks += 1

    def unlock(self, node: Node) -> None:
        for step in _upwards(node):
            assert step.locks > 0, "unlocked more often than locked"
            step.locks -= 1
            if step.locks == 0:
                self._locked_pages -= len(step.pages)
                self._queue(step)

    # ------------------------------------------------------------ shrinking

    def evict(self, pages_wanted: int) -> int:
        """Frees up to `pages_wanted` pages, the least recently used unlocked leaf's last pages first; returns how
        many. O(log leaves) a leaf."""
        freed = 0
        while freed < pages_wanted and self._heap:
            used, _, node = heapq.heappop(self._heap)
            node.queued = False
            if not self._is_evictable(node):
                continue  # locked or with children by now; queued again when that ends
            if used == node.used:
                freed += self._trim(node, pages_wanted - freed)
            self._queue(node)  # touched since it was queued, or only trimmed
        return freed

    def flush(self) -> int:
        """Frees every page that no lock keeps; returns how many."""
        return self.evict(self.evictable_count)

    def _is_evictable(self, node: Node) -> bool:
        return node.locks == 0 and not node.children and bool(node.pages)

    def _queue(self, node: Node) -> None:
        if self._is_evictable(node) and not node.queued:
            node.queued = True
            self._serial += 1
            heapq.heappush(self._heap, (node.used, self._serial, node))

    def _trim(self, leaf: Node, wanted: int) -> int:
        """Frees the last pages of a leaf, and the leaf with its last one."""
        kept = max(0, len(leaf.pages) - wanted)
        gone = leaf.pages[kept:]
        if kept == 0:
            self._detach(leaf)
            assert leaf.parent is not None
            self._queue(leaf.parent)
        leaf.pages = leaf.pages[:kept]
        leaf.data = leaf.data[: kept * self._width]
        self.cached_pages -= len(gone)
        self.pool.free(gone)
        if kept == 0:
            self._forget_empty_root(leaf.parent)
        return len(gone)

    def _forget_empty_root(self, node: Node | None) -> None:
        if node is not None and node.parent is None and not node.children and node.locks == 0:
            del self._roots[node.namespace]

    # ------------------------------------------------------------ proof

    def check(self, held: Iterable[int] = ()) -> None:
        """Proves that every page has one owner (free list, tree or `held`) and that the tree is well formed."""
        owner: dict[int, str] = {}
        cached = locked = 0
        for root in self._roots.values():
            assert root.parent is None
            assert not root.pages
            for node in _below(root):
                self._check_node(node, is_root=node is root)
                cached += len(node.pages)
                locked += len(node.pages) if node.locks else 0
                for page in node.pages:
                    assert page not in owner, f"page {page} is in the tree twice"
                    owner[page] = "tree"
        assert (cached, locked) == (self.cached_pages, self._locked_pages)
        for page in held:
            assert page not in owner, f"page {page} is held and belongs to {owner[page]}"
            owner[page] = "a holder"
        free = 0
        for page in range(self.pool.total):
            if self.pool.is_free(page):
                assert page not in owner, f"page {page} is free and belongs to {owner[page]}"
                free += 1
            else:
                assert page in owner, f"page {page} has no owner"
        assert free == self.pool.free_count
        assert free + len(owner) == self.pool.total

    def _check_node(self, node: Node, is_root: bool) -> None:
        tokens = len(node.data) // _ID_BYTES
        assert is_root or node.pages, "a node without pages"
        assert len(node.pages) == -(-tokens // self.page_size)
        assert not node.children or tokens % self.page_size == 0, "children below a partial page"
        assert node.order == sorted(node.children)
        assert node.locks >= sum(child.locks for child in node.children.values())
        assert not self._is_evictable(node) or node.queued, "a leaf that eviction would never see"
        for key, child in node.children.items():
            assert child.parent is node
            assert key == child.data[: self._width]  # so no two share a whole page
            assert child.used <= node.used


def _encode(tokens: Sequence[int]) -> bytes:
    ids = array("I", tokens)
    assert ids.itemsize == _ID_BYTES
    if sys.byteorder == "little":
        ids.byteswap()  # big-endian, so that bytes sort like ids
    return ids.tobytes()


def _common(a: bytes, b: bytes) -> int:
    """Number of leading tokens that are equal: a binary search over memory comparisons."""
    low, high = 0, min(len(a), len(b)) // _ID_BYTES
    if a[: high * _ID_BYTES] == b[: high * _ID_BYTES]:
        return high
    while high - low > 1:  # the first `low` tokens are equal, the first `high` are not
        middle = (low + high) // 2
        if a[low * _ID_BYTES : middle * _ID_BYTES] == b[low * _ID_BYTES : middle * _ID_BYTES]:
            low = middle
        else:
            high = middle
    return low


def _upwards(node: Node | None) -> Iterator[Node]:
    while node is not None:
        yield node
        node = node.parent


def _below(root: Node) -> Iterator[Node]:
    stack = [root]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(node.children.values())


def _path_pages(node: Node) -> list[int]:
    pages: list[int] = []
    for step in reversed(list(_upwards(node))):
        pages += step.pages
    return pages
