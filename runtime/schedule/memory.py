"""The KV pages of sequences: taken from the pool, found in the tree, given back.

Decides what a sequence may read and write; when and for whom is the scheduler's business. A page that the tree
owns is never written to: a sequence that has to go back into one drops it and computes the page again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from latticework.runtime.cache.leases import LeaseTable
from latticework.runtime.cache.pages import PagePool
from latticework.runtime.cache.radix import Node, RadixTree
from latticework.runtime.schedule.policy import common_prefix
from latticework.runtime.schedule.sequence import Scoring, Selection, Sequence

CopyTokens = Callable[[int, int, int], None]
"""(source page, target page, count): copies the KV of the first `count` tokens."""


class Memory:
    """Owner of every page that is neither free nor the tree's, on behalf of the sequences that run."""

    def __init__(self, pool: PagePool, tree: RadixTree, leases: LeaseTable, copy: CopyTokens, cache: bool) -> None:
        self.pool = pool
        self.tree = tree
        self.leases = leases
        self.page_size = pool.page_size
        self._copy = copy
        self._cache = cache

    @property
    def available(self) -> int:
        """Pages that can be had without breaking a lease or stopping a sequence."""
        return self.pool.free_count + self.tree.evictable_count

    @property
    def caches(self) -> bool:
        """Prefixes are kept for others to use."""
        return self._cache

    def pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    # ------------------------------------------------------------ sequences

    def cached(self, sequence: Sequence) -> int:
        """How many tokens `attach` would find."""
        return self.tree.peek(self._findable(sequence), sequence.request.space) if self._cache else 0

    def about_to_cache(self, sequence: Sequence, prefilling: Iterable[Sequence]) -> int:
        """How many tokens of a sequence the given others will publish when their prompts are computed."""
        if not self._cache:
            return 0
        findable = self._findable(sequence)
        shared = (
            common_prefix(findable, other.tokens)
            for other in prefilling
            if other.request.space == sequence.request.space
        )
        return max(shared, default=0) // self.page_size * self.page_size

    def attach(self, sequence: Sequence) -> None:
        """Gives a waiting sequence the KV that the tree has of it."""
        assert not sequence.pages
        assert sequence.node is None
        if not self._cache:
            return
        match = self.tree.match(self._findable(sequence), sequence.request.space)
        self.tree.lock(match.node)
        sequence.node = match.node
        sequence.pages = list(match.pages)
        sequence.shared = len(match.pages)
        sequence.computed = match.length
        if match.partial_page is None or match.partial_node is None:
            return
        self.tree.lock(match.partial_node)
        try:
            self._evict_for(1)
            if self.pool.free_count:  # otherwise those few tokens are computed again
                sequence.pages += self.pool.allocate(1)
                self._copy(match.partial_page, sequence.pages[-1], match.partial)
                sequence.computed += match.partial
        finally:
            self.tree.unlock(match.partial_node)

    def reserve(self, sequence: Sequence, length: int) -> None:
        """Pages for the first `length` tokens; evicts and breaks leases as needed. Raises OutOfPages."""
        sequence.pages += self._allocate(self.pages_for(length) - len(sequence.pages))

    def reserve_spare(self, sequence: Sequence, length: int, kept: int) -> bool:
        """Pages for the first `length` tokens if so many can be had without breaking a lease, and `kept` more are left
        to be had then; False and no change if not."""
        wanted = self.pages_for(length) - len(sequence.pages)
        if wanted > 0:
            if wanted + kept > self.available:
                return False
            sequence.pages += self._allocate(wanted)
        return True

    def publish(self, sequence: Sequence) -> None:
        """Lets others share the whole pages computed so far."""
        whole = sequence.computed // self.page_size
        if not self._cache or whole <= sequence.shared:
            return
        inserted = self.tree.insert(
            sequence.tokens[: whole * self.page_size], sequence.pages[:whole], sequence.request.space
        )
        self.pool.free(inserted.duplicates)
        sequence.pages[:whole] = inserted.pages
        sequence.shared = whole
        self._lock_instead(sequence, inserted.node)

    def truncate(self, sequence: Sequence, length: int) -> None:
        """Drops the KV of every token from `length` on, and of a page of the tree that would be cut."""
        pages = sequence.pages
        boundary = sequence.shared
        sequence.computed = min(sequence.computed, length)
        if sequence.computed < boundary * self.page_size:
            sequence.shared = sequence.computed // self.page_size
            sequence.computed = sequence.shared * self.page_size
        kept = self.pages_for(sequence.computed)
        self.pool.free(pages[max(kept, boundary) :])
        del pages[kept:]
        if sequence.shared < boundary:
            prefix = sequence.tokens[: sequence.computed]
            self._lock_instead(sequence, self.tree.match(prefix, sequence.request.space).node)

    def detach(self, sequence: Sequence, keep: bool) -> Node | None:
        """Takes everything from a sequence. With `keep` its KV goes to the tree, unlocked: returns the node that
        covers it, to be locked at once or left to eviction."""
        self.drop_options(sequence.selection)
        node = None
        used = self.pages_for(sequence.computed)
        own = sequence.pages[sequence.shared :]
        if keep and self._cache and used:
            inserted = self.tree.insert(
                sequence.tokens[: sequence.computed], sequence.pages[:used], sequence.request.space
            )
            node = inserted.node
            own = inserted.duplicates + sequence.pages[max(used, sequence.shared) :]
        self.pool.free(own)
        if sequence.node is not None:
            self.tree.unlock(sequence.node)
        sequence.pages = []
        sequence.shared = sequence.computed = 0
        sequence.node = None
        return node

    def _findable(self, sequence: Sequence) -> list[int]:
        """The tokens whose KV is of use: logits are never stored, so their tokens are computed again."""
        return sequence.tokens[: sequence.first_logits]

    def _lock_instead(self, sequence: Sequence, node: Node) -> None:
        self.tree.lock(node)
        if sequence.node is not None:
            self.tree.unlock(sequence.node)
        sequence.node = node

    # ------------------------------------------------------------ options of a select

    def reserve_option(self, sequence: Sequence, scoring: Scoring, count: int) -> None:
        """Pages for `count` more tokens of an option. Raises OutOfPages."""
        assert sequence.selection is not None
        whole, partial = divmod(sequence.selection.base, self.page_size)
        wanted = self.pages_for(partial + scoring.computed + count) - len(scoring.pages)
        is_new = not scoring.pages
        scoring.pages += self._allocate(wanted)
        if is_new and partial:
            self._copy(sequence.pages[whole], scoring.pages[0], partial)

    def option_pages(self, sequence: Sequence, scoring: Scoring) -> list[int]:
        """The page table of an option: what it shares with the sequence, then its own."""
        assert sequence.selection is not None
        return sequence.pages[: sequence.selection.base // self.page_size] + scoring.pages

    def drop_option(self, scoring: Scoring) -> None:
        """Frees an option's pages. Scores stay if they are complete, else the option starts again."""
        self.pool.free(scoring.pages)
        scoring.pages = []
        if scoring.unscored:
            del scoring.logprobs[1:]

    def drop_options(self, selection: Selection | None) -> None:
        for scoring in selection.options if selection is not None else ():
            self.drop_option(scoring)

    def adopt_option(self, sequence: Sequence, scoring: Scoring) -> None:
        """Makes an option's KV, if it still has any, the sequence's own."""
        assert sequence.selection is not None
        if not scoring.pages:
            return
        whole = sequence.selection.base // self.page_size
        assert whole >= sequence.shared
        self.pool.free(sequence.pages[whole:])
        sequence.computed = sequence.selection.base + scoring.computed
        sequence.pages[whole:] = scoring.pages
        scoring.pages = []

    # ------------------------------------------------------------ pages

    def _allocate(self, count: int) -> list[int]:
        count = max(0, count)
        self._evict_for(count)
        while self.pool.free_count < count and self.leases.break_idlest():
            self._evict_for(count)
        return self.pool.allocate(count)

    def _evict_for(self, count: int) -> None:
        if self.pool.free_count < count:
            self.tree.evict(count - self.pool.free_count)

    def check(self, sequences: Iterable[Sequence]) -> None:
        """Proves that every page has exactly one owner."""
        held: list[int] = []
        for sequence in sequences:
            assert sequence.running or not sequence.pages, "a waiting sequence holds pages"
            assert len(sequence.pages) >= self.pages_for(sequence.computed)
            assert sequence.computed <= sequence.first_logits, "logits that are still wanted were passed by"
            held += sequence.pages[sequence.shared :]
            for scoring in sequence.selection.options if sequence.selection is not None else ():
                held += scoring.pages
        self.tree.check(held)
        self.leases.check()
