"""Builds rule graphs: equal expressions become one node, empty languages vanish, limits hold.

Every front end (patterns, choices, JSON Schema) writes its language through a `Builder`. Nothing recurses, so no
depth of nesting overflows the stack. The builder also bounds what the automaton will pay later: how many places a
text can be in at once, and how many follow how many.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import msgspec

from latticework.lang.errors import ConstraintError, ErrorData
from latticework.lang.ir import MAX_TOKENS_LIMIT
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.excerpts import Excerpt
from latticework.runtime.constrain.live import live_graph
from latticework.runtime.constrain.renumbering import compact, renumbered
from latticework.runtime.constrain.rules import (
    MAX_COUNT,
    Array,
    Bytes,
    Call,
    Choice,
    Either,
    Empty,
    Extra,
    Literal,
    Machine,
    MachineState,
    Node,
    Object,
    Property,
    Ranges,
    Repeat,
    RuleGraph,
    Terminal,
    Then,
    Words,
    check_left_recursion,
)
from latticework.runtime.constrain.sizes import MANY, Size, size_of_either

NEVER = -1  # the language without any string; never part of a graph
EMPTY = 0

MAX_FOLLOWERS = 250_000  # pairs (where a text can be, where its next byte can be) beyond what any class needs
_FREE_STARTS = 128  # the widest character classes begin with about this many byte sets; more is ambiguity
_MANY_WORDS = 8  # from this many literals side by side on, they become one node
_ONE_BYTE = Size(False, 1, 1, 0)
_BRACKETS = Size(False, 2, 1, 0)

M = TypeVar("M", Property, Extra)


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
        self._deadline = time.thread_time() + limits.seconds
        self._ticks = 0
        self._nodes: list[Node] = []
        self._index: dict[Node, int] = {}
        self._shared: dict[Hashable, int] = {}
        self._pasted: dict[Excerpt, int] = {}
        self._sizes: list[Size] = []
        self._followers = 0
        self._rules: list[int] = []  # the node of each rule; NEVER while it has none
        self._pieces = 0  # states of machines, members of objects and arrays
        self._add(Empty(), Size(True, 0, 0, 0))

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
        return self._add(Bytes(tuple(merged)), _ONE_BYTE)

    def literal(self, data: bytes) -> int:
        if not data:
            return EMPTY
        return self._add(Literal(data), Size(False, len(data), 1, 0))

    def shared(self, key: Hashable, make: Callable[[], int]) -> int:
        """The node that `make` makes, made once for a key."""
        node = self._shared.get(key)
        if node is None:
            node = self._shared[key] = make()
        return node

    def paste(self, excerpt: Excerpt) -> int:
        """The root of `excerpt`, whose nodes become nodes here."""
        known = self._pasted.get(excerpt)
        if known is None:
            place = [EMPTY]
            for node, size in zip(excerpt.nodes[1:], excerpt.sizes[1:], strict=True):
                place.append(self._add(renumbered(node, place, {}), size))
            self._follow(excerpt.followers)
            self._count(excerpt.pieces)
            known = self._pasted[excerpt] = place[excerpt.root]
        return known

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
            node = self._nodes[part]
            if isinstance(node, Literal):
                if len(node.data) == 1:
                    single.append((node.data[0], node.data[0]))
                else:
                    words[node.data] = None
            elif isinstance(node, Bytes):
                single += node.ranges
            elif isinstance(node, Words):
                words.update(dict.fromkeys(node.words))
            else:
                kept[part] = None
        if single:
            kept[self.byte_set(tuple(sorted(single)))] = None
        if len(kept) + len(words) > self.limits.alternatives:
            raise self._exceeded("alternatives", f"{len(kept) + len(words)} alternatives stand side by side")
        if len(words) < _MANY_WORDS:
            kept.update(dict.fromkeys(self.literal(word) for word in words))
        else:
            shortest = min(map(len, words))
            kept[self._add(Words(tuple(sorted(words))), Size(False, shortest, 1, 0))] = None
        if len(kept) <= 1:
            return next(iter(kept), NEVER)
        choices = tuple(kept)
        return self._add(Either(choices), size_of_either([self._sizes[item] for item in choices]))

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
        if self._sizes[item].nullable:
            low = 0
            item = self._without_empty(item)
        if (low, high) == (1, 1):
            return item
        node = self._nodes[item]
        if high is None and low <= 1 and isinstance(node, Repeat) and node.high is None and node.low <= 1:
            low, item = low * node.low, node.item  # (x+)+ is x+: without this, nests of them multiply
        size = self._sizes[item]
        return self._add(
            Repeat(item, low, high),
            Size(low == 0, min(low * size.shortest, MANY), size.starts, min(size.ends + 1, MANY)),
        )

    # ------------------------------------------------------------ structure

    def terminal(self, item: int) -> int:
        """`item`, regular, as a part whose masks are shared wherever it stands: a string, a number, a token."""
        if item in (NEVER, EMPTY):
            return item
        size = self._sizes[item]
        return self._add(Terminal(item), Size(size.nullable, size.shortest, 1, 0))

    def machine(self, states: Sequence[MachineState], low: int = 0, high: int | None = None) -> int:
        """A deterministic automaton over characters; `low` to `high` of them. NEVER where no state accepts."""
        if not any(state.accepts for state in states) or (high is not None and high < low):
            return NEVER
        self._count(len(states) + sum(len(state.moves) for state in states))
        widest = max(len(state.moves) for state in states)
        nullable = low == 0 and states[0].accepts
        return self._add(Machine(tuple(states), low, high), Size(nullable, low, widest, 0))

    def rule(self) -> int:
        """A new rule, without text until `define`d; `call` it from anywhere, its own text included."""
        self._rules.append(NEVER)
        if len(self._rules) > self.limits.states:
            raise self._exceeded("states", "the constraint has too many rules")
        return len(self._rules) - 1

    def call(self, rule: int) -> int:
        return self._add(Call(rule), Size(False, 0, 1, 0))

    def define(self, rule: int, node: int) -> None:
        """Gives a rule its text; NEVER is none."""
        self._rules[rule] = node

    def object(self, node: Object) -> int:
        """The parts of `node` are nodes of this builder; what can never be written is left out of it. NEVER where a
        required member cannot be written."""
        if NEVER in (node.open, node.close, node.comma, node.colon, node.empty):
            return NEVER
        if node.high is not None and node.high < node.low:
            return NEVER
        properties = tuple(_with_values(member) for member in node.properties)
        if any(member.is_required and not member.choices for member in properties):
            return NEVER
        extras = tuple(_with_values(member) for member in node.extras if member.key != NEVER)
        # A listed member without a value stays known by its key, so that no extra takes the key: see `Object`.
        kept = tuple(member for member in extras if member.choices)
        if len(properties) > self.limits.properties:
            raise self._exceeded("properties", f"an object has {len(properties)} listed members")
        self._count(len(properties) + len(extras))
        return self._add(msgspec.structs.replace(node, properties=properties, extras=kept), _BRACKETS)

    def array(self, node: Array) -> int:
        """As `object`. Items that cannot be written end the array before them."""
        if NEVER in (node.open, node.close, node.comma, node.empty):
            return NEVER
        first: list[tuple[Choice, ...]] = []
        rest = _writable(node.rest)
        for choices in node.first:
            if not _writable(choices):
                rest = ()
                break
            first.append(_writable(choices))
        high = node.high if rest else min(len(first), len(first) if node.high is None else node.high)
        if high is not None and high < node.low:
            return NEVER
        self._count(len(first))
        return self._add(msgspec.structs.replace(node, first=tuple(first), rest=rest, high=high), _BRACKETS)

    def _count(self, pieces: int) -> None:
        self._pieces += pieces
        if self._pieces > self.limits.states:
            raise self._exceeded("states", "the constraint is too large")

    # ------------------------------------------------------------ results

    def node(self, index: int) -> Node:
        """What stands behind a number; it is neither NEVER nor the number of a rule."""
        return self._nodes[index]

    def is_nullable(self, node: int) -> bool:
        """Whether the empty text is one of `node`'s; a call is taken not to have it."""
        return node != NEVER and self._sizes[node].nullable

    def shortest(self, node: int) -> int:
        """Bytes of the shortest text of `node`."""
        return self._sizes[node].shortest

    def finish(self, root: int) -> RuleGraph | None:
        """The graph with only the nodes that `root` needs; None where no text can be written."""
        if root == NEVER:
            return None
        if self._sizes[root].shortest > MAX_TOKENS_LIMIT:
            raise ConstraintError(
                f"the shortest text that the constraint allows has {self._sizes[root].shortest} bytes; "
                f"at most {MAX_TOKENS_LIMIT} are supported",
                field=self.field,
            )
        nodes = [*self._nodes, Either(())]  # the last is a rule's that was never defined
        rules = tuple(len(self._nodes) if node == NEVER else node for node in self._rules)
        live = live_graph(RuleGraph(tuple(nodes), root, rules), frozenset(range(256)), self.tick)
        if live is None:
            return None
        found = compact(live)
        check_left_recursion(found, self.tick)
        return found

    def cut(self, root: int) -> Excerpt:
        """All nodes so far, as the excerpt of `root`."""
        return Excerpt(tuple(self._nodes), tuple(self._sizes), root, self._followers, self._pieces)

    def tick(self) -> None:
        """Raises when compiling has taken longer than the limit."""
        self._ticks += 1
        if self._ticks % 256 == 0 and time.thread_time() > self._deadline:
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
        size, after = self._sizes[first], self._sizes[rest]
        if after.starts > _FREE_STARTS:
            self._follow((size.ends + 1) * (after.starts - _FREE_STARTS))
        return self._add(
            Then(first, rest),
            Size(
                size.nullable and after.nullable,
                min(size.shortest + after.shortest, MANY),
                size.starts + (after.starts if size.nullable else 0),
                min(after.ends + (size.ends + 1 if after.nullable else 0), MANY),
            ),
        )

    def _without_empty(self, item: int) -> int:
        node = self._nodes[item]
        if isinstance(node, Either) and EMPTY in node.items:
            return self.either([part for part in node.items if part != EMPTY])
        return item

    def _follow(self, pairs: int) -> None:
        self._followers += pairs
        if self._followers > MAX_FOLLOWERS:
            raise ConstraintError(
                "the constraint is too ambiguous: too many of its parts can follow too many others",
                field=self.field,
                hint="fewer optional or repeated parts side by side",
            )

    def _add(self, node: Node, size: Size) -> int:
        known = self._index.get(node)
        if known is not None:
            return known
        self.tick()
        index = len(self._nodes)
        if index >= self.limits.states:
            raise self._exceeded("states", "the constraint is too large")
        if size.starts > self.limits.alternatives:
            raise self._exceeded("alternatives", f"a text can begin in {size.starts} ways")
        if size.starts > _FREE_STARTS and isinstance(node, Repeat):
            self._follow(size.ends * (size.starts - _FREE_STARTS))
        self._index[node] = index
        self._nodes.append(node)
        self._sizes.append(size)
        return index

    def _exceeded(self, limit: str, what: str) -> ConstraintError:
        value = getattr(self.limits, limit)
        return ConstraintError(f"{what}; the limit `{limit}` is {value}", field=self.field)


def _writable(choices: tuple[Choice, ...]) -> tuple[Choice, ...]:
    return tuple(choice for choice in choices if choice.value != NEVER)


def _with_values(member: M) -> M:
    return msgspec.structs.replace(member, choices=_writable(member.choices))


def excerpt(make: Callable[[Builder], int]) -> Excerpt:
    """What `make` builds, to be pasted into any builder. It has a text, and no calls."""
    builder = Builder(Limits(), "constraint")
    root = make(builder)
    assert root not in (NEVER, EMPTY)
    return builder.cut(root)
