"""The rows of one constraint: for each config, the packed tokens it allows and how many tokens surely suffice after.

A row is put together from what the threads' terminals allow by themselves (cached with the terminal) and from the
tokens that leave a terminal and go on after it: few as a rule, and followed byte by byte through the frames. Only
where very many tokens leave (a grammar's identifiers, blanks) are they walked together.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from latticework.runtime.constrain.base import Row
from latticework.runtime.constrain.frames import AnyThread, Config, Frames, ItemThread, KeyThread, Thread
from latticework.runtime.constrain.item_language import ItemLanguage
from latticework.runtime.constrain.item_rows import ItemRows, LanguageRows
from latticework.runtime.constrain.keys import KeyNode
from latticework.runtime.constrain.places import State
from latticework.runtime.constrain.terminals import Inside, Terminal
from latticework.runtime.constrain.vocabulary import Trie, Vocabulary

FEW_BELOW = 2000  # exits with fewer trie nodes below them in all are followed byte by byte
_ENTRY_BYTES = 200  # what a cached row costs beside its words
_MANY_NODES = 64  # a suffix of more trie nodes than these is looked up at once
_MANY_BYTES = 16  # more bytes than these that may come next are looked for among a node's children

_DEAREST = 1 << 60
_MOST = (1 << 31) - 1

Costs = dict[int, int]
"""Tokens and what `shortest()` is after each."""

Arrays = tuple[NDArray[np.int32], NDArray[np.int32]]
"""The same as two arrays."""


class Leaving:
    """Tokens that leave a terminal, and their costs: some one by one, and whole arrays of them."""

    __slots__ = ("few", "many")

    def __init__(self) -> None:
        self.few: Costs = {}
        self.many: list[Arrays] = []

    def arrays(self, size: int) -> Arrays:
        """All of them, each once, at the least of its costs. size: of the vocabulary."""
        few = self.few
        tokens, costs = np.fromiter(few, np.int32, len(few)), np.fromiter(few.values(), np.int32, len(few))
        if not self.many:
            return tokens, costs
        least = np.full(size, _MOST, np.int32)
        least[tokens] = costs
        for own, own_costs in self.many:
            np.minimum.at(least, own, own_costs)
        tokens = np.flatnonzero(least < _MOST).astype(np.int32)
        return tokens, least[tokens]


class Suffix:
    """What tokens have after they left a terminal, as a trie that is unfolded where it is looked at. nodes: the
    vocabulary's trie nodes that are one here; tokens: those that end here; size: trie nodes here and below."""

    __slots__ = ("_children", "_letters", "_many", "nodes", "size", "tokens", "walks")

    def __init__(self, trie: Trie, nodes: list[int]) -> None:
        self.nodes = nodes
        self.walks: dict[tuple[Terminal, State], tuple[Inside, Suffix]] = {}
        self._many: NDArray[np.int64] | None = None  # the nodes as an array, where they are many
        self._children: dict[int, Suffix | None] = {}
        self._letters: list[int] | None = None
        if len(nodes) > _MANY_NODES:
            self._many = np.sort(np.array(nodes, np.int64))
            self.tokens: list[int] = trie.tokens_at(self._many)[0].tolist()
            self.size = int(trie.below[self._many].sum())
        else:
            starts, ids = trie.token_start, trie.token_ids
            self.tokens = [t for node in nodes for t in ids[starts.item(node) : starts.item(node + 1)].tolist()]
            self.size = sum(trie.below.item(node) for node in nodes)

    def child(self, trie: Trie, byte: int) -> Suffix | None:
        if byte in self._children:
            return self._children[byte]
        if self._many is not None:
            nodes = trie.children_by(self._many, byte).tolist()
        else:
            child_of = trie.child_of
            nodes = [child for node in self.nodes if (child := child_of.get(node << 8 | byte)) is not None]
        found = self._children[byte] = Suffix(trie, nodes) if nodes else None
        return found

    def letters(self, trie: Trie) -> list[int]:
        """All bytes that go on from here."""
        if self._letters is None:
            if self._many is not None:
                self._letters = trie.letters_after(self._many)
            else:
                found: set[int] = set()
                for node in self.nodes:
                    first = trie.first_child.item(node)
                    found.update(trie.byte[first : first + trie.children.item(node)].tolist())
                self._letters = sorted(found)
        return self._letters


