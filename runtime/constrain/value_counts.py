"""How many JSON values the texts of a node write at least.

Counted from below, up to a number that is wanted: what cannot be told is not counted. Where that is not enough, the
values themselves are looked at (`few_values.py`). A regular node writes each value
in one way (its texts are counted one by one); arrays and objects write different values when a member or an item, or
which members there are, differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from latticework.runtime.constrain.few_texts import MANY, few_texts
from latticework.runtime.constrain.few_values import FewValues
from latticework.runtime.constrain.rules import Array, Call, Choice, Either, Node, Object, Structured, children

MOST_WANTED = 1 << 16  # more are never found


class ValueCounts:
    """Of the nodes of one graph. live: for each node whether it is known to have a text, which only ever comes true;
    nodes without one write nothing."""

    def __init__(self, nodes: Sequence[Node], rules: Sequence[int], live: Sequence[bool]) -> None:
        self._nodes = nodes
        self._rules = rules
        self._live = live
        self._known: dict[int, int] = {}
        self._open: dict[int, int] = {}  # being counted, and how many bounded groups were around it then
        self._bounded = 0  # groups around that may have no room for every value

    def at_least(self, index: int, wanted: int) -> bool:
        """Whether a node surely writes so many values."""
        self._known.clear()
        if wanted > MOST_WANTED:
            return False
        if self._count(index, wanted) >= wanted:
            return True
        return wanted <= MANY and FewValues(self._nodes, self._rules, self._live, wanted).are_enough(index)

    def _count(self, index: int, wanted: int) -> int:
        if not self._live[index]:
            return 0
        if index in self._open:  # a value that may hold any value of its own kind: there is no end of them
            return wanted if self._open[index] == self._bounded else 0
        found = self._known.get(index)
        if found is None:
            self._open[index] = self._bounded
            found = min(self._counted(index, wanted), wanted)
            del self._open[index]
            self._known[index] = found
        return found

    def _counted(self, index: int, wanted: int) -> int:
        match node := self._nodes[index]:
            case Call(rule):
                return self._count(self._rules[rule], wanted)
            case Object() | Array():
                is_bounded = bool(node.bounds) or node.low > 1 or node.high is not None
                self._bounded += is_bounded
                found = self._objects(node, wanted) if isinstance(node, Object) else self._arrays(node, wanted)
                self._bounded -= is_bounded
                return found
            case Either(items) if any(isinstance(self._nodes[item], Structured) for item in items):
                return max(self._count(item, wanted) for item in items)
        if any(isinstance(self._nodes[part], Object | Array | Call) for part in reachable(self._nodes, (), index)):
            return 1
        texts = few_texts(self._nodes, index, wanted)
        return wanted if texts is None else len(texts)

    def _objects(self, node: Object, wanted: int) -> int:
        required = [self._choices(p.choices, wanted) for p in node.properties if p.is_required]
        optional = [self._choices(p.choices, wanted) for p in node.properties if p.choices and not p.is_required]
        is_endless = any(few_texts(self._nodes, e.key, wanted + len(node.properties)) is None for e in node.extras)
        if is_endless and node.high is None and not node.bounds:
            return wanted
        if node.bounds or node.low > len(required):
            return max([1, *required])
        found = prod(max(count, 1) for count in required)
        if node.high is not None and node.high <= len(required):
            return found
        if is_endless:
            return wanted
        return found * (prod(1 + count for count in optional) if node.high is None else 1 + max([0, *optional]))

    def _arrays(self, node: Array, wanted: int) -> int:
        if node.high == 0:
            return 1
        if node.bounds or node.is_unique:
            first = node.first[0] if node.first else node.rest
            is_free = node.low <= 1 and not node.bounds
            return self._choices(first, wanted) + (node.low == 0) if is_free else 1
        counts = [self._choices(choices, wanted) for choices in node.first]
        rest = self._choices(node.rest, wanted)
        if rest and node.high is None:
            return wanted
        lengths = 1 + (len(counts) if node.high is None else min(node.high, MOST_WANTED)) - min(node.low, MOST_WANTED)
        needed = counts[: node.low] if node.low <= len(counts) else [*counts, rest]
        return max([1, lengths, prod(max(count, 1) for count in needed)])

    def _choices(self, choices: tuple[Choice, ...], wanted: int) -> int:
        return max((self._count(choice.value, wanted) for choice in choices), default=0)


def reachable(nodes: Sequence[Node], rules: Sequence[int], index: int) -> set[int]:
    """A node and all that its texts are made of; no rules: calls are not followed."""
    found = {index}
    work = [index]
    while work:
        node = nodes[work.pop()]
        below = (rules[node.rule],) if isinstance(node, Call) and rules else children(node)
        for child in below:
            if child not in found:
                found.add(child)
                work.append(child)
    return found
