"""Arrays without repeats: which items may come, when some have few texts and others are still needed.

An item whose texts are few and taken must not be begun, and no item may take the last text that a later one needs.
Whether the items still needed can all differ is a matching of positions and texts; positions with very many texts
never lack one. This file knows texts as bytes, each value written in one way.
"""

from __future__ import annotations

from collections.abc import Sequence

from latticework.runtime.constrain.rules import (
    Array,
    Bytes,
    Choice,
    Either,
    Empty,
    Literal,
    Machine,
    Node,
    Repeat,
    Terminal,
    Then,
    Words,
    children,
)

MANY = 256  # from this many texts on, a language never runs out of them
_DEEP = 512  # characters of a machine's text beyond which it counts as many

Texts = frozenset[bytes]


class FewTexts:
    """The texts of a graph's regular nodes, where they are few. Remembers what it was asked."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes
        self._known: dict[int, Texts | None] = {}

    def __call__(self, index: int) -> Texts | None:
        """All texts of the node, if there are fewer than MANY; None otherwise."""
        if index not in self._known:
            self._known[index] = few_texts(self._nodes, index)
        return self._known[index]


def few_texts(nodes: Sequence[Node], index: int) -> Texts | None:
    """All texts of a regular node, if there are fewer than MANY; None otherwise."""
    node = nodes[index]
    match node:
        case Empty():
            return frozenset((b"",))
        case Bytes(ranges):
            return frozenset(bytes((byte,)) for low, high in ranges for byte in range(low, high + 1))
        case Literal(data):
            return frozenset((data,))
        case Words(words):
            return frozenset(words) if len(words) < MANY else None
        case Terminal(item):
            return few_texts(nodes, item)
        case Then(first, rest):
            begins = few_texts(nodes, first)
            return None if begins is None else _product(begins, few_texts(nodes, rest))
        case Either(items):
            found: set[bytes] = set()
            for item in items:
                more = few_texts(nodes, item)
                if more is None or len(found := found | more) >= MANY:
                    return None
            return frozenset(found)
        case Repeat(item, low, high):
            return None if high is None or high > MANY else _repeated(few_texts(nodes, item), low, high)
        case Machine():
            return _of_machine(nodes, node)
        case _:
            return None


class Distinct:
    """The items of one array without repeats."""

    def __init__(self, few: FewTexts, node: Array) -> None:
        self._low = node.low
        self._first = [_texts_of(few, choices) for choices in node.first]
        self._rest = _texts_of(few, node.rest)
        self._scarce = frozenset().union(*(texts for texts in (*self._first, self._rest) if texts is not None))
        self._known: dict[tuple[int, Texts], Texts] = {}

    def is_possible(self) -> bool:
        """Whether there are enough different items at all."""
        return self._can_finish(0, frozenset())

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


def _product(first: Texts | None, rest: Texts | None) -> Texts | None:
    if first is None or rest is None or len(first) * len(rest) >= MANY:
        return None
    return frozenset(left + right for left in first for right in rest)


def _repeated(item: Texts | None, low: int, high: int) -> Texts | None:
    if item is None or item == {b""}:
        return item
    found: Texts = frozenset((b"",)) if low == 0 else frozenset()
    power: Texts | None = frozenset((b"",))
    for count in range(1, high + 1):
        power = _product(power, item)
        if power is None:
            return None
        if count >= low:
            found |= power
        if len(found) >= MANY:
            return None
    return found


def _of_machine(nodes: Sequence[Node], machine: Machine) -> Texts | None:
    letters: dict[int, Texts] = {}
    for part in children(machine):
        some = few_texts(nodes, part)
        if some is None:
            return None
        letters[part] = some
    if _has_many(machine, {part: len(some) for part, some in letters.items()}):
        return None
    found: set[bytes] = set()
    work: list[tuple[int, int, bytes]] = [(0, 0, b"")]
    while work:
        state, used, text = work.pop()
        if machine.states[state].accepts and used >= machine.low:
            found.add(text)
        if len(work) > MANY * MANY:
            return None
        if machine.high is not None and used >= machine.high:
            continue
        for part, target in machine.states[state].moves:
            work += [(target, used + 1, text + letter) for letter in letters[part]]
    return frozenset(found)


def _has_many(machine: Machine, letters: dict[int, int]) -> bool:
    """Whether it has MANY texts, or longer ones than are looked at: counted by length, without writing them."""
    level = {0: 1}  # each state that so many characters lead to, in so many ways
    total = 0
    for used in range(_DEEP + 1):
        if used >= machine.low:
            total += sum(ways for state, ways in level.items() if machine.states[state].accepts)
        if total >= MANY:
            return True
        if used == machine.high:
            return False
        following: dict[int, int] = {}
        for state, ways in level.items():
            for part, target in machine.states[state].moves:
                following[target] = following.get(target, 0) + ways * letters[part]
        if not following:
            return False
        level = following
    return True