@dataclass(slots=True)
class Part:
    """One terminal state's share of a row. words: the tokens inside; need: the largest cost after any of them, within
    the terminal. exits: how tokens go on that leave it; after: the tokens that do, and their costs, by what follows."""

    words: Row
    need: int
    exits: Suffix
    after: dict[Config, tuple[NDArray[np.int32], NDArray[np.int32]]] = field(default_factory=dict)


@dataclass(slots=True)
class CachedRow:
    """What a config allows. need: with at least this many tokens left, every allowed token leaves room to finish."""

    words: Row
    need: int


class Rows:
    """Makes and keeps rows."""

    def __init__(
        self, frames: Frames, vocabulary: Vocabulary, limit: int, inner: dict[ItemLanguage, LanguageRows] | None = None
    ) -> None:
        """inner: the rows of items, if these are those of an item themselves."""
        self._frames = frames
        self._vocabulary = vocabulary
        self._limit = limit
        self._rows: OrderedDict[Config, CachedRow] = OrderedDict()
        self._words: dict[bytes, tuple[Row, int]] = {}  # digest -> equal rows share one array; how many use it
        self._bytes = 0
        self._parts: dict[State, Part] = {}
        self._part_bytes = 0
        self._items = ItemRows(frames, vocabulary, lambda item, known: Rows(item, vocabulary, limit, known), inner)
        self._end_row = vocabulary.end_row
        self._no_tokens = np.zeros(vocabulary.words, np.int32)

    @property
    def nbytes(self) -> int:
        return self._bytes + self._part_bytes + self._items.nbytes

    def forget(self) -> None:
        self._rows.clear()
        self._words.clear()
        self._parts.clear()
        self._items.forget()
        self._bytes = self._part_bytes = 0

    def has(self, config: Config) -> bool:
        return config in self._rows

    def get(self, config: Config) -> CachedRow:
        """The row, computed if it is not cached."""
        found = self._rows.get(config)
        if found is None:
            return self._keep(config, *self._make(config))
        self._rows.move_to_end(config)
        return found

    def filtered(self, config: Config, remaining: int) -> Row:
        """The tokens after which the text can still be finished with `remaining` tokens, that token included."""
        allowed = [self._affordable(thread, remaining) for thread in config.threads]
        words = self._pack(np.concatenate([np.zeros(0, np.int32), *allowed]))
        return words | self._end_row if config.is_complete else words

    # ------------------------------------------------------------ making

    def _make(self, config: Config) -> tuple[Row, int]:
        words: Row | None = None
        need = 0
        few: list[int] = []
        for thread in config.threads:
            if isinstance(thread, KeyThread):
                found: Costs = {}
                self._keys(thread, 0, thread.at, found)
                few += found
                need = max(need, max(found.values(), default=0))
                continue
            part, thread_need, leaving = self._thread(thread)
            need = max(need, thread_need)
            words = part.copy() if words is None else np.bitwise_or(words, part, out=words)
            few += leaving
        if words is None:
            words = self._pack(few)
        elif few:
            view = words.view(np.uint8).data
            for token in few:
                view[token >> 3] |= 1 << (token & 7)
        if config.is_complete:
            words |= self._end_row
        return words, need + 1

    def _thread(self, thread: Thread | ItemThread) -> tuple[Row, int, Iterable[int]]:
        """A thread's own words, the most that may remain after any of its tokens, and its tokens beyond the words."""
        if isinstance(thread, ItemThread):
            return self._items.get(thread, self._exact)
        assert thread.terminal is not None
        assert thread.state is not None
        if thread.text is not None and self._frames.has_few_texts(thread):
            exact: Costs = {}
            self._exact(self._frames.lone(thread), 0, exact)
            return self._no_tokens, max(exact.values(), default=0), exact
        part = self._part(thread.terminal, thread.state)
        words, need = part.words, part.need + thread.rest.cost
        if thread.text is None:
            leaving: list[int] = []
            for config in self._frames.after(thread, None):
                tokens, costs = self._after(part, config)
                if len(tokens) > _MANY_NODES:
                    words = words | self._pack(tokens)
                else:
                    leaving += tokens.tolist()
                need = max(need, int(costs.max(initial=0)))
            return words, need, leaving
        found = self._tracked(thread, part)
        blocked = self._blocked(thread)
        if blocked:
            words = words & ~self._pack(blocked)
        return words, max(need + 3, max(found.values(), default=0)), found

    def _after(self, part: Part, config: Config) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The tokens that leave a terminal and go on in `config`, and their costs."""
        found = part.after.get(config)
        if found is None:
            leaving = Leaving()
            if part.exits.nodes:
                self._follow(part.exits, config, leaving)
            found = part.after[config] = leaving.arrays(self._vocabulary.size)
            self._part_bytes += 200 + 8 * len(found[0])
        return found

    def _follow(self, suffix: Suffix, config: Config, leaving: Leaving) -> None:
        """The tokens of a suffix trie that go on from `config`: byte by byte, but where very many may."""
        trie, step, next_bytes = self._vocabulary.trie, self._frames.step, self._frames.next_bytes
        work = [(suffix, config)]
        costs = leaving.few
        while work:
            here, at = work.pop()
            may_come = next_bytes(at)
            if len(may_come) > _MANY_BYTES:
                if here.size > FEW_BELOW:
                    self._walk(at, here, leaving)
                    continue
                may_come = tuple(here.letters(trie))
            for byte in may_come:
                below = here.child(trie, byte)
                if below is None:
                    continue
                following = at.steps[byte] if byte in at.steps else step(at, byte)
                if following is not None:
                    cost = following.cost
                    for token in below.tokens:
                        if cost < costs.get(token, _DEAREST):
                            costs[token] = cost
                    work.append((below, following))

    def _walk(self, config: Config, suffix: Suffix, leaving: Leaving) -> None:
        """`_follow` for very many tokens: by terminal."""
        for thread in config.threads:
            if not isinstance(thread, Thread) or thread.text is not None:
                self._follow_exactly(suffix, self._frames.lone(thread), leaving.few)
                continue
            assert thread.terminal is not None
            assert thread.state is not None
            inside, exits = self._below(suffix, thread.terminal, thread.state)
            leaving.many.append((inside.tokens, inside.costs + thread.rest.cost))
            if exits.nodes:
                for after in self._frames.after(thread, None):
                    self._follow(exits, after, leaving)

    def _below(self, suffix: Suffix, terminal: Terminal, state: State) -> tuple[Inside, Suffix]:
        """What a terminal takes of a suffix, and how tokens go on that leave it too: whatever follows it then."""
        found = suffix.walks.get((terminal, state))
        if found is None:
            inside = terminal.below(state, np.array(suffix.nodes, np.int64))
            exits = Suffix(self._vocabulary.trie, inside.exits.tolist())
            found = suffix.walks[terminal, state] = inside, exits
            self._part_bytes += inside.tokens.nbytes + inside.costs.nbytes + 16 * len(exits.nodes) + _ENTRY_BYTES
        return found

    def _follow_exactly(self, suffix: Suffix, config: Config, costs: Costs) -> None:
        for node in suffix.nodes:
            self._exact(config, node, costs)

    # ------------------------------------------------------------ listed keys

    def _keys(self, thread: KeyThread, node: int, at: KeyNode, costs: Costs) -> None:
        """The tokens below the trie node `node` that go on with listed keys from `at`."""
        trie, child_of, frames = self._vocabulary.trie, self._vocabulary.trie.child_of, self._frames
        starts, ids = trie.token_start, trie.token_ids
        work = [(node, at)]
        while work:
            node, at = work.pop()
            for byte, below in at.children.items():
                child = child_of.get(node << 8 | byte)
                if child is None or not below.mask & thread.allowed:
                    continue
                if below.ends < 0:
                    cost = frames.key_cost(thread, below)
                    work.append((child, below))
                else:
                    configs = list(frames.after_key(thread, below.ends))
                    cost = min(config.cost for config in configs)
                    for config in configs:
                        self._exact(config, child, costs)
                for token in ids[starts[child] : starts[child + 1]].tolist():
                    costs[token] = min(costs.get(token, cost), cost)

    def _exact(self, config: Config, node: int, costs: Costs) -> None:
        """The tokens below a trie node that go on from `config`, byte by byte."""
        trie = self._vocabulary.trie
        starts, ids, child_of = trie.token_start, trie.token_ids, trie.child_of
        step, next_bytes = self._frames.step, self._frames.next_bytes
        work = [(node, config)]
        while work:
            node, config = work.pop()
            may_come = next_bytes(config)
            if len(may_come) > _MANY_BYTES and trie.children.item(node) < len(may_come):
                first = trie.first_child.item(node)
                below = [(trie.byte.item(child), child) for child in range(first, first + trie.children.item(node))]
            else:
                found = ((byte, child_of.get(node << 8 | byte)) for byte in may_come)
                below = [(byte, child) for byte, child in found if child is not None]
            for byte, child in below:
                following = config.steps[byte] if byte in config.steps else step(config, byte)
                if following is not None:
                    for token in ids[starts.item(child) : starts.item(child + 1)].tolist():
                        costs[token] = min(costs.get(token, following.cost), following.cost)
                    work.append((child, following))

    # ------------------------------------------------------------ tracked texts

    def _tracked(self, thread: Thread, part: Part) -> Costs:
        """The tokens that leave a tracked thread. What it wrote matters only to tokens that write another tracked
        text, whole, and to texts that are taken: those are followed exactly."""
        assert thread.text is not None
        found: Costs = {}
        for config in self._frames.after(thread, None):
            tokens, costs = self._after(part, config)
            found.update(zip(tokens.tolist(), costs.tolist(), strict=True))
        lone = self._frames.lone(thread)
        rests = self._frames.taken_after(thread.rest, thread.text)
        for token in (*self._vocabulary.spanning, *self._beginning_with(rests)):
            if found.pop(token, None) is not None:
                cost = self._cost_of(lone, token)
                if cost is not None:
                    found[token] = cost
        return found

    def _blocked(self, thread: Thread) -> list[int]:
        """Tokens inside the terminal that the thread may not take: they come to a text that is taken, or to where
        all others are."""
        assert thread.text is not None
        assert thread.terminal is not None
        assert thread.state is not None
        rests = self._frames.taken_after(thread.rest, thread.text)
        if not rests:
            return []
        states = thread.terminal.states
        loops = states.loops(thread.state)
        if not loops and len(live := states.live_bytes(states.adopt(thread.state).index)) == 1:
            loops = states.loops(states.states[live[0][1]])  # of the only state after the first byte
        lone = self._frames.lone(thread)
        tokens: set[int] = set()
        for rest in rests:
            is_free = len(rest) > 1 and loops.issuperset(rest[1:-1])
            tokens.update(self._vocabulary.tokens_with_prefix(rest) if is_free else self._on_the_way(rest))
        return [token for token in tokens if self._cost_of(lone, token) is None]

    def _beginning_with(self, texts: list[bytes]) -> list[int]:
        """The tokens that begin with one of `texts`."""
        found: list[int] = []
        for text in texts:
            found += self._vocabulary.tokens_with_prefix(text)
        return found

    def _on_the_way(self, text: bytes) -> list[int]:
        """The tokens that `text` begins with, or that begin with it."""
        trie = self._vocabulary.trie
        found = self._vocabulary.tokens_with_prefix(text)[:]
        node: int | None = 0
        for byte in text:
            assert node is not None
            node = trie.child_of.get(node << 8 | byte)
            if node is None:
                break
            found += trie.token_ids[trie.token_start[node] : trie.token_start[node + 1]].tolist()
        return found

    def _cost_of(self, config: Config, token: int) -> int | None:
        """What it costs to finish after `token`; None where it cannot come."""
        here: Config | None = config
        for byte in self._vocabulary.tokens[token]:
            assert here is not None
            here = self._frames.step(here, byte)
            if here is None:
                return None
        return here.cost if here is not None else None

    # ------------------------------------------------------------ parts

    def _part(self, terminal: Terminal, state: State) -> Part:
        relaxed = terminal.states.relax(terminal.states.adopt(state))
        found = self._parts.get(relaxed)
        if found is None:
            inside = terminal.inside(relaxed)
            exits = Suffix(self._vocabulary.trie, inside.exits.tolist())
            found = Part(self._pack(inside.tokens), int(inside.costs.max(initial=0)), exits)
            self._parts[relaxed] = found
            self._part_bytes += found.words.nbytes + 16 * len(exits.nodes) + _ENTRY_BYTES
        return found

    def _affordable(self, thread: AnyThread, remaining: int) -> NDArray[np.int32]:
        """The tokens of a thread that leave fewer than `remaining` to write."""
        found: Costs = {}
        if isinstance(thread, KeyThread):
            self._keys(thread, 0, thread.at, found)
            return _cheaper(found, remaining)
        if isinstance(thread, ItemThread):
            return self._items.affordable(thread, remaining, self._exact)
        assert thread.terminal is not None
        assert thread.state is not None
        if thread.text is not None and self._frames.has_few_texts(thread):
            self._exact(self._frames.lone(thread), 0, found)
            return _cheaper(found, remaining)
        relaxed = thread.terminal.states.relax(thread.terminal.states.adopt(thread.state))
        inside: Inside = thread.terminal.inside(relaxed)
        kept = [inside.tokens[inside.costs < remaining - thread.rest.cost]]
        part = self._part(thread.terminal, thread.state)
        if thread.text is not None:
            return self._affordable_tracked(thread, part, kept[0], remaining)
        for config in self._frames.after(thread, None):
            tokens_after, costs_after = self._after(part, config)
            kept.append(tokens_after[costs_after < remaining])
        return np.concatenate(kept)

    def _affordable_tracked(
        self, thread: Thread, part: Part, inside: NDArray[np.int32], remaining: int
    ) -> NDArray[np.int32]:
        """`_affordable` of a tracked thread: only tokens near texts that are taken cost more than others."""
        assert thread.text is not None
        allowed = np.zeros(self._vocabulary.words * 32, bool)
        allowed[inside] = True
        allowed[_cheaper(self._tracked(thread, part), remaining)] = True
        lone = self._frames.lone(thread)
        for rest in self._frames.taken_after(thread.rest, thread.text):
            for token in self._on_the_way(rest):
                cost = self._cost_of(lone, token)
                if cost is None or cost >= remaining:
                    allowed[token] = False
        return np.flatnonzero(allowed).astype(np.int32)

    # ------------------------------------------------------------ packed words

    def _pack(self, tokens: NDArray[np.int32] | list[int]) -> Row:
        if len(tokens) < 64:
            packed = bytearray(self._vocabulary.words * 4)
            for token in tokens if isinstance(tokens, list) else tokens.tolist():
                packed[token >> 3] |= 1 << (token & 7)
            return np.frombuffer(packed, "<i4").astype(np.int32, copy=False)
        allowed = np.zeros(self._vocabulary.words * 32, bool)
        allowed[tokens] = True
        return np.packbits(allowed, bitorder="little").view("<i4").astype(np.int32, copy=False)

    def _keep(self, config: Config, words: Row, need: int) -> CachedRow:
        digest = hashlib.blake2b(words.tobytes(), digest_size=16).digest()
        shared, users = self._words.get(digest, (words, 0))
        self._words[digest] = (shared, users + 1)
        self._bytes += _ENTRY_BYTES + (0 if users else shared.nbytes)
        kept = self._rows[config] = CachedRow(shared, need)
        while self._bytes > self._limit and len(self._rows) > 1:
            _, old = self._rows.popitem(last=False)
            self._release(old)
        return kept

    def _release(self, old: CachedRow) -> None:
        digest = hashlib.blake2b(old.words.tobytes(), digest_size=16).digest()
        shared, users = self._words.pop(digest)
        self._bytes -= _ENTRY_BYTES
        if users > 1:
            self._words[digest] = (shared, users - 1)
        else:
            self._bytes -= shared.nbytes


def _cheaper(costs: Costs, remaining: int) -> NDArray[np.int32]:
    return np.array([token for token, cost in costs.items() if cost < remaining], np.int32)


__all__ = ["CachedRow", "Rows"]
