"""Token healing: text that was cut into tokens too early is taken back, and written again with what follows it.

    prompt    ... http :          the tokenizer would have written ... http ://
    taken     ... http            ":" is spelled again, by any token that begins so: it may be "://"

The idea is guidance's; the rule is that of its engine llguidance (`chop_tokens`): the longest run of the last few
tokens that some longer token begins with is taken back. This file knows bytes and masks. What may be taken back at
all, and what a sequence does then, it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from latticework.runtime.constrain.base import Matcher, Row
from latticework.runtime.constrain.vocabulary import Vocabulary

if TYPE_CHECKING:
    from latticework.runtime.constrain.automaton import ConstraintMatcher

MAX_HEALED = 4  # tokens taken back at most


def count_to_heal(vocabulary: Vocabulary, tokens: Sequence[int], most: int) -> int:
    """How many tokens at the end of a text are taken back: no special ones, of no more than `most` bytes together, and
    not all there are. 0 where no token could have gone on from there."""
    written, found = b"", 0
    for count in range(1, min(MAX_HEALED, len(tokens) - 1) + 1):
        data = vocabulary.tokens[tokens[-count]]
        written = data + written
        if not data or len(written) > most:
            break
        node = vocabulary.trie.find(written)
        if node is not None and vocabulary.trie.children[node]:
            found = count
    return found


class HealingMatcher:
    """Spells `prefix`, which is no part of the text, then goes on as `inner` does; without it anything may follow. The
    token that ends the prefix may go on with text of `inner`. See `base.Matcher`; what it says of tokens counts those
    with bytes behind the prefix."""

    __slots__ = ("_at", "_history", "_inner", "_prefix", "_spellable", "_vocabulary")

    def __init__(self, vocabulary: Vocabulary, prefix: bytes, inner: ConstraintMatcher | None = None) -> None:
        self._vocabulary = vocabulary
        self._prefix = prefix
        self._inner = inner
        self._at = 0  # bytes of the prefix spelled so far
        self._history: list[tuple[int, bool]] = []  # of each accepted token: where it began, and whether inner took it
        self._spellable = _spellable(vocabulary, prefix)

    @property
    def _left(self) -> bytes:
        return self._prefix[self._at :]

    def fill_mask(self, row: Row, remaining: int | None = None) -> None:
        if self._left:
            np.bitwise_or(self._vocabulary.pack(self._spelling()), self._crossing(remaining), out=row)
        elif self._inner is not None:
            self._inner.fill_mask(row, remaining)
        else:
            row[:] = self._vocabulary.pack(np.arange(self._vocabulary.size, dtype=np.int32))

    def _spelling(self) -> list[int]:
        """The tokens that write some of the prefix and leave what can be written."""
        trie, node = self._vocabulary.trie, 0
        found: list[int] = []
        for end, byte in enumerate(self._left, self._at + 1):
            node = trie.child(node, byte)
            if node < 0:
                break
            if end in self._spellable:
                found += trie.token_ids[trie.token_start[node] : trie.token_start[node + 1]].tolist()
        return found

    def _crossing(self, remaining: int | None) -> Row:
        """The tokens that write all that is left of the prefix and go on."""
        node = self._vocabulary.trie.find(self._left)
        if node is None:
            return np.zeros(self._vocabulary.words, np.int32)
        if self._inner is not None:
            return self._inner.row_below(node, remaining)
        return self._vocabulary.row_below(node)

    def prepare(self, deadline: float) -> bool:
        if self._inner is None:
            return True
        if not self._left:
            return self._inner.prepare(deadline)
        node = self._vocabulary.trie.find(self._left)
        return node is None or self._inner.prepare_below(node, deadline)

    def accept(self, token: int) -> bool:
        left, inner = self._left, self._inner
        if not 0 <= token < self._vocabulary.size:
            return False
        if not left:
            if inner is not None and not inner.accept(token):
                return False
            self._history.append((self._at, inner is not None))
            return True
        data = self._vocabulary.tokens[token]
        end = self._at + len(data)
        if not data or not (data.startswith(left) or (left.startswith(data) and end in self._spellable)):
            return False
        rest = data[len(left) :]
        is_inner = bool(rest) and inner is not None
        if is_inner and inner is not None and not inner.accept_bytes(rest):
            return False
        self._history.append((self._at, is_inner))
        self._at = min(len(self._prefix), end)
        return True

    def rollback(self, count: int) -> None:
        assert 0 <= count <= len(self._history)
        if not count:
            return
        taken = self._history[-count:]
        del self._history[-count:]
        self._at = taken[0][0]
        if self._inner is not None:
            self._inner.rollback(sum(is_inner for _, is_inner in taken))

    def forced(self, most: int | None = None) -> bytes:
        left = self._left[:most]
        if self._inner is None:
            return left
        return left + self._inner.forced(None if most is None else most - len(left))

    def is_complete(self) -> bool:
        return not self._left and (self._inner is None or self._inner.is_complete())

    def is_finished(self) -> bool:
        return not self._left and self._inner is not None and self._inner.is_finished()

    def shortest(self) -> int:
        return 0 if self._inner is None else self._inner.shortest()

    def copy(self) -> Matcher:
        twin = HealingMatcher.__new__(HealingMatcher)
        twin._vocabulary, twin._prefix, twin._spellable = self._vocabulary, self._prefix, self._spellable
        twin._inner = None if self._inner is None else self._inner.copy()
        twin._at, twin._history = self._at, list(self._history)
        return twin


def _spellable(vocabulary: Vocabulary, text: bytes) -> frozenset[int]:
    """The places from which on tokens can write the rest of `text` exactly."""
    found = {len(text)}
    for start in range(len(text) - 1, -1, -1):
        node = 0
        for end in range(start + 1, len(text) + 1):
            node = vocabulary.trie.child(node, text[end - 1])
            if node < 0:
                break
            if end in found and vocabulary.trie.token_start[node] < vocabulary.trie.token_start[node + 1]:
                found.add(start)
                break
    return frozenset(found)


__all__ = ["MAX_HEALED", "HealingMatcher", "count_to_heal"]
