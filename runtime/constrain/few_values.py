"""The JSON values that the texts of a node write, one by one, however deep they nest.

For languages with few values: each is found once at least. A part that has as many texts as are wanted stands for that
many values that have no name. How many values there surely are without looking at each, `value_counts.py` knows.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import msgspec

from latticework.runtime.constrain.counting import Items, Members, Tally, Written, bits
from latticework.runtime.constrain.few_texts import few_texts
from latticework.runtime.constrain.rules import Array, Call, Choice, Either, Node, Object, Structured, Terminal

_MOST_STEPS = 50_000
_DEEPEST = 6  # arrays and objects around a value


class TooMany(Exception):
    """More steps than are worth it."""


class FewValues:
    """wanted: where looking ends. live: see `ValueCounts`."""

    def __init__(self, nodes: Sequence[Node], rules: Sequence[int], live: Sequence[bool], wanted: int) -> None:
        self._nodes = nodes
        self._rules = rules
        self._live = live
        self._wanted = wanted
        self._steps = 0
        self._is_cut = False

    def are_enough(self, index: int) -> bool:
        """Whether a node is found to have as many values as are wanted."""
        for depth in range(1, _DEEPEST + 1):
            self._is_cut = False
            found: set[Hashable] = set()
            try:
                for value in self._values(index, depth):
                    found.add(value)
                    if len(found) >= self._wanted:
                        return True
            except TooMany:
                return False
            if not self._is_cut:
                return False
        return False

    def _values(self, index: int, depth: int) -> Iterator[Hashable]:
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise TooMany
        if not self._live[index]:
            return
        match node := self._nodes[index]:
            case Call(rule):
                yield from self._values(self._rules[rule], depth)
            case Either(items) if any(isinstance(self._nodes[item], Structured) for item in items):
                for item in items:
                    yield from self._values(item, depth)
            case Object() | Array():
                if not depth:
                    self._is_cut = True
                elif isinstance(node, Object):
                    yield from self._objects(node, depth - 1)
                else:
                    places = Items(node, [[1] * len(choices) for choices in node.first], [1] * len(node.rest))
                    yield from self._arrays(places, depth - 1, 0, places.bounds.start, ())
            case _:
                yield from self._texts(node.item if isinstance(node, Terminal) else index)

    def _texts(self, index: int) -> Iterator[Hashable]:
        texts = few_texts(self._nodes, index, self._wanted)
        if texts is not None:
            yield from sorted(texts)
        else:
            yield from ((index, number) for number in range(self._wanted))

    # ------------------------------------------------------------ objects

    def _objects(self, node: Object, depth: int) -> Iterator[Hashable]:
        """Listed members by their order, then the others by that of their keys: each value comes in one order."""
        listed = {member.key for member in node.properties}
        keys: list[list[bytes]] = []
        for number, extra in enumerate(node.extras):
            found = few_texts(self._nodes, extra.key, self._wanted + len(listed))
            unnamed = (b"?%d.%d" % (number, count) for count in range(self._wanted + min(node.low, self._wanted)))
            keys.append(sorted(found - listed) if found is not None else sorted(unnamed))
        members = Members(
            msgspec.structs.replace(node, is_ordered=True),
            [[1] * len(member.choices) for member in node.properties],
            [[1] * len(extra.choices) for extra in node.extras],
            [few_texts(self._nodes, extra.key) for extra in node.extras],
        )
        yield from self._members(members, keys, depth, members.start, b"", frozenset())

    def _members(
        self,
        members: Members,
        keys: list[list[bytes]],
        depth: int,
        written: Written,
        last: bytes,
        found: frozenset[tuple[bytes, Hashable]],
    ) -> Iterator[Hashable]:
        """last: the key of the last member that is not listed."""
        if members.may_close(written):
            yield found
        following: list[tuple[bytes, Choice, Written, bytes]] = []
        if not last:
            for index in bits(members.candidates(written)):
                key = members.node.properties[index].key
                following += [(key, choice, after, last) for choice, after in members.with_property(written, index)]
        if not members.lacking(written):
            for index, names in enumerate(keys):
                for key in names:
                    if key > last:
                        following += [(key, *entry, key) for entry in members.with_extra(written, index, key)]
        for key, choice, after, latest in following:
            for value in self._values(choice.value, depth):
                yield from self._members(members, keys, depth, after, latest, found | {(key, value)})

    # ------------------------------------------------------------ arrays

    def _arrays(
        self, items: Items, depth: int, position: int, tally: Tally, found: tuple[Hashable, ...]
    ) -> Iterator[Hashable]:
        if items.cost(position, tally) == 0 and items.bounds.is_enough(tally):
            yield found
        if len(found) > items.node.low and len(found) >= self._wanted:
            return  # there is one of each length
        for choice, after, reached in items.choices(position, tally):
            for value in self._values(choice.value, depth):
                if not items.node.is_unique or value not in found:
                    yield from self._arrays(items, depth, after, reached, (*found, value))
