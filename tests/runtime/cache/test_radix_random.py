"""Random operations on tree, pool and leases against a plain dictionary, `check()` after each.

The dictionary is the memory itself: page -> the (namespace, prefix) whose last tokens its slots hold. Whatever the
tree hands out must hold what it claims.
"""

import random

import pytest

from latticework.runtime.cache.leases import LeaseTable
from latticework.runtime.cache.pages import PagePool
from latticework.runtime.cache.radix import Node, RadixTree

Prefix = tuple[str, tuple[int, ...]]


class Walk:
    def __init__(self, seed: int, page_size: int, pages: int) -> None:
        self.random = random.Random(seed)
        self.size = page_size
        self.pool = PagePool(pages, page_size)
        self.tree = RadixTree(self.pool)
        self.leases = LeaseTable(self.tree)
        self.memory: dict[tuple[int, int], Prefix] = {}  # (page, slot) -> everything up to the token written there
        self.inserted: set[Prefix] = set()  # every prefix that was ever offered
        self.running: list[tuple[Prefix, list[int], Node]] = []  # tokens, own pages, locked node
        self.locked: list[tuple[Prefix, Node]] = []
        self.has_evicted = False

    def prefix(self) -> Prefix:
        """Short alphabets, so that prefixes are shared."""
        length = self.random.randrange(1, 6 * self.size)
        tokens = tuple(self.random.choice((0, 0, 0, 1, 2, 1 << 31)) for _ in range(length))
        return self.random.choice(("", "", "tenant")), tokens

    def write(self, pages: list[int], prefix: Prefix, first: int) -> None:
        """Computes the KV of tokens `first`.. as a model would."""
        name, tokens = prefix
        for at in range(first, len(tokens)):
            self.memory[pages[at // self.size], at % self.size] = (name, tokens[: at + 1])

    def verify(self, pages: list[int], prefix: Prefix, count: int) -> None:
        name, tokens = prefix
        for at in range(count):
            assert self.memory[pages[at // self.size], at % self.size] == (name, tokens[: at + 1])

    def room(self, count: int) -> bool:
        if self.pool.free_count < count:
            self.has_evicted = True
            self.tree.evict(count - self.pool.free_count)
        return self.pool.free_count >= count

    def start(self) -> None:
        """Match, lock, copy the partial page, compute the rest."""
        prefix = self.prefix()
        name, tokens = prefix
        peeked = self.tree.peek(tokens, name)
        match = self.tree.match(tokens, name)
        assert match.length == len(match.pages) * self.size
        assert peeked == match.length + match.partial
        longest = max((n for n in range(len(tokens) + 1) if (name, tokens[:n]) in self.inserted), default=0)
        assert peeked <= longest
        assert peeked == longest or self.has_evicted
        self.verify(match.pages, prefix, match.length)
        self.tree.lock(match.node)
        if match.partial_node is not None:
            self.tree.lock(match.partial_node)
        wanted = -(-len(tokens) // self.size) - len(match.pages)
        fits = self.room(wanted)
        own = self.pool.allocate(wanted) if fits else []
        if match.partial_node is not None and match.partial_page is not None:
            for slot in range(match.partial if fits else 0):
                assert self.memory[match.partial_page, slot] == (name, tokens[: match.length + slot + 1])
                self.memory[own[0], slot] = self.memory[match.partial_page, slot]
            self.tree.unlock(match.partial_node)
        if not fits:
            self.tree.unlock(match.node)
            return
        self.write([*match.pages, *own], prefix, peeked)
        self.running.append((prefix, [*match.pages, *own], match.node))

    def finish(self) -> None:
        """Offers a sequence's pages; a lease or lock may stay."""
        if not self.running:
            return
        (name, tokens), pages, node = self.running.pop(self.random.randrange(len(self.running)))
        inserted = self.tree.insert(tokens, pages, name)
        self.inserted |= {(name, tokens[:n]) for n in range(1, len(tokens) + 1)}
        self.pool.free(inserted.duplicates)
        self.verify(inserted.pages, (name, tokens), len(tokens))
        assert self.tree.peek(tokens, name) == len(tokens)
        choice = self.random.random()
        if choice < 0.2:
            self.tree.lock(inserted.node)
            self.locked.append(((name, tokens), inserted.node))
        elif choice < 0.6:
            owner = self.random.choice(("a", b"b"))
            self.leases.hold(owner, self.random.randrange(4), list(tokens), b"", name, inserted.node)
        self.tree.unlock(node)

    def share(self) -> None:
        """A sequence that goes on offers its whole pages, so that others find them at once."""
        if not self.running:
            return
        (name, tokens), pages, node = self.running.pop(self.random.randrange(len(self.running)))
        whole = len(tokens) // self.size
        offered = tokens[: whole * self.size]
        inserted = self.tree.insert(offered, pages[:whole], name)
        self.inserted |= {(name, offered[:n]) for n in range(1, len(offered) + 1)}
        self.tree.lock(inserted.node)
        self.tree.unlock(node)
        self.pool.free(inserted.duplicates)
        self.running.append(((name, tokens), inserted.pages + pages[whole:], inserted.node))

    def abandon(self) -> None:
        """A cancelled sequence frees its own pages."""
        if self.running:
            _, pages, node = self.running.pop(self.random.randrange(len(self.running)))
            self.pool.free(self.own_pages(pages, node))
            self.tree.unlock(node)

    def unlock(self) -> None:
        if self.locked:
            _, node = self.locked.pop(self.random.randrange(len(self.locked)))
            self.tree.unlock(node)

    def release(self) -> None:
        owner = self.random.choice(("a", b"b"))
        choice = self.random.random()
        if choice < 0.5:
            self.leases.release(owner, (self.random.randrange(4), 99))
        elif choice < 0.9:
            self.leases.break_idlest()
        else:
            self.leases.release_all(owner)

    def evict(self) -> None:
        self.has_evicted = True
        wanted, possible = self.random.randrange(8), self.tree.evictable_count
        assert self.tree.evict(wanted) == min(wanted, possible)

    def flush(self) -> None:
        self.has_evicted = True
        possible = self.tree.evictable_count
        assert self.tree.flush() == possible
        assert self.tree.evictable_count == 0

    @staticmethod
    def own_pages(pages: list[int], node: Node) -> list[int]:
        tree_pages: set[int] = set()
        step: Node | None = node
        while step is not None:
            tree_pages |= set(step.pages)
            step = step.parent
        return [page for page in pages if page not in tree_pages]

    def check(self) -> None:
        held = [page for _, pages, node in self.running for page in self.own_pages(pages, node)]
        self.tree.check(held)
        self.leases.check()
        for (name, tokens), _ in self.locked:
            assert self.tree.peek(tokens, name) == len(tokens), "a locked prefix is gone"
        for prefix, pages, _ in self.running:
            self.verify(pages, prefix, len(prefix[1]))

    def step(self, evicting: bool = True) -> None:
        weights = {
            self.start: 30,
            self.finish: 20,
            self.share: 8,
            self.abandon: 4,
            self.unlock: 8,
            self.release: 10,
            self.evict: 12 * evicting,
            self.flush: 1 * evicting,
        }
        (operation,) = self.random.choices(list(weights), list(weights.values()))
        operation()
        self.check()

    def end(self) -> None:
        while self.running:
            self.abandon()
        while self.locked:
            self.unlock()
        for owner in ("a", b"b"):
            self.leases.release_all(owner)
        self.check()
        self.tree.flush()
        assert self.pool.free_count == self.pool.total


@pytest.mark.parametrize("page_size", [1, 3, 16])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_thousand_random_operations_keep_every_invariant(page_size: int, seed: int) -> None:
    walk = Walk(seed, page_size, pages=48)
    for _ in range(1000):
        walk.step()
    walk.end()


@pytest.mark.parametrize("page_size", [1, 3, 16])
def test_without_eviction_every_prefix_ever_inserted_is_found_in_full(page_size: int) -> None:
    walk = Walk(3, page_size, pages=2000)
    for _ in range(300):
        walk.step(evicting=False)
    assert not walk.has_evicted
    walk.end()
