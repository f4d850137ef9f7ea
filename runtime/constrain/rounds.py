"""How many rounds of a repeat can begin within one token: counts beyond that cannot matter to its mask.

A round begins where the token begins, or between two bytes that can end one round and begin the next; all bytes of
neighbouring rounds are bytes of the repeated text. So `\\w{1,50}` has as many rounds as the longest run of letters in
a token, and `(\\w{1,50}\\s){1,100}` one more than the most places in a token where a letter follows a blank.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from latticework.runtime.constrain.characters import Bytes256
from latticework.runtime.constrain.expressions import Expressions
from latticework.runtime.constrain.rules import (
    Bytes,
    Either,
    Empty,
    Literal,
    Machine,
    Repeat,
    Then,
    Words,
    children,
)
from latticework.runtime.constrain.vocabulary import Vocabulary

_MANY = 16  # alternatives
_BEYOND_ASCII = (1 << 256) - (1 << 128)


class Ends(NamedTuple):
    """The bytes of a node's texts, those they may begin and end with, as bits of an integer. nullable: the empty text
    is one of them."""

    alphabet: int
    first: int
    last: int
    nullable: bool


class Rounds:
    """The most rounds of each repeat, over one vocabulary."""

    def __init__(self, expressions: Expressions, vocabulary: Vocabulary) -> None:
        self._nodes = expressions.nodes
        self._characters = vocabulary.characters
        self._ends: dict[int, Ends] = {}
        self._most: dict[int, int] = {}

    def most(self, node: int) -> int:
        """Of a `Repeat` node: at most so many of its rounds begin within one token, wherever in it the token begins."""
        most = self._most.get(node)
        if most is None:
            kind = self._nodes[node]
            assert isinstance(kind, Repeat)
            ends = self._find_ends(kind.item)
            sets = [_as_array(bits) for bits in (ends.alphabet, ends.first, ends.last)]
            most = self._most[node] = self._characters.most_rounds(*sets)
        return most

    def _find_ends(self, node: int) -> Ends:
        work = [node]
        while work:
            kind = self._nodes[work[-1]]
            if isinstance(kind, Either) and len(kind.items) > _MANY:
                index = work.pop()
                self._ends[index] = self._roughly(index)
                continue
            unknown = [child for child in children(kind) if child not in self._ends]
            work += unknown
            if not unknown:
                index = work.pop()
                self._ends[index] = self._ends_of(index)
        return self._ends[node]

    def _roughly(self, node: int) -> Ends:
        """Of a node with many below it, most often a set of characters: any of its bytes may be the first or the last,
        and so may any beyond ASCII where one is."""
        alphabet = 0
        seen = {node}
        work = [node]
        nullable = False
        while work:
            kind = self._nodes[work.pop()]
            match kind:
                case Bytes(ranges) if ranges[0][0] >= 0x80:
                    alphabet |= _BEYOND_ASCII
                case Bytes(ranges):
                    alphabet |= sum((1 << high + 1) - (1 << low) for low, high in ranges)
                case Literal(data):
                    alphabet |= _bits(data)
                case Words(words):
                    alphabet |= _bits(b"".join(words))
                case _:
                    nullable = nullable or not isinstance(kind, Then | Either)
                    below = [child for child in children(kind) if child not in seen]
                    seen.update(below)
                    work += below
        return Ends(alphabet, alphabet, alphabet, nullable)

    def _ends_of(self, index: int) -> Ends:
        match self._nodes[index]:
            case Bytes(ranges):
                taken = sum((1 << high + 1) - (1 << low) for low, high in ranges)
                return Ends(taken, taken, taken, False)
            case Literal(data):
                return Ends(_bits(data), 1 << data[0], 1 << data[-1], False)
            case Words(words):
                first, last = _bits(word[0] for word in words), _bits(word[-1] for word in words)
                return Ends(_bits(b"".join(words)), first, last, False)
            case Then(first_node, rest_node):
                head, tail = self._ends[first_node], self._ends[rest_node]
                first = head.first | (tail.first if head.nullable else 0)
                last = tail.last | (head.last if tail.nullable else 0)
                return Ends(head.alphabet | tail.alphabet, first, last, head.nullable and tail.nullable)
            case Repeat(item, low):
                ends = self._ends[item]
                return ends._replace(nullable=ends.nullable or low == 0)
            case Empty():
                return Ends(0, 0, 0, True)
            case Either(items):
                return self._union(items, False)
            case Machine() as machine:
                united = self._union(children(machine), machine.states[0].accepts)
                return united._replace(first=united.alphabet, last=united.alphabet)
            case kind:
                raise AssertionError(kind)

    def _union(self, items: tuple[int, ...], nullable: bool) -> Ends:
        alphabet = first = last = 0
        for item in items:
            ends = self._ends[item]
            alphabet, first, last = alphabet | ends.alphabet, first | ends.first, last | ends.last
            nullable = nullable or ends.nullable
        return Ends(alphabet, first, last, nullable)


def _bits(data: Iterable[int]) -> int:
    found = 0
    for byte in set(data):
        found |= 1 << byte
    return found


def _as_array(bits: int) -> Bytes256:
    return np.unpackbits(np.frombuffer(bits.to_bytes(32, "little"), np.uint8), bitorder="little").astype(bool)


__all__ = ["Rounds"]
