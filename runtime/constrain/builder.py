"""Builds rule graphs: equal expressions become one node, empty languages vanish, limits hold.

Every front end (patterns, choices, JSON Schema) writes its language through a `Builder`. Nothing recurses, so no
depth of nesting overflows the stack. The builder also bounds what the automaton will pay later: how many places a
text can be in at once, and how many follow how many.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import msgspec

from latticework.lang.errors import ConstraintError, ErrorData
from latticework.lang.ir import MAX_TOKENS_LIMIT
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.rules import (
    MAX_COUNT,
    Bytes,
    Either,
    Empty,
    Literal,
    Node,
    Ranges,
    Repeat,
    RuleGraph,
    Then,
    Words,
)

NEVER = -1  # the language without any string; never part of a graph
EMPTY = 0

MAX_FOLLOWERS = 250_000  # pairs (where a text can be, where its next byte can be) beyond what any class needs
_FREE_STARTS = 128  # the widest character classes begin with about this many byte sets; more is ambiguity
_MANY_WORDS = 8  # from this many literals side by side on, they become one node
_MANY = 1 << 40  # where sizes stop being counted


class OutOfTime(ConstraintError):
    """The time limit was exceeded, which depends on the machine too. To users it is a ConstraintError."""

    def to_data(self) -> ErrorData:
        return msgspec.structs.replace(super().to_data(), type=ConstraintError.__name__)


class Builder:
    """Nodes under construction. Methods return node numbers; NEVER and EMPTY are two of them.

    field: the argument that limit errors name. Raises ConstraintError naming the limit that is exceeded.
    """

    def __init__(self, limits: Limits, field: str) -> None:
        self.limits = limits
        self.field = field
        self._deadline = time.monotonic() + limits.seconds
        self._ticks = 0
        self._nodes: list[Node] = []
        self._index: dict[Node, int] = {}
        self._nullable: list[bool] = []
        self._shortest: list[int] = []  # bytes of the shortest text
        self._starts: list[int] = []  # places a text can begin at
        self._ends: list[int] = []  # inner places from which the node can be left without a byte
        self._followers = 0
        self._add(Empty(), nullable=True, shortest=0, starts=0, ends=0)

    # ------------------------------------------------------------ leaves

    def byte_set(self, ranges: Ranges) -> int:
        """One byte out of `ranges` (0 to 255, sorted)."""
        if not ranges:
            return NEVER
        merged = [ranges[0]]
        for low, high in ranges[1:]:
            if low <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
            else:
                merged.append((low, high))
        if len(merged) == 1 and merged[0][0] == merged[0][1]:
            return self.literal(bytes([merged[0][0]]))
        return self._add(Bytes(tuple(merged)), nullable=False, shortest=1, starts=1, ends=0)

    def literal(self, data: bytes) -> int:
        if not data:
            return EMPTY
        return self._add(Literal(data), nullable=False, shortest=len(data), starts=1, ends=0)

    # ------------------------------------------------------------ combinations

    def sequence(self, items: Iterable[int]) -> int:
        """The items one after the other; neighbouring literals become one."""
        flat: list[int] = []
        text: list[bytes] = []
        for part in self._flatten(items):
            if part == NEVER:
                return NEVER
            node = self._nodes[part]
            if isinstance(node, Literal):
                text.append(node.data)
                continue
            if text:
                flat.append(self.literal(b"".join(text)))
                text = []
            flat.append(part)
        if text:
            flat.append(self.literal(b"".join(text)))
        if not flat:
            return EMPTY
        rest = flat.pop()
        while flat:
            rest = self._then(flat.pop(), rest)
        return rest

    def either(self, items: Sequence[int]) -> int:
        """Any one of the items; NEVER when there is none."""
        kept: dict[int, None] = {}
        single: list[tuple[int, int]] = []  # all one-byte items become one set
        words: dict[bytes, None] = {}
        for part in self._alternatives(items):
            match self._nodes[part]:
                case Bytes(ranges):
                    single += ranges
                case Literal(data) if len(data) == 1:
                    single.append((data[0], data[0]))
                case Literal(data):
                    words[data] = None
                case Words(more):
                    words.update(dict.fromkeys(more))
                case _:
                    kept[part] = None
        if single:
            kept[self.byte_set(tuple(sorted(single)))] = None
        if len(kept) + len(words) > self.limits.alternatives:
            raise self._exceeded("alternatives", f"{len(kept) + len(words)} alternatives stand side by side")
        if len(words) < _MANY_WORDS:
            kept.update(dict.fromkeys(self.literal(word) for word in words))
        else:
            shortest = min(map(len, words))
            kept[self._add(Words(tuple(sorted(words))), nullable=False, shortest=shortest, starts=1, ends=0)] = None
        if len(kept) <= 1:
            return next(iter(kept), NEVER)
        choices = tuple(kept)
        return self._add(
            Either(choices),
            nullable=any(self._nullable[item] for item in choices),
            shortest=min(self._shortest[item] for item in choices),
            starts=sum(self._starts[item] for item in choices),
            ends=sum(self._ends[item] for item in choices),
        )

    def _alternatives(self, items: Iterable[int]) -> Iterable[int]:
        for item in items:
            if item != NEVER:
                node = self._nodes[item]
                yield from node.items if isinstance(node, Either) else (item,)

    def optional(self, item: int) -> int:
        return self.either([item, EMPTY])

    def repeat(self, item: int, low: int = 0, high: int | None = None) -> int:
        """`item` `low` to `high` times; NEVER when high < low."""
        assert 0 <= low <= MAX_COUNT
        assert high is None or high <= MAX_COUNT
        if high is not None and high < low:
            return NEVER
        if item == NEVER:
            return EMPTY if low == 0 else NEVER
        if item == EMPTY or high == 0:
            return EMPTY
        if self._nullable[item]:
            low = 0
            item = self._without_empty(item)
        if (low, high) == (1, 1):
            return item
        node = self._nodes[item]
        if high is None and low <= 1 and isinstance(node, Repeat) and node.high is None and node.low <= 1:
            low, item = low * node.low, node.item  # (x+)+ is x+: without this, nests of them multiply
        return self._add(
            Repeat(item, low, high),
            nullable=low == 0,
            shortest=low * self._shortest[item],
            starts=self._starts[item],
            ends=self._ends[item] + 1,
        )

    # ------------------------------------------------------------ results

    def shortest(self, node: int) -> int:
        """Bytes of the shortest text of `node`."""
        return self._shortest[node]

    def finish(self, root: int) -> RuleGraph:
        """The graph with only the nodes that `root` needs. `root` is not NEVER."""
        assert root != NEVER
        if self._shortest[root] > MAX_TOKENS_LIMIT:
            raise ConstraintError(
                f"the shortest text that the constraint allows has {self._shortest[root]} bytes; "
                f"at most {MAX_TOKENS_LIMIT} are supported",
                field=self.field,
            )
        needed = [False] * len(self._nodes)
        needed[root] = True
        for index in range(root, -1, -1):
            if needed[index]:
                for child in _children(self._nodes[index]):
                    needed[child] = True
        place = {old: new for new, old in enumerate(i for i, used in enumerate(needed) if used)}
        return RuleGraph(tuple(_renumber(self._nodes[old], place) for old in place), place[root])

    def tick(self) -> None:
        """Raises when compiling has taken longer than the limit."""
        self._ticks += 1
        if self._ticks % 256 == 0 and time.monotonic() > self._deadline:
            limit = self.limits.seconds
            message = f"compiling takes too long; the limit `seconds` is {limit}"
            raise OutOfTime(message, field=self.field)

    # ------------------------------------------------------------ internals

    def _flatten(self, items: Iterable[int]) -> Iterable[int]:
        for item in items:
            while item != NEVER and isinstance(node := self._nodes[item], Then):
                self.tick()
                yield node.first
                item = node.rest
            if item != EMPTY:
                yield item

    def _then(self, first: int, rest: int) -> int:
        nullable = self._nullable[rest]
        self._follow(self._ends[first] + 1, self._starts[rest])
        return self._add(
            Then(first, rest),
            nullable=nullable and self._nullable[first],
            shortest=self._shortest[first] + self._shortest[rest],
            starts=self._starts[first] + (self._starts[rest] if self._nullable[first] else 0),
            ends=self._ends[rest] + (self._ends[first] + 1 if nullable else 0),
        )

    def _without_empty(self, item: int) -> int:
        node = self._nodes[item]
        if isinstance(node, Either) and EMPTY in node.items:
            return self.either([part for part in node.items if part != EMPTY])
        return item

    def _follow(self, places: int, starts: int) -> None:
        self._followers += places * max(0, starts - _FREE_STARTS)
        if self._followers > MAX_FOLLOWERS:
            raise ConstraintError(
                "the constraint is too ambiguous: too many of its parts can follow too many others",
                field=self.field,
                hint="fewer optional or repeated parts side by side",
            )

    def _add(self, node: Node, *, nullable: bool, shortest: int, starts: int, ends: int) -> int:
        known = self._index.get(node)
        if known is not None:
            return known
        self.tick()
        if len(self._nodes) >= self.limits.states:
            raise self._exceeded("states", "the constraint is too large")
        if starts > self.limits.alternatives:
            raise self._exceeded("alternatives", f"a text can begin in {starts} ways")
        if isinstance(node, Repeat):
            self._follow(ends, starts)
        self._index[node] = len(self._nodes)
        self._nodes.append(node)
        self._nullable.append(nullable)
        self._shortest.append(min(shortest, _MANY))
        self._starts.append(starts)
        self._ends.append(min(ends, _MANY))
        return len(self._nodes) - 1

    def _exceeded(self, limit: str, what: str) -> ConstraintError:
        value = getattr(self.limits, limit)
        return ConstraintError(f"{what}; the limit `{limit}` is {value}", field=self.field)


def _children(node: Node) -> tuple[int, ...]:
    match node:
        case Then(first, rest):
            return (first, rest)
        case Either(items):
            return items
        case Repeat(item):
            return (item,)
        case _:
            return ()


def _renumber(node: Node, place: dict[int, int]) -> Node:
    match node:
        case Then(first, rest):
            return Then(place[first], place[rest])
        case Either(items):
            return Either(tuple(place[item] for item in items))
        case Repeat(item, low, high):
            return Repeat(place[item], low, high)
        case _:
            return node
