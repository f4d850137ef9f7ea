"""The tokens of tracked threads: those that write a text which must not be one of some that are taken.

What such a thread wrote matters only to tokens that come to a taken text, and to those that write another tracked
text, whole, behind it. These few are followed byte by byte; all others are as if nothing were taken.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latticework.runtime.constrain.clock import Clock
from latticework.runtime.constrain.frames import Config, Frames, Thread
from latticework.runtime.constrain.leaving import Follower, Leaving
from latticework.runtime.constrain.parts import Part
from latticework.runtime.constrain.places import State
from latticework.runtime.constrain.suffixes import Suffixes
from latticework.runtime.constrain.vocabulary import Vocabulary

_ENTRY_BYTES = 300


class Tracked:
    """Finds the few tokens that what is taken matters to. nbytes: memory held, roughly."""

    def __init__(self, frames: Frames, vocabulary: Vocabulary, follower: Follower, suffixes: Suffixes) -> None:
        self._frames = frames
        self._vocabulary = vocabulary
        self._follower = follower
        self._suffixes = suffixes
        self.forget()

    def all(self, thread: Thread, clock: Clock) -> Leaving:
        """All tokens that go on from a thread with few texts. Raises Late."""
        found = Leaving()
        found.add_costs(self._follower.exact(self._suffixes.whole, self._frames.lone(thread), clock))
        return found

    def forget(self) -> None:
        self._suspects: dict[tuple[Leaving, frozenset[bytes], bytes], list[int]] = {}
        self._unblocked: dict[tuple[Part, State, frozenset[bytes], bytes], Part] = {}
        self.nbytes = 0

    def allowed(self, thread: Thread, leaving: Leaving) -> Leaving:
        """`leaving`, less the tokens that what is taken forbids."""
        assert thread.text is not None
        key = leaving, self._frames.taken(thread.rest), thread.text
        suspects = self._suspects.get(key)
        if suspects is None:
            tokens = list(self._vocabulary.spanning)
            for rest in self._rests(thread):
                tokens += self._vocabulary.tokens_with_prefix(rest)
            suspects = self._suspects[key] = list(leaving.among(tokens))
            self.nbytes += _ENTRY_BYTES
        if not suspects:
            return leaving
        lone = self._frames.lone(thread)
        return leaving.with_costs({token: self._cost(lone, token) for token in suspects})

    def unblocked(self, thread: Thread, part: Part) -> Part:
        """`part`, less the tokens that come to a text that is taken, or to where all others are."""
        assert thread.text is not None
        assert thread.state is not None
        rests = self._rests(thread)
        if not rests:
            return part
        key = part, thread.state, self._frames.taken(thread.rest), thread.text
        found = self._unblocked.get(key)
        if found is None:
            blocked = self._blocked(thread, rests)
            found = self._unblocked[key] = part.without(blocked, self._vocabulary) if blocked else part
            self.nbytes += found.nbytes if blocked else _ENTRY_BYTES
        return found

    def _blocked(self, thread: Thread, rests: list[bytes]) -> list[int]:
        """The tokens inside the terminal that the thread may not take. Whether it may depends on nothing behind it."""
        assert thread.terminal is not None
        assert thread.state is not None
        states = thread.terminal.states
        loops = states.loops(thread.state)
        if not loops and len(live := states.arrows(states.adopt(thread.state).index)) == 1:
            loops = states.loops(states.states[next(iter(live.values()))])  # of the only state after the first byte
        lone = self._frames.lone(thread)
        tokens: set[int] = set()
        for rest in rests:
            is_free = len(rest) > 1 and loops.issuperset(rest[1:-1])
            tokens.update(self._vocabulary.tokens_with_prefix(rest) if is_free else self._on_the_way(rest))
        return [token for token in tokens if self._cost(lone, token) is None]

    def affordable(
        self, thread: Thread, inside: NDArray[np.int32], leaving: list[Leaving], remaining: int
    ) -> NDArray[np.int32]:
        """The tokens of those inside the terminal and those leaving it that cost less than `remaining`. Only tokens
        near texts that are taken cost more than `inside` takes into account."""
        allowed = np.zeros(self._vocabulary.words * 32, bool)
        allowed[inside] = True
        for found in leaving:
            allowed[self.allowed(thread, found).below(remaining)] = True
        lone = self._frames.lone(thread)
        for rest in self._rests(thread):
            for token in self._on_the_way(rest):
                cost = self._cost(lone, token)
                if cost is None or cost >= remaining:
                    allowed[token] = False
        return np.flatnonzero(allowed).astype(np.int32)

    def _rests(self, thread: Thread) -> list[bytes]:
        """What the taken texts that begin with the thread's have after it."""
        assert thread.text is not None
        return self._frames.taken_after(thread.rest, thread.text)

    def _on_the_way(self, text: bytes) -> list[int]:
        """The tokens that `text` begins with, or that begin with it."""
        trie = self._vocabulary.trie
        found = self._vocabulary.tokens_with_prefix(text)[:]
        node = 0
        for byte in text:
            node = trie.child(node, byte)
            if node < 0:
                break
            found += trie.token_ids[trie.token_start[node] : trie.token_start[node + 1]].tolist()
        return found

    def _cost(self, config: Config, token: int) -> int | None:
        """What it costs to finish after `token`; None where it cannot come."""
        here: Config | None = config
        for byte in self._vocabulary.tokens[token]:
            assert here is not None
            here = self._frames.step(here, byte)
            if here is None:
                return None
        return here.cost if here is not None else None


__all__ = ["Tracked"]
