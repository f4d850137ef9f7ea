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
    found: set[bytes] = set()
    work: list[tuple[int, int, bytes]] = [(0, 0, b"")]
    while work:
        state, used, text = work.pop()
        if machine.states[state].accepts and used >= machine.low:
            found.add(text)
        if len(found) >= limit or len(work) > limit * MANY or used > _DEEP:
            return None
        if machine.high is not None and used >= machine.high:
            continue
        for part, target in machine.states[state].moves:
            letters = few_texts(nodes, part, limit)
            if letters is None:
                return None
            work += [(target, used + 1, text + letter) for letter in letters]
    return frozenset(found)
