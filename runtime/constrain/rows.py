"""The rows of one constraint: for each config, the packed tokens it allows and how many tokens surely suffice after.

A row is put together from what the threads' terminals allow by themselves and from the tokens that leave a terminal
and go on behind it. Both are kept by what they depend on, so that the rows of an object's many places share them.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latticework.runtime.constrain.base import Pause, Row, never_pause
from latticework.runtime.constrain.clock import ENDLESS, Clock
from latticework.runtime.constrain.expressions import TRACKED_COST
from latticework.runtime.constrain.frames import AnyThread, Config, Frames, ItemThread, KeyThread, Kind, Thread
from latticework.runtime.constrain.item_language import ItemLanguage
from latticework.runtime.constrain.item_rows import ItemRows, LanguageRows
from latticework.runtime.constrain.leaving import Costs, Follower, Leaving
from latticework.runtime.constrain.parts import Part, Parts
from latticework.runtime.constrain.suffixes import Suffix, Suffixes
from latticework.runtime.constrain.tracked import Tracked
from latticework.runtime.constrain.vocabulary import Vocabulary

_ENTRY_BYTES = 200  # what a cached row costs beside its words


class Words:
    """A row's words, shared by all that are equal. data: the same as bytes; users: how many rows they are of."""

    __slots__ = ("data", "row", "users")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.row: Row = np.frombuffer(data, np.int32)
        self.users = 0


@dataclass(slots=True)
class CachedRow:
    """What a config allows. need: with at least this many tokens left, every allowed token leaves room to finish."""

    shared: Words
    need: int

    @property
    def words(self) -> Row:
        return self.shared.row


