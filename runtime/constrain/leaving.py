"""The tokens that go on behind the end of a terminal or of a key, through whatever may follow there.

They go from terminal to terminal: what each of them takes of a suffix is known already (`parts.py`), wherever it
stands, and what is left goes on as a suffix again. Where one config is come to in several ways they are followed
together, so an ambiguous constraint costs its number of configs a round, and a round takes at least a byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from latticework.runtime.constrain.base import Pause, Row, never_pause
from latticework.runtime.constrain.clock import Clock
from latticework.runtime.constrain.frames import AnyThread, Config, Frames, ItemThread, KeyThread, Thread
from latticework.runtime.constrain.parts import Part, Parts
from latticework.runtime.constrain.suffixes import Suffix, Suffixes
from latticework.runtime.constrain.terminals import Inside
from latticework.runtime.constrain.vocabulary import Vocabulary

_MANY_BYTES = 16  # of more bytes than these that may follow, only those are looked up that tokens go on with
_ENTRY_BYTES = 300
MANY_TOKENS = 128  # more of them are packed

Costs = dict[int, int]
"""Tokens and what `shortest()` is after each."""

Arrays = tuple[NDArray[np.int32], NDArray[np.int32]]
"""The same as two arrays."""


class Leaving:
    """Tokens and their costs, gathered from where they end; one token may end in several places. few, words: the
    tokens one by one and packed; most: the largest cost."""

    __slots__ = ("_gone", "_members", "_parts", "_rest", "_shares", "exits", "few", "is_tracked", "most", "words")

    def __init__(self) -> None:
        self._rest: Leaving | None = None  # others, less those that are gone
        self._gone: list[int] = []
        self._parts: list[tuple[Leaving, int]] = []
        self.exits: Suffix | None = None
        self._members: frozenset[int] | None = None
        self.is_tracked = False
        self.few: list[int] = []
        self.words: Row | None = None
        self.most = 0
        self._shares: list[tuple[NDArray[np.int32] | list[int], NDArray[np.int32] | list[int], int]] = []

    def add_part(self, part: Part, inside: Arrays, after: int) -> None:
        """Tokens that end in a terminal. after: what all behind it costs."""
        if part.words is not None:
            self.words = part.words.copy() if self.words is None else np.bitwise_or(self.words, part.words)
        elif part.few:
            self.few += part.few
        else:
            return
        self.most = max(self.most, part.most + after)
        self._shares.append((*inside, after))

    def add_tokens(self, tokens: list[int], cost: int) -> None:
        if tokens:
            self.few += tokens
            self.most = max(self.most, cost)
            self._shares.append((tokens, [0] * len(tokens), cost))

    def add_costs(self, costs: Costs) -> None:
        if costs:
            self.few += costs
            self.most = max(self.most, *costs.values())
            self._shares.append((list(costs), list(costs.values()), 0))

    def add_words(self, words: Row, most: int) -> None:
        """Tokens of which only the largest cost is known: not for `below`."""
        self.words = words if self.words is None else self.words | words
        self.most = max(self.most, most)

    def add(self, other: Leaving, after: int = 0) -> None:
        """after: what all behind it costs."""
        if other.words is not None:
            self.words = other.words.copy() if self.words is None else np.bitwise_or(self.words, other.words)
        self.few += other.few
        self.most = max(self.most, other.most + after)
        self.is_tracked = self.is_tracked or other.is_tracked
        self._parts.append((other, after))

    def among(self, tokens: Iterable[int]) -> frozenset[int]:
        """Those of `tokens` that are here."""
        if self._members is None:
            self._members = frozenset(self.few)
        found = self._members.intersection(tokens)
        if self.words is not None:
            words = self.words.view(np.uint8).data
            found |= {token for token in tokens if words[token >> 3] >> (token & 7) & 1}
        return found

    def with_costs(self, costs: Mapping[int, int | None]) -> Leaving:
        """The same, but for these tokens. None: it is not allowed."""
        twin = Leaving()
        twin._rest, twin._gone = self, list(costs)
        twin.few = [token for token in self.few if token not in costs]
        twin.most = self.most
        if self.words is not None:
            twin.words = self.words.copy()
            view = twin.words.view(np.uint8).data
            for token in costs:
                view[token >> 3] &= ~(1 << (token & 7))
        twin.add_costs({token: cost for token, cost in costs.items() if cost is not None})
        return twin

    def below(self, limit: int) -> NDArray[np.int32]:
        """The tokens that cost less than `limit`; some more than once."""
        found = [np.zeros(0, np.int32), *(part.below(limit - after) for part, after in self._parts)]
        if self._rest is not None:
            kept = self._rest.below(limit)
            found.append(kept[~np.isin(kept, self._gone)])
        for tokens, costs, after in self._shares:
            found.append(np.asarray(tokens, np.int32)[np.asarray(costs, np.int64) < limit - after])
        return np.concatenate(found)

    def packed(self, vocabulary: Vocabulary) -> Leaving:
        """The same, its tokens packed if they are many: to be put into rows often."""
        if len(self.few) > MANY_TOKENS:
            words = vocabulary.pack(self.few)
            self.words = words if self.words is None else words | self.words
            self.few, self._members = [], None
        return self

    @property
    def nbytes(self) -> int:
        words = 0 if self.words is None else self.words.nbytes
        return _ENTRY_BYTES + words + 8 * len(self.few) + 150 * len(self._shares)


class Follower:
    """Follows tokens from config to config. nbytes: memory held, roughly."""

    def __init__(
        self, frames: Frames, parts: Parts, suffixes: Suffixes, vocabulary: Vocabulary, pause: Pause = never_pause
    ) -> None:
        self._frames = frames
        self._pause = pause
        self._parts = parts
        self._suffixes = suffixes
        self._vocabulary = vocabulary
        self.forget()

    def forget(self) -> None:
        self._members: dict[tuple[Suffix, int, int], Leaving] = {}
        self._far: set[tuple[Suffix, frozenset[bytes], bytes]] = set()  # that no taken text is near
        self.nbytes = 0

    def follow(self, suffix: Suffix, config: Config, clock: Clock) -> Leaving:
        """The tokens of `suffix` that go on from `config`. Raises Late."""
        return self._follow({config: suffix}, Leaving(), clock)

    def _follow(self, here: dict[Config, Suffix], found: Leaving, clock: Clock) -> Leaving:
        while here:
            after: dict[Config, Suffix] = {}
            for config, suffix in here.items():
                self._pause()
                if config.is_complete:
                    found.exits = suffix if found.exits is None else self._suffixes.either(found.exits, suffix)
                for thread in config.threads:
                    self._pass(suffix, thread, found, after, clock)
            here = after
        return found

    def member(self, suffix: Suffix, colon: int, value: int, clock: Clock) -> Leaving:
        """What the tokens of `suffix` do in a member of an object, behind its key, whatever is around it. Raises
        Late."""
        found = self._members.get((suffix, colon, value))
        if found is None:
            frames = self._frames
            config = frames.config_of(frames.node(colon, frames.node(value, frames.end)))
            found = self.follow(suffix, config, clock).packed(self._vocabulary)
            self._members[suffix, colon, value] = found
            self.nbytes += found.nbytes
            clock.check()
        return found

    def keys(self, thread: KeyThread, clock: Clock) -> Leaving:
        """All tokens that go on from a place among listed keys. Raises Late."""
        found = Leaving()
        after: dict[Config, Suffix] = {}
        self._pass_keys(self._suffixes.whole, thread, found, after, clock)
        return self._follow(after, found, clock)

    def exact(self, suffix: Suffix, config: Config, clock: Clock) -> Costs:
        """The tokens of `suffix` that go on from `config`, byte by byte. Raises Late."""
        step, next_bytes = self._frames.step, self._frames.next_bytes
        costs: Costs = {}
        work = [(suffix, config)]
        while work:
            self._pause()
            suffix, config = work.pop()
            below = suffix.children
            may_come = below if len(below) <= _MANY_BYTES else below.keys() & next_bytes(config)
            for byte in may_come:
                if byte in config.steps:
                    following = config.steps[byte]
                else:
                    following = step(config, byte)
                    clock.check()
                if following is not None:
                    child = below[byte]
                    for token in child.tokens:
                        costs[token] = min(costs.get(token, following.cost), following.cost)
                    if child.inner:
                        work.append((child, following))
        return costs

    def _pass(
        self, suffix: Suffix, thread: AnyThread, found: Leaving, after: dict[Config, Suffix], clock: Clock
    ) -> None:
        """What one thread takes of a suffix, and in `after` what is left of it."""
        if isinstance(thread, KeyThread):
            self._pass_keys(suffix, thread, found, after, clock)
            return
        if isinstance(thread, ItemThread):
            found.is_tracked = True
            found.add_costs(self.exact(suffix, self._frames.lone(thread), clock))
            return
        assert thread.terminal is not None
        assert thread.state is not None
        if thread.text is not None and self._frames.has_few_texts(thread):
            found.is_tracked = True
            found.add_costs(self.exact(suffix, self._frames.lone(thread), clock))
            return
        part, inside = self._parts.below(suffix, thread.terminal, thread.state, clock)
        if thread.text is not None:
            self._add_tracked(suffix, thread, part, inside, found, clock)
            return
        found.add_part(part, (inside.tokens, inside.costs), thread.rest.cost)
        if part.exits is not None:
            for config in self._frames.after(thread, None):
                self._join(after, config, part.exits)

    def _add_tracked(
        self, suffix: Suffix, thread: Thread, part: Part, inside: Inside, found: Leaving, clock: Clock
    ) -> None:
        """What a tracked thread takes of a suffix. What is taken matters only to tokens that write the beginning of a
        taken text or more than it, and to those that come to a tracked thread again."""
        assert thread.text is not None
        found.is_tracked = True
        lone = self._frames.lone(thread)
        share = Leaving()
        if part.exits is not None:
            after = dict.fromkeys(self._frames.after(thread, None), part.exits)
            self._follow(after, share, clock)
            if share.is_tracked:  # what is written here may matter there
                found.add_costs(self.exact(suffix, lone, clock))
                return
        share.add_part(part, (inside.tokens, inside.costs), thread.rest.cost)
        near: dict[int, int | None] = {}
        place = suffix, self._frames.taken(thread.rest), thread.text
        if place not in self._far:
            for rest in self._frames.taken_after(thread.rest, thread.text):
                self._add_near(suffix, lone, rest, near, clock)
            if not near:
                self._far.add(place)
                self.nbytes += _ENTRY_BYTES
        found.add(share.with_costs(near) if near else share)

    def _add_near(self, suffix: Suffix, config: Config, text: bytes, near: dict[int, int | None], clock: Clock) -> None:
        """Tokens of `suffix` that `text` begins with, or that begin with it, and what they cost from `config` on."""
        here: Config | None = config
        for byte in text:
            below = suffix.children.get(byte)
            if below is None:
                return
            suffix = below
            here = None if here is None else self._frames.step(here, byte)
            near |= dict.fromkeys(suffix.tokens, None if here is None else here.cost)
        near |= dict.fromkeys(suffix.all_tokens())
        if here is not None:
            near |= dict.fromkeys(suffix.tokens, here.cost)
            near |= self.exact(suffix, here, clock)

    def _pass_keys(
        self, suffix: Suffix, thread: KeyThread, found: Leaving, after: dict[Config, Suffix], clock: Clock
    ) -> None:
        frames = self._frames
        for at, below in self._parts.keys(suffix, thread.at):
            if not at.mask & thread.allowed:
                continue
            if at.ends < 0:
                if below.tokens:
                    found.add_tokens(below.tokens, frames.key_cost(thread, at))
                continue
            found.add_tokens(below.tokens, frames.cost_after_key(thread, at.ends))
            if not below.inner:
                continue
            for colon, value, rest in frames.members_after_key(thread, at.ends):
                member = self.member(below, colon, value, clock)
                found.add(member, rest.cost)
                if member.exits is not None:
                    self._join(after, frames.config_of(rest), member.exits)

    def _join(self, after: dict[Config, Suffix], config: Config, suffix: Suffix) -> None:
        known = after.get(config)
        after[config] = suffix if known is None else self._suffixes.either(known, suffix)


__all__ = ["Costs", "Follower", "Leaving"]
