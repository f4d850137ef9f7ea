"""`RuleGraph`: a compiled constraint as plain data, before it meets a vocabulary.

A graph of byte expressions in which every node comes after the nodes it names. It holds no code, so it may cross
a process boundary: `decode_rules` checks everything that the automaton relies on. This file knows the data and
its validity; `builder.py` makes graphs.

Nodes are of two kinds. A *regular* one holds only the first seven kinds below and `Machine`: `places.py` runs it, as a
DFA. The others have structure: `Terminal` marks a regular part whose masks are worth sharing wherever it stands,
`Call` goes into a rule (recursion goes through rules alone), `Object` and `Array` remember what they have written.
`frames.py` runs those.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TypeAlias

import msgspec

from latticework.lang.errors import ConstraintError
from latticework.runtime.constrain.base import Pause, never_pause

RULES_VERSION = 2
MAX_GRAPH_BYTES = 64 << 20
MAX_NODES = 1 << 20
MAX_COUNT = (1 << 32) - 1  # as Python's re

Ranges: TypeAlias = tuple[tuple[int, int], ...]  # sorted, disjoint, both ends included


class Empty(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """The empty byte string."""


class Bytes(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """One byte out of a set."""

    ranges: Ranges


class Literal(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Exactly these bytes; at least one."""

    data: bytes


