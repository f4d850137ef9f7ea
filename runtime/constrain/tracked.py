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
        self._suspects: dict[tuple[Leaving, frozenset[bytes], bytes], dict[int, bool]] = {}
        self._unblocked: dict[tuple[Part, State, frozenset[bytes], bytes], Part] = {}
        self.nbytes = 0

    def allowed(self, thread: Thread, leaving: Leaving, after: int) -> Leaving:
        """`leaving`, less the tokens that what is taken forbids. after: what all behind it costs."""
        assert thread.text is not None
        key = leaving, self._frames.taken(thread.rest), thread.text
        suspects = self._suspects.get(key)
        if suspects is None:
            suspects = self._suspects[key] = self._find_suspects(thread, leaving)
            self.nbytes += _ENTRY_BYTES + 100 * len(suspects)
        if not suspects:
            return leaving
        lone = self._frames.lone(thread)
        costs: dict[int, int | None] = {}
        for token, is_taken in suspects.items():
            cost = None if is_taken else self._cost(lone, token)
            costs[token] = None if cost is None else cost - after
        return leaving.with_costs(costs)

    def _find_suspects(self, thread: Thread, leaving: Leaving) -> dict[int, bool]:
        """The tokens of `leaving` that what is taken may forbid, and whether it surely does."""
        found = dict.fromkeys(leaving.among(self._vocabulary.spanning), False)
        for rest in self._rests(thread):
            tokens = leaving.among(self._vocabulary.tokens_with_prefix(rest))
            if tokens:
                found |= dict.fromkeys(tokens, self._is_end(thread, rest))
        return found

    def _is_end(self, thread: Thread, rest: bytes) -> bool:
        """Whether nothing goes on from the taken text that `rest` leads to."""
        here: Config | None = self._frames.lone(thread)
        for byte in rest:
            if here is None:
                break
            here = self._frames.step(here, byte)
        return here is None

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
        blocked: set[int] = set()
        for rest in rests:
            beyond = self._vocabulary.tokens_with_prefix(rest)
            if beyond and self._is_end(thread, rest):
                blocked.update(beyond)
            else:
                tokens.update(beyond)
            if len(rest) == 1 or not loops.issuperset(rest[1:-1]):
                tokens.update(self._on_the_way(rest))
        blocked.update(token for token in tokens - blocked if self._cost(lone, token) is None)
        return list(blocked)

    def affordable(
        self, thread: Thread, inside: NDArray[np.int32], leaving: list[tuple[Leaving, int]], remaining: int
    ) -> NDArray[np.int32]:
        """The tokens of those inside the terminal and those leaving it that cost less than `remaining`. Only tokens
        near texts that are taken cost more than `inside` takes into account."""
        allowed = np.zeros(self._vocabulary.words * 32, bool)
        allowed[inside] = True
        for found, after in leaving:
            allowed[self.allowed(thread, found, after).below(remaining - after)] = True
        lone = self._frames.lone(thread)
        for rest in self._rests(thread):
            for token in (*self._on_the_way(rest), *self._vocabulary.tokens_with_prefix(rest)):
                cost = self._cost(lone, token)
                if cost is None or cost >= remaining:
                    allowed[token] = False
        return np.flatnonzero(allowed).astype(np.int32)

    def _rests(self, thread: Thread) -> list[bytes]:
        """What the taken texts that begin with the thread's have after it."""
        assert thread.text is not None
        return self._frames.taken_after(thread.rest, thread.text)

    def _on_the_way(self, text: bytes) -> list[int]:
        """The tokens that `text` begins with."""
        trie = self._vocabulary.trie
        found: list[int] = []
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
