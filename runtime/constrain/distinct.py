"""Arrays without repeats: which items may come, when some have few texts and others are still needed.

An item whose texts are few and taken must not be begun, and no item may take the last text that a later one needs.
Whether the items still needed can all differ is a matching of positions and texts; positions with very many texts
never lack one. This file knows texts as bytes, each value written in one way; how those of arrays and objects differ,
`item_language.py` knows.
"""

from __future__ import annotations

from collections.abc import Sequence

from latticework.runtime.constrain.few_texts import MANY, Texts, few_texts
from latticework.runtime.constrain.rules import Array, Choice, Node
from latticework.runtime.constrain.value_counts import ValueCounts


class FewTexts:
    """The texts of a graph's regular nodes, where they are few. Remembers what it was asked."""

    def __init__(self, nodes: Sequence[Node], rules: Sequence[int], live: Sequence[bool]) -> None:
        """live: see `ValueCounts`."""
        self._nodes = nodes
        self._known: dict[int, Texts | None] = {}
        self._counts = ValueCounts(nodes, rules, live)

    def __call__(self, index: int) -> Texts | None:
        """All texts of the node, if there are fewer than MANY; None otherwise."""
        if index not in self._known:
            self._known[index] = few_texts(self._nodes, index)
        return self._known[index]

    def has_values(self, index: int, wanted: int) -> bool:
        """Whether the node surely has so many texts that differ as JSON values."""
        return self._counts.at_least(index, wanted)


class Distinct:
    """The items of one array without repeats."""

    def __init__(self, few: FewTexts, node: Array) -> None:
        self._low = node.low
        self._first = [_texts_of(few, choices) for choices in node.first]
        self._rest = _texts_of(few, node.rest)
        self._scarce = frozenset().union(*(texts for texts in (*self._first, self._rest) if texts is not None))
        self._known: dict[tuple[int, Texts], Texts] = {}
        self._has_enough = node.low < 2 or all(
            any(few.has_values(choice.value, node.low) for choice in choices)
            for choices, texts in zip((*node.first, node.rest), (*self._first, self._rest), strict=True)
            if texts is None
        )

    def is_possible(self) -> bool:
        """Whether there surely are enough different items."""
        return self._has_enough and self._can_finish(0, frozenset())

    def taken(self, count: int, texts: Texts) -> Texts:
        """The texts that item number `count` may not have, when the items before it had `texts`."""
        key = (count, texts)
        found = self._known.get(key)
        if found is None:
            ruinous = (
                {text for text in self._scarce - texts if not self._can_finish(count + 1, texts | {text})}
                if count + 1 < self._low
                else set()
            )
            found = self._known[key] = texts | ruinous
        return found

    def _can_finish(self, count: int, texts: Texts) -> bool:
        """Whether items number `count` to the least number of them can all differ, from one another and `texts`."""
        sets: list[Texts] = []
        for position in range(count, self._low):
            offered = self._first[position] if position < len(self._first) else self._rest
            if offered is None:
                if position >= len(self._first):
                    break
                continue
            sets.append(offered - texts)
            if not sets[-1] or len(sets) > MANY:
                return False
        owner: dict[bytes, int] = {}
        return all(_assign(index, sets, owner, set()) for index in range(len(sets)))


def _assign(index: int, sets: list[Texts], owner: dict[bytes, int], tried: set[bytes]) -> bool:
    """Kuhn's step: gives position `index` a text, moving others to other texts if need be."""
    for text in sets[index]:
        if text not in tried:
            tried.add(text)
            if text not in owner or _assign(owner[text], sets, owner, tried):
                owner[text] = index
                return True
    return False


def _texts_of(few: FewTexts, choices: tuple[Choice, ...]) -> Texts | None:
    found: Texts = frozenset()
    for choice in choices:
        more = few(choice.value)
        if more is None:
            return None
        found |= more
    return found if len(found) < MANY else None
