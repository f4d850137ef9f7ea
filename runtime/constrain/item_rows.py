"""Rows inside the arrays and objects of an array without repeats.

What such an item allows by itself is a row of its own language, cached whatever was written before it. Only three kinds
of tokens need the whole thread: those that begin as a copy of a taken value does, those with which no value but taken
ones is left, and those that go on after the item. They are few and are followed byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from latticework.runtime.constrain.base import Row
from latticework.runtime.constrain.clock import ENDLESS, Clock
from latticework.runtime.constrain.frames import Config, Frames, ItemThread
from latticework.runtime.constrain.item_language import ItemLanguage
from latticework.runtime.constrain.leaving import Costs, Leaving
from latticework.runtime.constrain.vocabulary import Vocabulary

_BLANKS = frozenset(b" \t\n\r")

Follow = Callable[[Config, int, Clock], Costs]
"""The tokens below a trie node that go on from a config, with their costs."""


class Cached(Protocol):
    @property
    def words(self) -> Row: ...
    @property
    def need(self) -> int: ...


class LanguageRows(Protocol):
    """What is asked of the rows of one language: see `Rows`."""

    @property
    def nbytes(self) -> int: ...
    def forget(self) -> None: ...
    def get(self, config: Config, clock: Clock = ...) -> Cached: ...
    def filtered(self, config: Config, remaining: int) -> Row: ...


class Exact:
    """What is not as the item's own language has it. costs: of tokens that stay in the item; blocked: tokens that do
    not come at all; leaving: costs of those that go on after it."""

    __slots__ = ("blocked", "costs", "leaving")

    def __init__(self) -> None:
        self.costs: Costs = {}
        self.blocked: set[int] = set()
        self.leaving: Costs = {}


class ItemRows:
    """frames: those around the items. make: the rows of an item's frames, given those of all items. follow: in the
    frames around. inner: the rows of items that are known, where these are in an item themselves."""

    def __init__(
        self,
        frames: Frames,
        vocabulary: Vocabulary,
        make: Callable[[Frames, dict[ItemLanguage, LanguageRows]], LanguageRows],
        follow: Follow,
        inner: dict[ItemLanguage, LanguageRows] | None = None,
    ) -> None:
        self._frames = frames
        self._vocabulary = vocabulary
        self._make = make
        self._follow = follow
        self._is_inner = inner is not None
        self._rows: dict[ItemLanguage, LanguageRows] = {} if inner is None else inner
        self._bridges: dict[frozenset[int], dict[int, list[tuple[int, int]]]] = {}
        self._exits: dict[Config, list[tuple[int, bytes]]] = {}

    @property
    def nbytes(self) -> int:
        rows = self._rows.values() if not self._is_inner else ()
        return sum(each.nbytes for each in rows) + 200 * len(self._exits)

    def forget(self) -> None:
        for rows in self._rows.values() if not self._is_inner else ():
            rows.forget()
        self._exits.clear()

    def get(self, thread: ItemThread, clock: Clock) -> Leaving:
        """The tokens of a thread and the most that may remain after any of them. Raises Late."""
        cached = self._of(thread.language).get(thread.config, clock)
        exact = self._exact(thread, clock)
        words = cached.words & ~self._vocabulary.end_row
        view = words.view(np.uint8)
        for token in exact.blocked:
            view[token >> 3] &= ~np.uint8(1 << (token & 7))
        found = Leaving()
        found.add_words(words, max(cached.need - 1 + thread.rest.cost, *exact.costs.values(), 0))
        found.add_costs(exact.leaving)
        return found

    def affordable(self, thread: ItemThread, remaining: int) -> NDArray[np.int32]:
        """The tokens that leave fewer than `remaining` to write."""
        words = self._of(thread.language).filtered(thread.config, remaining - thread.rest.cost)
        words = words & ~self._vocabulary.end_row
        allowed = np.unpackbits(words.view(np.uint8), bitorder="little").astype(bool)
        exact = self._exact(thread, ENDLESS)
        allowed[list(exact.blocked)] = False
        for token, cost in exact.costs.items():
            allowed[token] = cost < remaining
        for token, cost in exact.leaving.items():
            allowed[token] |= cost < remaining
        return np.flatnonzero(allowed).astype(np.int32)

    def _of(self, language: ItemLanguage) -> LanguageRows:
        found = self._rows.get(language)
        if found is None:
            found = self._rows[language] = self._make(language.frames, self._rows)
        return found

    # ------------------------------------------------------------ exactly

    def _exact(self, thread: ItemThread, clock: Clock) -> Exact:
        found = Exact()
        alone = self._frames.lone(thread)
        if thread.copies:
            self._follow_copies(thread, alone, found, clock)
        for node, text in self._exits_of(thread.language, thread.config):
            after = self._after(alone, text)
            if after is not None:
                for token, cost in self._follow(after, node, clock).items():
                    found.leaving[token] = min(found.leaving.get(token, cost), cost)
        return found

    def _after(self, config: Config, text: bytes) -> Config | None:
        here: Config | None = config
        for byte in text:
            here = self._frames.step(here, byte) if here is not None else None
        return here

    def _follow_copies(self, thread: ItemThread, alone: Config, found: Exact, clock: Clock) -> None:
        """The tokens that stay on the way of copies of taken values, and those beyond the last other value."""
        trie, language = self._vocabulary.trie, thread.language
        work = [(0, b"", thread, alone)]
        while work:
            node, text, here, config = work.pop()
            for byte in here.book.next_bytes(here.copies) | _BLANKS:
                child = trie.child(node, byte)
                inner = language.frames.step(here.config, byte) if child >= 0 else None
                if inner is None:
                    continue
                written = text + bytes((byte,))
                tokens = trie.token_ids[trie.token_start[child] : trie.token_start[child + 1]].tolist()
                is_new = byte not in config.steps
                after = self._frames.step(config, byte)
                if is_new:
                    clock.check()
                if after is None:
                    found.blocked.update(self._vocabulary.tokens_with_prefix(written))
                    continue
                found.costs.update(dict.fromkeys(tokens, after.cost))
                following = [
                    other
                    for other in after.threads
                    if isinstance(other, ItemThread) and other.language is language and other.rest is thread.rest
                ]
                if not following and inner.threads:
                    found.blocked.update(set(self._vocabulary.tokens_with_prefix(written)).difference(tokens))
                work += [(child, written, other, after) for other in following if other.copies]

    def _exits_of(self, language: ItemLanguage, config: Config) -> list[tuple[int, bytes]]:
        """The trie nodes at which the item may be over and some token goes on, with what is written there."""
        known = self._exits.get(config)
        if known is None:
            known = []
            bridges, step = self._bridges_of(language.last_bytes), language.frames.step
            work = [(0, b"", config)]
            while work:
                node, text, here = work.pop()
                for byte, child in bridges.get(node, ()):
                    following = here.steps[byte] if byte in here.steps else step(here, byte)
                    if following is None:
                        continue
                    written = text + bytes((byte,))
                    if following.is_complete and self._vocabulary.trie.children[child]:
                        known.append((child, written))
                    if following.threads:
                        work.append((child, written, following))
            self._exits[config] = known  # whole: following may pause
        return known

    def _bridges_of(self, last: frozenset[int]) -> dict[int, list[tuple[int, int]]]:
        """Of trie nodes, the children (byte, node) from which tokens go on beyond one of the bytes."""
        known = self._bridges.get(last)
        if known is None:
            trie = self._vocabulary.trie
            leads = np.isin(trie.byte, list(last)) & (trie.children > 0)
            leads[0] = False
            for first, end in zip(trie.levels[-2:0:-1], trie.levels[:1:-1], strict=True):
                leads[trie.parent[first:end][leads[first:end]]] = True
            known = self._bridges[last] = {}
            for node in np.flatnonzero(leads).tolist():
                if node:
                    known.setdefault(trie.parent.item(node), []).append((trie.byte.item(node), node))
        return known
