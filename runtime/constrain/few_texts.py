"""The texts of a regular node, where they are few."""

from __future__ import annotations

from collections.abc import Sequence

from latticework.runtime.constrain.rules import (
    Bytes,
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


def few_texts(nodes: Sequence[Node], index: int, limit: int = MANY) -> Texts | None:
    """All texts of a regular node, if there are fewer than `limit`; None otherwise."""
    node = nodes[index]
    match node:
        case Empty():
            return frozenset((b"",))
        case Bytes(ranges):
            return frozenset(bytes((byte,)) for low, high in ranges for byte in range(low, high + 1))
        case Literal(data):
            return frozenset((data,))
        case Words(words):
            return frozenset(words) if len(words) < limit else None
        case Terminal(item):
            return few_texts(nodes, item, limit)
        case Then(first, rest):
            begins = few_texts(nodes, first, limit)
            return None if begins is None else _product(begins, few_texts(nodes, rest, limit), limit)
        case Either(items):
            found: set[bytes] = set()
            for item in items:
                more = few_texts(nodes, item, limit)
                if more is None or len(found := found | more) >= limit:
                    return None
            return frozenset(found)
        case Repeat(item, low, high):
            return None if high is None or high > limit else _repeated(few_texts(nodes, item, limit), low, high, limit)
        case Machine():
            return _of_machine(nodes, node, limit)
        case _:
            return None


def _product(first: Texts | None, rest: Texts | None, limit: int) -> Texts | None:
    if first is None or rest is None or len(first) * len(rest) >= limit:
        return None
    return frozenset(left + right for left in first for right in rest)


def _repeated(item: Texts | None, low: int, high: int, limit: int) -> Texts | None:
    if item is None or item == {b""}:
        return item
    found: Texts = frozenset((b"",)) if low == 0 else frozenset()
    power: Texts | None = frozenset((b"",))
    for count in range(1, high + 1):
        power = _product(power, item, limit)
        if power is None:
            return None
        if count >= low:
            found |= power
        if len(found) >= limit:
            return None
    return found


def _of_machine(nodes: Sequence[Node], machine: Machine, limit: int) -> Texts | None:
    letters: dict[int, Texts] = {}
    for part in children(machine):
        some = few_texts(nodes, part, limit)
        if some is None:
            return None
        letters[part] = some
    if _has_many(machine, {part: len(some) for part, some in letters.items()}, limit):
        return None
    found: set[bytes] = set()
    work: list[tuple[int, int, bytes]] = [(0, 0, b"")]
    while work:
        state, used, text = work.pop()
        if machine.states[state].accepts and used >= machine.low:
            found.add(text)
        if len(work) > limit * MANY:
            return None
        if machine.high is not None and used >= machine.high:
            continue
        for part, target in machine.states[state].moves:
            work += [(target, used + 1, text + letter) for letter in letters[part]]
    return frozenset(found)


def _has_many(machine: Machine, letters: dict[int, int], limit: int) -> bool:
    """Whether it has `limit` texts, or longer ones than are looked at: counted by length, without writing them."""
    level = {0: 1}  # each state that so many characters lead to, in so many ways
    total = 0
    for used in range(_DEEP + 1):
        if used >= machine.low:
            total += sum(ways for state, ways in level.items() if machine.states[state].accepts)
        if total >= limit:
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