class Rows:
    """Makes and keeps rows."""

    def __init__(
        self,
        frames: Frames,
        vocabulary: Vocabulary,
        suffixes: Suffixes,
        limit: int,
        parts: Parts,
        pause: Pause = never_pause,
        inner: dict[ItemLanguage, LanguageRows] | None = None,
    ) -> None:
        """inner: the rows of items, if these are those of an item themselves."""
        self._frames = frames
        self._vocabulary = vocabulary
        self._limit = limit
        self._parts = parts
        self._suffixes = suffixes
        self._items = ItemRows(frames, vocabulary, self._inner, self._exact, inner)
        self._pause = pause
        self._follower = Follower(frames, self._parts, suffixes, vocabulary, pause)
        self._tracked = Tracked(frames, vocabulary, self._follower, suffixes)
        self._rows: OrderedDict[Config, CachedRow] = OrderedDict()
        self._words: dict[bytes, Words] = {}
        self._made: dict[tuple[object, ...], Words] = {}  # by what they were put together from
        self._after: dict[tuple[Suffix, Config], Leaving] = {}
        self._bytes = self._after_bytes = 0

    @property
    def nbytes(self) -> int:
        found = self._parts.nbytes + self._follower.nbytes + self._tracked.nbytes + self._items.nbytes
        return found + self._bytes + self._after_bytes + _ENTRY_BYTES * len(self._made)

    def forget(self) -> None:
        self._rows.clear()
        self._words.clear()
        self._made.clear()
        self._after.clear()
        self._parts.forget()
        self._follower.forget()
        self._tracked.forget()
        self._items.forget()
        self._bytes = self._after_bytes = 0

    def has(self, config: Config) -> bool:
        return config in self._rows

    def get(self, config: Config, clock: Clock = ENDLESS) -> CachedRow:
        """The row, computed if it is not cached. Raises Late; what is computed till then is kept."""
        found = self._rows.get(config)
        if found is None:
            made = self._make(config, clock)
            found = self._rows.get(config)  # somebody else may have made it in a pause
            return self._keep(config, *made) if found is None else found
        self._rows.move_to_end(config)
        return found

    def filtered(self, config: Config, remaining: int) -> Row:
        """The tokens after which the text can still be finished with `remaining` tokens, that token included."""
        allowed = [self._affordable(thread, remaining) for thread in config.threads]
        words = self._vocabulary.pack(np.concatenate([np.zeros(0, np.int32), *allowed]))
        return words | self._vocabulary.end_row if config.is_complete else words

    def has_below(self, config: Config, node: int) -> bool:
        return (self._suffixes.of((node,)), config) in self._after

    def following(self, config: Config, node: int, clock: Clock = ENDLESS) -> Leaving:
        """The tokens below a node of the vocabulary's trie whose other bytes go on from `config`. Raises Late."""
        return self._follow(self._suffixes.of((node,)), config, clock)

    def below(self, config: Config, node: int, remaining: int | None = None) -> Row:
        """`following` as a row; remaining: only those after which that suffices, the token itself included."""
        found = self.following(config, node)
        if remaining is not None and remaining <= found.most:
            return self._vocabulary.pack(found.below(remaining))
        words = self._vocabulary.pack(found.few)
        return words if found.words is None else words | found.words

    # ------------------------------------------------------------ making

    def _make(self, config: Config, clock: Clock) -> tuple[Words, int]:
        shares: list[Part | Leaving] = []
        need = 0
        for thread in config.threads:
            for share, after in self._shares(thread, clock):
                shares.append(share)
                need = max(need, share.most + after)
        if any(not isinstance(thread, Thread) or thread.text is not None for thread in config.threads):
            return self._pack(shares, config.is_complete), need + 1  # nobody else has these shares
        made = (config.is_complete, *shares)
        words = self._made.get(made)
        if words is None:
            words = self._made[made] = self._pack(shares, config.is_complete)
        return words, need + 1

    def _shares(self, thread: AnyThread, clock: Clock) -> list[tuple[Part | Leaving, int]]:
        """What a row gets of one thread, and what all behind it costs."""
        if isinstance(thread, KeyThread):
            return [(self._follower.keys(thread, clock), 0)]
        if isinstance(thread, ItemThread):
            return [(self._items.get(thread, clock), 0)]
        if thread.text is not None and self._frames.has_few_texts(thread):
            return [(self._tracked.all(thread, clock), 0)]
        part, after = self._part(thread, clock), thread.rest.cost
        leaving = self._leaving(thread, part, clock)
        if thread.text is not None:
            leaving = [(self._tracked.allowed(thread, found, cost), cost) for found, cost in leaving]
            part = self._tracked.unblocked(thread, part)
            after += TRACKED_COST
        return [(part, after), *leaving]

    def _pack(self, shares: list[Part | Leaving], is_complete: bool) -> Words:
        packed = [share.words for share in shares if share.words is not None]
        few = [token for share in shares for token in share.few]
        row = packed[0].copy() if packed else self._vocabulary.pack(few)
        for words in packed[1:]:
            np.bitwise_or(row, words, out=row)
        if packed:
            view = row.view(np.uint8).data
            for token in few:
                view[token >> 3] |= 1 << (token & 7)
        if is_complete:
            row |= self._vocabulary.end_row
        data = row.tobytes()
        found = self._words.get(data)
        if found is None:
            found = self._words[data] = Words(data)
        return found

    def _part(self, thread: Thread, clock: Clock = ENDLESS) -> Part:
        assert thread.terminal is not None
        assert thread.state is not None
        return self._parts.whole(thread.terminal, thread.state, clock)

    def _leaving(self, thread: Thread, part: Part, clock: Clock = ENDLESS) -> list[tuple[Leaving, int]]:
        """The tokens that leave the terminal and go on, by what follows it, and what all behind that costs."""
        if part.exits is None:
            return []
        if thread.rest.kind != Kind.EXTRA:
            return [(self._follow(part.exits, config, clock), 0) for config in self._frames.after(thread, None)]
        found: list[tuple[Leaving, int]] = []
        for colon, value, after in self._frames.members_after(thread, None):
            member = self._follower.member(part.exits, colon, value, clock)
            found.append((member, after.cost))
            if member.exits is not None:
                found.append((self._follow(member.exits, self._frames.config_of(after), clock), 0))
        return found

    def _follow(self, suffix: Suffix, config: Config, clock: Clock) -> Leaving:
        found = self._after.get((suffix, config))
        if found is None:
            found = self._after[suffix, config] = self._follower.follow(suffix, config, clock).packed(self._vocabulary)
            self._after_bytes += found.nbytes
            clock.check()
        return found

    def _inner(self, frames: Frames, known: dict[ItemLanguage, LanguageRows]) -> Rows:
        """The rows of an item's language."""
        parts = self._parts.empty()
        return Rows(frames, self._vocabulary, self._suffixes, self._limit, parts, self._pause, known)

    def _exact(self, config: Config, node: int, clock: Clock) -> Costs:
        """The tokens below a trie node that go on from `config`, byte by byte."""
        return self._follower.exact(self._suffixes.of((node,)), config, clock)

    # ------------------------------------------------------------ within a budget

    def _affordable(self, thread: AnyThread, remaining: int) -> NDArray[np.int32]:
        """The tokens of a thread that leave fewer than `remaining` to write."""
        if isinstance(thread, KeyThread):
            return self._follower.keys(thread, ENDLESS).below(remaining)
        if isinstance(thread, ItemThread):
            return self._items.affordable(thread, remaining)
        if thread.text is not None and self._frames.has_few_texts(thread):
            return self._tracked.all(thread, ENDLESS).below(remaining)
        assert thread.terminal is not None
        assert thread.state is not None
        states = thread.terminal.states
        inside = thread.terminal.inside(states.relax(states.adopt(thread.state)))
        kept = inside.tokens[inside.costs < remaining - thread.rest.cost]
        leaving = self._leaving(thread, self._part(thread))
        if thread.text is not None:
            return self._tracked.affordable(thread, kept, leaving, remaining)
        return np.concatenate([kept, *(found.below(remaining - after) for found, after in leaving)])

    # ------------------------------------------------------------ keeping

    def _keep(self, config: Config, words: Words, need: int) -> CachedRow:
        words.users += 1
        self._bytes += _ENTRY_BYTES + (words.row.nbytes if words.users == 1 else 0)
        kept = self._rows[config] = CachedRow(words, need)
        while self._bytes > self._limit and len(self._rows) > 1:
            self._release(self._rows.popitem(last=False)[1].shared)
        return kept

    def _release(self, words: Words) -> None:
        words.users -= 1
        self._bytes -= _ENTRY_BYTES
        if not words.users:
            self._bytes -= words.row.nbytes
            del self._words[words.data]
            self._made.clear()


__all__ = ["CachedRow", "Rows"]
