"""`RuleGraph`: a compiled constraint as plain data, before it meets a vocabulary.

A graph of byte expressions in which every node comes after the nodes it names. It holds no code, so it may cross
a process boundary: `decode_rules` checks everything that the automaton relies on. This file knows the data and
its validity; `builder.py` makes graphs, `places.py` runs them. A recursive language will add a node that calls a
rule; nothing else of this changes then.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TypeAlias

import msgspec

from latticework.lang.errors import ConstraintError

RULES_VERSION = 1
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


Node: TypeAlias = Empty | Bytes | Literal | Then | Either | Repeat | Words


class RuleGraph(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Byte expressions; `root` is the whole language. Every node names only nodes before it."""

    nodes: tuple[Node, ...]
    root: int
    version: int = RULES_VERSION


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(RuleGraph)


def encode_rules(rules: RuleGraph) -> bytes:
    """The graph as msgpack."""
    return _encoder.encode(rules)


def decode_rules(data: bytes | memoryview) -> RuleGraph:
    """The graph in `data`. Raises ConstraintError when it is no valid graph."""
    if len(data) > MAX_GRAPH_BYTES:
        raise ConstraintError(f"the rule graph is {len(data)} bytes; at most {MAX_GRAPH_BYTES} are read")
    try:
        rules = _decoder.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ConstraintError(f"not a rule graph: {error}") from None
    check_rules(rules)
    return rules


def check_rules(rules: RuleGraph) -> None:
    """Raises ConstraintError unless the graph is one that an automaton can run."""
    if rules.version != RULES_VERSION:
        raise ConstraintError(f"the rule graph has version {rules.version}; this build reads {RULES_VERSION}")
    if not 0 < len(rules.nodes) <= MAX_NODES:
        raise ConstraintError(f"the rule graph has {len(rules.nodes)} nodes; expected 1 to {MAX_NODES}")
    if not 0 <= rules.root < len(rules.nodes):
        raise ConstraintError(f"the rule graph has no node {rules.root}, its root")
    for index, node in enumerate(rules.nodes):
        if not _is_valid(node, index):
            raise ConstraintError(f"node {index} of the rule graph is not valid: {str(node)[:200]}")


def _is_valid(node: Node, index: int) -> bool:
    match node:
        case Empty():
            return True
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
        case Then(first, rest):
            return 0 <= first < index and 0 <= rest < index
        case Either(items):
            return bool(items) and all(0 <= item < index for item in items)
        case Repeat(item, low, high):
            return 0 <= item < index and 0 <= low <= MAX_COUNT and (high is None or low <= high <= MAX_COUNT)