class Then(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """`first`, then `rest`. Sequences lean right."""

    first: int
    rest: int


class Either(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Any one of `items`."""

    items: tuple[int, ...]


class Repeat(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """`item`, `low` to `high` times; high None is no bound. A counter, never copies."""

    item: int
    low: int
    high: int | None


class Words(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Any one of many literals: sorted, distinct, none empty. One node however many they are."""

    words: tuple[bytes, ...]


class MachineState(msgspec.Struct, frozen=True, array_like=True):
    """accepts: the text may end here. moves: (regular node of one character, next state), disjoint."""

    accepts: bool
    moves: tuple[tuple[int, int], ...]


class Machine(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """A deterministic automaton over characters, started in state 0: what no other node can say (intersections,
    complements). low, high: how many characters (moves) a text has; high None is no bound. Regular."""

    states: tuple[MachineState, ...]
    low: int = 0
    high: int | None = None


class Terminal(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """`item`, a regular node, as a part of its own."""

    item: int


class Call(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """The text of a rule: `RuleGraph.rules[rule]`."""

    rule: int


class Choice(msgspec.Struct, frozen=True, array_like=True):
    """A value that may stand somewhere, and what it counts for: each of `marks` (repeats count twice) goes up by 1."""

    value: int
    marks: tuple[int, ...] = ()


class Property(msgspec.Struct, frozen=True, array_like=True):
    """A listed member of an object. key: the whole key as written, quotes included, as one JSON key is written in
    exactly one way. choices: none where the key may not come at all (nor as an extra)."""

    key: bytes
    choices: tuple[Choice, ...]
    is_required: bool


class Extra(msgspec.Struct, frozen=True, array_like=True):
    """Members that are not listed. key: regular, the texts of their keys, quotes included (listed keys may be among
    them and are never taken)."""

    key: int
    choices: tuple[Choice, ...]


class Object(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """`empty`, or `open` member (`comma` member)* `close`; a member is key `colon` value. No key comes twice.

    is_ordered: the listed members come in the order of `properties`; extras come anywhere. low, high: number of
    members. bounds: (low, high) for the sum of each mark. empty, open, close, comma, colon: regular nodes.
    """

    empty: int
    open: int
    close: int
    comma: int
    colon: int
    properties: tuple[Property, ...]
    extras: tuple[Extra, ...]
    is_ordered: bool = True
    low: int = 0
    high: int | None = None
    bounds: tuple[tuple[int, int | None], ...] = ()


class Array(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """`empty`, or `open` item (`comma` item)* `close`.

    first: the choices of the first items, one by one; rest: those of all others (none: no more). low, high: number of
    items. bounds: (low, high) for the sum of each mark. is_unique: no two items write the same value; every scalar in
    them is then written in exactly one way, and there are no bounds on marks.
    """

    empty: int
    open: int
    close: int
    comma: int
    first: tuple[tuple[Choice, ...], ...]
    rest: tuple[Choice, ...]
    low: int = 0
    high: int | None = None
    bounds: tuple[tuple[int, int | None], ...] = ()
    is_unique: bool = False


Node: TypeAlias = Empty | Bytes | Literal | Then | Either | Repeat | Words | Machine | Terminal | Call | Object | Array


class RuleGraph(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Byte expressions; `root` is the whole language. Every node names only nodes before it; `rules` are the nodes
    that calls go to, and no rule comes back to itself before it has written a byte."""

    nodes: tuple[Node, ...]
    root: int
    rules: tuple[int, ...] = ()
    version: int = RULES_VERSION


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(RuleGraph)


def encode_rules(rules: RuleGraph) -> bytes:
    """The graph as msgpack."""
    return _encoder.encode(rules)


def decode_rules(data: bytes | memoryview, pause: Pause = never_pause) -> RuleGraph:
    """The graph in `data`. Raises ConstraintError when it is no valid graph."""
    if len(data) > MAX_GRAPH_BYTES:
        raise ConstraintError(f"the rule graph is {len(data)} bytes; at most {MAX_GRAPH_BYTES} are read")
    try:
        rules = _decoder.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ConstraintError(f"not a rule graph: {error}") from None
    check_rules(rules, pause)
    return rules


def check_rules(rules: RuleGraph, pause: Pause = never_pause) -> None:
    """Raises ConstraintError unless the graph is one that an automaton can run."""
    if rules.version != RULES_VERSION:
        raise ConstraintError(f"the rule graph has version {rules.version}; this build reads {RULES_VERSION}")
    if not 0 < len(rules.nodes) <= MAX_NODES:
        raise ConstraintError(f"the rule graph has {len(rules.nodes)} nodes; expected 1 to {MAX_NODES}")
    if not 0 <= rules.root < len(rules.nodes):
        raise ConstraintError(f"the rule graph has no node {rules.root}, its root")
    if not all(0 <= rule < len(rules.nodes) for rule in rules.rules):
        raise ConstraintError("a rule of the rule graph has no node")
    regular: list[bool] = []
    for index, node in enumerate(rules.nodes):
        pause()
        if not _is_valid(node, index, len(rules.rules)) or not all(regular[part] for part in _regular_parts(node)):
            raise ConstraintError(f"node {index} of the rule graph is not valid: {str(node)[:200]}")
        regular.append(not isinstance(node, Structured) and all(regular[child] for child in children(node)))
    check_left_recursion(rules, pause)


Structured = Terminal | Call | Object | Array


_LEAVES = (Empty, Bytes, Literal, Words, Call)


def children(node: Node) -> tuple[int, ...]:
    """The nodes that `node` names; a call names none."""
    if isinstance(node, _LEAVES):
        return ()
    if isinstance(node, Then):
        return (node.first, node.rest)
    if isinstance(node, Either):
        return node.items
    match node:
        case Repeat(item) | Terminal(item):
            return (item,)
        case Machine(states):
            return tuple(dict.fromkeys([part for state in states for part, _ in state.moves]))
        case Object():
            groups = [*[p.choices for p in node.properties], *[e.choices for e in node.extras]]
            return (*_regular_parts(node), *[choice.value for choices in groups for choice in choices])
        case Array():
            values = [choice.value for choices in (*node.first, node.rest) for choice in choices]
            return (*_regular_parts(node), *values)
    raise AssertionError(node)


def _regular_parts(node: Node) -> tuple[int, ...]:
    """Those among its children that have to be regular."""
    match node:
        case Terminal(item):
            return (item,)
        case Machine():
            return children(node)
        case Object():
            keys = tuple(extra.key for extra in node.extras)
            return (node.empty, node.open, node.close, node.comma, node.colon, *keys)
        case Array():
            return (node.empty, node.open, node.close, node.comma)
        case _:
            return ()


def _is_valid(node: Node, index: int, rule_count: int) -> bool:
    if not all(0 <= child < index for child in children(node)):
        return False
    match node:
        case Bytes(ranges):
            last = -1
            for low, high in ranges:
                if not last < low <= high <= 255:
                    return False
                last = high
            return bool(ranges)
        case Literal(data):
            return bool(data)
        case Words(words):
            return bool(words) and bool(words[0]) and all(a < b for a, b in pairwise(words))
        case Either(items):
            return bool(items)
        case Repeat(_, low, high):
            return _are_bounds(low, high)
        case Machine(states, low, high):
            targets = (target for state in states for _, target in state.moves)
            return bool(states) and _are_bounds(low, high) and all(0 <= target < len(states) for target in targets)
        case Call(rule):
            return 0 <= rule < rule_count
        case Object():
            keys = {member.key for member in node.properties}
            return (
                len(keys) == len(node.properties)
                and all(len(key) >= 2 and key[0] == key[-1] == 0x22 for key in keys)
                and all(member.choices or not member.is_required for member in node.properties)
                and all(member.choices for member in node.extras)
                and _are_counted(
                    node.low,
                    node.high,
                    node.bounds,
                    [*(p.choices for p in node.properties), *(e.choices for e in node.extras)],
                )
            )
        case Array():
            is_plain = not (node.is_unique and node.bounds)
            return is_plain and _are_counted(node.low, node.high, node.bounds, [*node.first, node.rest])
        case _:
            return True


def _are_bounds(low: int, high: int | None) -> bool:
    return 0 <= low <= MAX_COUNT and (high is None or low <= high <= MAX_COUNT)


def _are_counted(
    low: int, high: int | None, bounds: tuple[tuple[int, int | None], ...], choices: list[tuple[Choice, ...]]
) -> bool:
    marks = (mark for group in choices for choice in group for mark in choice.marks)
    return (
        _are_bounds(low, high)
        and all(_are_bounds(*bound) for bound in bounds)
        and all(0 <= mark < len(bounds) for mark in marks)
    )


def check_left_recursion(rules: RuleGraph, pause: Pause = never_pause) -> None:
    """Raises when a rule can come back to itself before it has written a byte."""
    if not rules.rules:
        return
    nullable = _nullable(rules, pause)
    nothing: frozenset[int] = frozenset()
    begins: list[frozenset[int]] = []  # of each node, the rules that a text of it may begin with
    for index, node in enumerate(rules.nodes):
        pause()
        found = nothing
        if isinstance(node, Then):
            found = begins[node.first]
            if nullable[node.first] and begins[node.rest]:
                found |= begins[node.rest]
        elif isinstance(node, Either):
            found = nothing.union(*[begins[item] for item in node.items if begins[item]])
        elif isinstance(node, Repeat):
            found = begins[node.item]
        elif isinstance(node, Call):
            found = frozenset((node.rule,))
        elif isinstance(node, (Array, Object)) and (nullable[index] or nullable[node.open]):
            raise ConstraintError(f"node {index} of the rule graph opens without a byte")
        begins.append(found)
    state = [0] * len(rules.rules)  # 1: on the way, 2: done
    for start in range(len(rules.rules)):
        work = [(start, iter(begins[rules.rules[start]]))] if not state[start] else []
        state[start] = state[start] or 1
        while work:
            rule, following = work[-1]
            for called in following:
                if state[called] == 1:
                    raise ConstraintError(f"rule {called} of the rule graph begins with itself")
                if not state[called]:
                    state[called] = 1
                    work.append((called, iter(begins[rules.rules[called]])))
                    break
            else:
                state[rule] = 2
                work.pop()


def _nullable(rules: RuleGraph, pause: Pause) -> list[bool]:
    """For each node, whether it has the empty text. Those of calls are found pass by pass."""
    known = [False] * len(rules.rules)
    while True:
        found: list[bool] = []
        for node in rules.nodes:
            pause()
            found.append(_is_nullable(node, found, known))
        if (own := [found[node] for node in rules.rules]) == known:
            return found
        known = own


def _is_nullable(node: Node, found: list[bool], rules: list[bool]) -> bool:
    if isinstance(node, (Bytes, Literal, Words)):
        return False
    if isinstance(node, Then):
        return found[node.first] and found[node.rest]
    if isinstance(node, Either):
        return any(found[item] for item in node.items)
    match node:
        case Repeat(item, low):
            return low == 0 or found[item]
        case Machine(states, low):
            return low == 0 and states[0].accepts
        case Terminal(item):
            return found[item]
        case Call(rule):
            return rules[rule]
        case Object() | Array():
            return node.low == 0 and found[node.empty]
        case _:
            return True
