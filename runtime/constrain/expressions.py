"""A rule graph made ready for one vocabulary: what no token can write is taken out, every node has a price in
tokens, and bytes that nothing tells apart share a class.

This file knows nodes, one by one. Where a text stands among them is `places.py`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

import numpy as np

from latticework.lang.errors import ConstraintError
from latticework.runtime.constrain.rules import (
    Bytes,
    Either,
    Empty,
    Literal,
    Node,
    Repeat,
    RuleGraph,
    Then,
    Words,
    check_rules,
)
from latticework.runtime.constrain.vocabulary import Vocabulary

_EXACT_BYTES = 1 << 18  # literals in all that are priced exactly; the rest cost one token a byte
_MOST_TOKENS = 1 << 24  # prices of nodes stop here


class WordTable:
    """Sorted words. A *position* is (depth, start): the words from `start` on that begin with the first `depth` bytes
    of word `start`, which is itself longer than that."""

    def __init__(self, words: tuple[bytes, ...], costs: list[list[int]]) -> None:
        self._words = words
        self._costs = costs  # of each word, the tokens that spell it from each byte on

    def cost(self, depth: int, start: int) -> int:
        """The fewest tokens that finish any of the words."""
        return min(costs[depth] for costs in self._costs[start : self._end(depth, start, len(self._words))])

    def branches(self, depth: int, start: int) -> Iterator[tuple[int, bool, int | None]]:
        """For each next byte: the byte, whether a word ends with it, and where the longer words start."""
        end = self._end(depth, start, len(self._words))
        while start < end:
            word = self._words[start]
            following = self._end(depth + 1, start, end)
            ends = len(word) == depth + 1
            longer = start + 1 if ends else start
            yield word[depth], ends, longer if longer < following else None
            start = following

    def _end(self, depth: int, start: int, stop: int) -> int:
        return bisect_right(self._words, self._words[start][:depth], start, stop, key=lambda word: word[:depth])


class Expressions:
    """The nodes of `rules`, restricted to bytes that `vocabulary` can write.

    costs: an upper bound on the tokens of each node's shortest text. classes: uint8[256]. node_classes: the classes
    that a `Bytes` node takes. Raises ConstraintError when no text of the language can be written.
    """

    def __init__(self, rules: RuleGraph, vocabulary: Vocabulary) -> None:
        check_rules(rules)
        self.root = rules.root
        self.nodes: list[Node] = list(rules.nodes)
        self.costs: list[int] = []
        self.tables: dict[int, WordTable] = {}
        self._exact_left = _EXACT_BYTES
        self._literal_costs: dict[int, list[int]] = {}
        is_gone = self._take_out_unwritable(vocabulary)
        for index in range(len(self.nodes)):
            self.costs.append(0 if is_gone[index] else min(self._price(index, vocabulary), _MOST_TOKENS))
        self._split_bytes(is_gone)

    def literal_cost(self, index: int, written: int) -> int:
        """Tokens for what a literal still lacks."""
        costs = self._literal_costs.get(index)
        if costs is not None:
            return costs[written]
        node = self.nodes[index]
        assert isinstance(node, Literal)
        return len(node.data) - written

    def _take_out_unwritable(self, vocabulary: Vocabulary) -> list[bool]:
        """Cuts what needs a byte that no token writes alone; for each node, whether nothing of it is left."""
        gone = [False] * len(self.nodes)
        nullable = [False] * len(self.nodes)
        missing: set[int] = set()
        for index, node in enumerate(self.nodes):
            match node:
                case Empty():
                    nullable[index] = True
                case Bytes(ranges):
                    kept = [b for low, high in ranges for b in range(low, high + 1) if b in vocabulary.writable]
                    gone[index] = not kept
                    missing.update(() if kept else (ranges[0][0],))
                    self.nodes[index] = Bytes(tuple((b, b) for b in kept))
                case Literal(data):
                    missing |= (lacking := set(data) - vocabulary.writable)
                    gone[index] = bool(lacking)
                case Words(words):
                    left = tuple(word for word in words if vocabulary.writable.issuperset(word))
                    missing.update(() if left else set(words[0]) - vocabulary.writable)
                    gone[index] = not left
                    self.nodes[index] = Words(left)
                case Then(first, rest):
                    gone[index] = gone[first] or gone[rest]
                    nullable[index] = nullable[first] and nullable[rest]
                case Either(items):
                    items = tuple(item for item in items if not gone[item])
                    gone[index] = not items
                    nullable[index] = any(nullable[item] for item in items)
                    self.nodes[index] = Either(items)
                case Repeat(item, low, high):
                    low = 0 if nullable[item] else low
                    gone[index] = gone[item] and low > 0
                    nullable[index] = low == 0
                    self.nodes[index] = Empty() if gone[item] or high == 0 else Repeat(item, low, high)
        if gone[self.root]:
            shown = ", ".join(f"0x{byte:02x}" for byte in sorted(missing)[:8])
            raise ConstraintError(
                f"no text of the constraint can be written: no token of the vocabulary writes {shown}",
                hint="another model's tokenizer may have it",
            )
        return gone

    def _price(self, index: int, vocabulary: Vocabulary) -> int:
        match self.nodes[index]:
            case Empty():
                return 0
            case Bytes():
                return 1
            case Literal(data):
                if len(data) > self._exact_left:
                    return len(data)
                self._literal_costs[index] = self._spell(data, vocabulary)
                return self._literal_costs[index][0]
            case Words(words):
                self.tables[index] = WordTable(words, [self._spell(word, vocabulary) for word in words])
                return self.tables[index].cost(0, 0)
            case Then(first, rest):
                return self.costs[first] + self.costs[rest]
            case Either(items):
                return min(self.costs[item] for item in items)
            case Repeat(item, low):
                return low * self.costs[item]

    def _spell(self, data: bytes, vocabulary: Vocabulary) -> list[int]:
        if len(data) > self._exact_left:
            return list(range(len(data), -1, -1))
        self._exact_left -= len(data)
        return vocabulary.fewest_tokens(data)

    def _split_bytes(self, is_gone: list[bool]) -> None:
        """Byte classes: two bytes share one when every set holds both or neither, and no literal holds either."""
        signature = [0] * 256
        alone: set[int] = set()
        sets: dict[int, list[int]] = {}
        for index, node in enumerate(self.nodes):
            if is_gone[index]:
                continue
            match node:
                case Literal(data):
                    alone.update(data)
                case Words(words):
                    alone.update(*words)
                case Bytes(ranges):
                    sets[index] = [low for low, _ in ranges]
        bit = 1
        for members in dict.fromkeys(tuple(found) for found in sets.values()):
            for byte in members:
                signature[byte] |= bit
            bit <<= 1
        for byte in alone:
            signature[byte] |= bit << byte
        numbers: dict[int, int] = {}
        classes = [numbers.setdefault(mark, len(numbers)) for mark in signature]
        self.classes = np.array(classes, np.uint8)
        self.class_count = len(numbers)
        self.node_classes = {index: tuple(sorted({classes[b] for b in found})) for index, found in sets.items()}
        counts = np.bincount(self.classes)
        self.single_byte = {number: byte for byte, number in enumerate(classes) if counts[number] == 1}
