"""A rule graph made ready for one vocabulary: what no token can write is taken out, and every node has a price in
tokens.

This file knows nodes, one by one. Where a text stands among them, `places.py` (regular nodes) and `frames.py` (the
others) know.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from latticework.lang.errors import ConstraintError
from latticework.runtime.constrain.base import Pause, never_pause
from latticework.runtime.constrain.counting import IMPOSSIBLE, Items, Members
from latticework.runtime.constrain.distinct import FewTexts
from latticework.runtime.constrain.lengths import Lengths
from latticework.runtime.constrain.live import live_graph
from latticework.runtime.constrain.rules import (
    Array,
    Bytes,
    Call,
    Choice,
    Either,
    Empty,
    Literal,
    Machine,
    Node,
    Object,
    Ranges,
    Repeat,
    RuleGraph,
    Terminal,
    Then,
    Words,
    children,
)
from latticework.runtime.constrain.value_counts import reachable
from latticework.runtime.constrain.vocabulary import Vocabulary

_EXACT_BYTES = 1 << 18  # literals in all that are priced exactly; the rest cost one token a byte
_ONE = [1, 0]  # what a single byte costs
_MOST_TOKENS = 1 << 24  # prices of nodes stop here
_FEW_SETS = 64  # of bytes: what tells more of them apart is not kept
TRACKED_COST = 3  # bytes that surely lead away from texts that are taken already


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
    """The nodes of `rules`, restricted to bytes that `vocabulary` can write. `rules` are valid, as those of a
    `Builder` or of `decode_rules` are; is_live: and every part of them is known to have a text.

    costs: an upper bound on the tokens of each node's shortest text. Raises ConstraintError when no text of the
    language can be written.
    """

    def __init__(self, rules: RuleGraph, vocabulary: Vocabulary, is_live: bool, pause: Pause = never_pause) -> None:
        live = live_graph(rules, vocabulary.writable, pause, is_live=is_live)
        if live is None:
            raise _nothing_to_write(rules, vocabulary)
        self.root = live.root
        self.nodes = live.nodes
        self.rules = live.rules
        self.pause = pause
        self._vocabulary = vocabulary
        self.few_texts = FewTexts(self.nodes, self.rules, [True] * len(self.nodes))
        self._exact_left = _EXACT_BYTES
        self._literal_costs: dict[int, list[int]] = {}
        self._tables: dict[int, WordTable] = {}
        self._lengths: dict[int, Lengths] = {}
        self._dearest: dict[int, int] = {}  # of a machine, what its dearest character costs
        self._key_costs: dict[bytes, list[int]] = {}
        self._costs_of_keys: dict[int, list[list[int]]] = {}
        self._members: dict[int, Members] = {}
        self._items: dict[int, Items] = {}
        self._spreads: dict[int, int] = {}
        self.costs: list[int] = []
        self._price_all()

    def literal_cost(self, index: int, written: int) -> int:
        """Tokens for what a literal still lacks."""
        costs = self._literal_costs.get(index)
        if costs is None:
            node = self.nodes[index]
            assert isinstance(node, Literal)
            costs = self._literal_costs.setdefault(index, self.spell(node.data))
        return costs[written]

    def table(self, index: int) -> WordTable:
        """The words of a `Words` node."""
        table = self._tables.get(index)
        if table is None:
            node = self.nodes[index]
            assert isinstance(node, Words)
            table = WordTable(node.words, [self.spell(word) for word in node.words])
            table = self._tables.setdefault(index, table)
        return table

    def lengths(self, index: int) -> Lengths:
        """Of a `Machine` node."""
        lengths = self._lengths.get(index)
        if lengths is None:
            node = self.nodes[index]
            assert isinstance(node, Machine)
            lengths = self._lengths[index] = Lengths(node)
        return lengths

    def machine_cost(self, index: int, state: int, used: int) -> int:
        """Tokens that finish a machine in `state`, `used` characters written."""
        node = self.nodes[index]
        assert isinstance(node, Machine)
        dearest = self._dearest.get(index)
        if dearest is None:
            dearest = self._dearest[index] = max((self.costs[part] for part in children(node)), default=0)
        return min(self.lengths(index).shortest(state, node.low - used) * dearest, _MOST_TOKENS)

    def members(self, index: int) -> Members:
        """The registers of an `Object` node."""
        found = self._members.get(index)
        if found is None:
            node = self.nodes[index]
            assert isinstance(node, Object)
            around = self.costs[node.colon] + self.costs[node.comma]
            prices = [
                [around + spelled[0] + self.costs[choice.value] for choice in p.choices]
                for p, spelled in zip(node.properties, self.key_costs(index), strict=True)
            ]
            extras = [
                [around + self.costs[extra.key] + TRACKED_COST + self.costs[choice.value] for choice in extra.choices]
                for extra in node.extras
            ]
            supplies = [self.few_texts(extra.key) for extra in node.extras]
            found = self._members[index] = Members(node, prices, extras, supplies, self.pause)
        return found

    def key_costs(self, index: int) -> list[list[int]]:
        """Of each listed key of an `Object` node, the tokens that write it from each of its bytes on."""
        found = self._costs_of_keys.get(index)
        if found is None:
            node = self.nodes[index]
            assert isinstance(node, Object)
            found = self._costs_of_keys[index] = [self.key_cost(member.key) for member in node.properties]
        return found

    def key_cost(self, key: bytes) -> list[int]:
        """The tokens that write a listed key from each of its bytes on."""
        found = self._key_costs.get(key)
        if found is None:
            found = self._key_costs.setdefault(key, self.spell(key))
        return found

    def items(self, index: int) -> Items:
        """The registers of an `Array` node."""
        found = self._items.get(index)
        if found is None:
            node = self.nodes[index]
            assert isinstance(node, Array)

            def prices(choices: tuple[Choice, ...]) -> list[int]:
                return [self.costs[node.comma] + self.item_cost(choice.value, choices, node) for choice in choices]

            first = [prices(choices) for choices in node.first]
            found = self._items[index] = Items(node, first, prices(node.rest), self.pause)
        return found

    def item_cost(self, value: int, offered: tuple[Choice, ...], array: Array) -> int:
        """Tokens that surely write the value, one of those offered; where items must differ, one of those that differs
        from all others."""
        if not array.is_unique:
            return self.costs[value]
        texts = [self.few_texts(choice.value) for choice in offered]
        many = [self.costs[c.value] for c, found in zip(offered, texts, strict=True) if found is None]
        if many:
            return min(many) + TRACKED_COST + (max(array.low, 1) - 1) * self._spread(value)
        return max(len(text) for found in texts for text in found or ())

    def _spread(self, value: int) -> int:
        """Tokens by which a text of an array or object that has to differ from one other may be longer than the
        shortest: everything that can stand in it, once; 0 for others."""
        found = self._spreads.get(value)
        if found is None:
            below = reachable(self.nodes, self.rules, value)
            is_plain = not any(isinstance(self.nodes[node], Array | Object) for node in below)
            found = self._spreads[value] = 0 if is_plain else min(sum(map(self._longest, below)), _MOST_TOKENS)
        return found

    def _longest(self, index: int) -> int:
        """What one node may write by itself, or what its keys do."""
        match self.nodes[index]:
            case Words(words):
                return max(map(len, words))
            case Object(properties=properties):
                return sum(len(member.key) for member in properties) + TRACKED_COST + self.costs[index]
            case _:
                return self.costs[index]

    def spell(self, data: bytes) -> list[int]:
        """spell(data)[i]: tokens that write data[i:]; the fewest, while the time for that lasts."""
        if len(data) == 1:
            return _ONE
        self.pause()
        if len(data) > self._exact_left:
            return list(range(len(data), -1, -1))
        self._exact_left -= len(data)
        return self._vocabulary.fewest_tokens(data)

    # ------------------------------------------------------------ prices

    def _price_all(self) -> None:
        """Prices from below: those of rules fall from pass to pass until nothing changes."""
        rules = [IMPOSSIBLE] * len(self.rules)
        self.costs = costs = [0] * len(self.nodes)
        for index, node in enumerate(self.nodes):
            costs[index] = self._price(node, index, rules)
        if self.rules:
            calling = self._calling()
            while (found := [costs[node] for node in self.rules]) != rules:
                rules = found
                for index in calling:
                    costs[index] = self._price(self.nodes[index], index, rules)
            self._members.clear()  # made with prices that may have fallen since
            self._items.clear()
        for index, cost in enumerate(costs):
            if cost > _MOST_TOKENS:
                costs[index] = _MOST_TOKENS

    def _calling(self) -> list[int]:
        """The nodes whose prices depend on those of rules, in order."""
        found: list[int] = []
        calls = [False] * len(self.nodes)
        for index, node in enumerate(self.nodes):
            if isinstance(node, Call) or (found and any(calls[child] for child in children(node))):
                calls[index] = True
                found.append(index)
        return found

    def _price(self, node: Node, index: int, rules: list[int]) -> int:
        self.pause()
        costs = self.costs
        match node:
            case Literal():
                return self.literal_cost(index, 0)
            case Then():
                return min(costs[node.first] + costs[node.rest], IMPOSSIBLE)
            case Bytes():
                return 1
            case Either():
                return min([costs[item] for item in node.items])
            case Terminal():
                return costs[node.item]
            case Repeat():
                return min(node.low * costs[node.item], IMPOSSIBLE)
            case Object():
                return min(self._object_price(node, index), IMPOSSIBLE)
            case Array():
                return min(self._array_price(node, index), IMPOSSIBLE)
            case Call():
                return rules[node.rule]
            case Words():
                return min(map(len, node.words))  # spelled when it is come to: there may be very many
            case Machine():
                return self.machine_cost(index, 0, 0)
            case Empty():
                return 0

    def _object_price(self, node: Object, index: int) -> int:
        costs = self.costs
        if not (node.low or node.high is not None or node.bounds):  # then the required members are all that it needs
            around = costs[node.colon] + costs[node.comma]
            required = [
                around + self.key_cost(member.key)[0] + min([costs[choice.value] for choice in member.choices])
                for member in node.properties
                if member.is_required
            ]
            return costs[node.open] + sum(required) + costs[node.close] if required else costs[node.empty]
        self._members.pop(index, None)
        members = self.members(index)
        if members.may_close(members.start):
            return costs[node.empty]
        return costs[node.open] + members.cost(members.start) + costs[node.close]

    def _array_price(self, node: Array, index: int) -> int:
        costs = self.costs
        if not node.low and not any(low for low, _ in node.bounds):
            return costs[node.empty]
        self._items.pop(index, None)
        places = self.items(index)
        cost = places.cost(0, places.bounds.start)
        return costs[node.open] + cost + costs[node.close] if cost else costs[node.empty]


class Classes:
    """The bytes that nothing in the regular node `root` tells apart share a class.

    classes: uint8[256]; count: how many; of_node: the classes that each `Bytes` node takes; bytes_of: the bytes of
    each class; single_byte: the byte of each class that has only one.
    """

    def __init__(self, expressions: Expressions, root: int) -> None:
        alone: set[int] = set()
        sets: dict[int, Ranges] = {}
        for index in _below(expressions.nodes, root):
            node = expressions.nodes[index]
            if isinstance(node, Literal):
                alone.update(node.data)
            elif isinstance(node, Bytes):
                sets[index] = node.ranges
            elif isinstance(node, Words):
                alone.update(*node.words)
        told = tuple(dict.fromkeys(sets.values()))
        classes = (_kept_apart if len(told) <= _FEW_SETS else _told_apart)(told, frozenset(alone))
        of_ranges = {ranges: _classes_of(ranges, classes) for ranges in sets.values()}
        self.count = max(classes) + 1
        self.classes = np.frombuffer(classes, np.uint8)
        self.of_node = {index: of_ranges[ranges] for index, ranges in sets.items()}
        self.bytes_of: list[list[int]] = [[] for _ in range(self.count)]
        for byte, number in enumerate(classes):
            self.bytes_of[number].append(byte)
        self.single_byte = {number: found[0] for number, found in enumerate(self.bytes_of) if len(found) == 1}


def _told_apart(sets: tuple[Ranges, ...], alone: frozenset[int]) -> bytes:
    """The class of each byte: numbered by their first bytes."""
    signature = [0] * 256
    bit = 1
    for ranges in sets:
        for low, high in ranges:
            for byte in range(low, high + 1):
                signature[byte] |= bit
        bit <<= 1
    for byte in alone:
        signature[byte] |= bit << byte
    numbers: dict[int, int] = {}
    return bytes([numbers.setdefault(mark, len(numbers)) for mark in signature])


_kept_apart = lru_cache(maxsize=256)(_told_apart)  # those of strings and numbers come again and again


def _classes_of(ranges: Ranges, classes: bytes) -> tuple[int, ...]:
    return tuple(sorted({number for low, high in ranges for number in classes[low : high + 1]}))


def _below(nodes: tuple[Node, ...], root: int) -> list[int]:
    found = {root}
    work = [root]
    while work:
        for child in children(nodes[work.pop()]):
            if child not in found:
                found.add(child)
                work.append(child)
    return sorted(found)


def _nothing_to_write(rules: RuleGraph, vocabulary: Vocabulary) -> ConstraintError:
    missing: set[int] = set()
    for node in rules.nodes:
        match node:
            case Bytes(ranges):
                taken = {byte for low, high in ranges for byte in range(low, high + 1)}
                missing |= set() if taken & vocabulary.writable else {min(taken)}
            case Literal(data):
                missing |= set(data) - vocabulary.writable
            case Words(words) if not any(vocabulary.writable.issuperset(word) for word in words):
                missing |= set(words[0]) - vocabulary.writable
    shown = ", ".join(f"0x{byte:02x}" for byte in sorted(missing)[:8])
    return ConstraintError(
        f"no text of the constraint can be written: no token of the vocabulary writes {shown}",
        hint="another model's tokenizer may have it",
    )
