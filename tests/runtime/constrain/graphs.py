"""Small random rule graphs: drawn as plain descriptions, so that a test can lower one both through the `Builder` and,
without any of its rewriting, to nodes for the reference.

A description is a tuple: its kind, then its parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from hypothesis import assume
from hypothesis import strategies as st

from latticework.runtime.constrain.rules import (
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
)

Spec: TypeAlias = tuple[Any, ...]
Draw: TypeAlias = Callable[[st.SearchStrategy[Any]], Any]
ALPHABET = b'ab"{}[],: '
MANY = 1 << 30


class Maker(Protocol):
    """What the builder offers and `Raw` imitates."""

    def byte_set(self, ranges: Ranges) -> int: ...
    def literal(self, data: bytes) -> int: ...
    def sequence(self, items: list[int]) -> int: ...
    def either(self, items: list[int]) -> int: ...
    def repeat(self, item: int, low: int, high: int | None) -> int: ...
    def terminal(self, item: int) -> int: ...
    def machine(self, states: list[MachineState], low: int, high: int | None) -> int: ...
    def rule(self) -> int: ...
    def call(self, rule: int) -> int: ...
    def define(self, rule: int, node: int) -> None: ...
    def object(self, node: Object) -> int: ...
    def array(self, node: Array) -> int: ...


class Raw:
    """Nodes exactly as they are described."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.rules: list[int] = []

    def graph(self, root: int) -> RuleGraph:
        return RuleGraph(tuple(self.nodes), root, tuple(self.rules))

    def _add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def byte_set(self, ranges: Ranges) -> int:
        return self._add(Bytes(ranges))

    def literal(self, data: bytes) -> int:
        return self._add(Literal(data) if data else Empty())

    def sequence(self, items: list[int]) -> int:
        rest = items[-1]
        for item in reversed(items[:-1]):
            rest = self._add(Then(item, rest))
        return rest

    def either(self, items: list[int]) -> int:
        return self._add(Either(tuple(items)))

    def repeat(self, item: int, low: int, high: int | None) -> int:
        return self._add(Repeat(item, low, high))

    def terminal(self, item: int) -> int:
        return self._add(Terminal(item))

    def machine(self, states: list[MachineState], low: int, high: int | None) -> int:
        return self._add(Machine(tuple(states), low, high))

    def rule(self) -> int:
        self.rules.append(0)
        return len(self.rules) - 1

    def call(self, rule: int) -> int:
        return self._add(Call(rule))

    def define(self, rule: int, node: int) -> None:
        self.rules[rule] = node

    def object(self, node: Object) -> int:
        return self._add(node)

    def array(self, node: Array) -> int:
        return self._add(node)


def lower(maker: Maker, spec: Spec, rules: tuple[int, ...] = ()) -> int:
    """The node of `spec`. ("rules", body, ..., root) makes rules that ("call", n) inside of it calls."""

    def make(part: Spec) -> int:
        return lower(maker, part, rules)

    def choices(group: list[tuple[Spec, tuple[int, ...]]]) -> tuple[Choice, ...]:
        return tuple(Choice(make(value), marks) for value, marks in group)

    match spec:
        case ("text", data):
            return maker.literal(data)
        case ("bytes", ranges):
            return maker.byte_set(ranges)
        case ("then", *items):
            return maker.sequence([make(item) for item in items])
        case ("either", *items):
            return maker.either([make(item) for item in items])
        case ("repeat", item, low, high):
            return maker.repeat(make(item), low, high)
        case ("terminal", item):
            return maker.terminal(make(item))
        case ("machine", states, low, high):
            made = [
                MachineState(accepts, tuple((make(part), target) for part, target in moves))
                for accepts, moves in states
            ]
            return maker.machine(made, low, high)
        case ("call", rule):
            return maker.call(rules[rule])
        case ("rules", *bodies, root):
            made_rules = tuple(maker.rule() for _ in bodies)
            for rule, body in zip(made_rules, bodies, strict=True):
                maker.define(rule, lower(maker, body, made_rules))
            return lower(maker, root, made_rules)
        case ("object", marks, properties, extras, is_ordered, low, high, bounds):
            listed = tuple(Property(key, choices(group), is_required) for key, group, is_required in properties)
            more = tuple(Extra(make(key), choices(group)) for key, group in extras)
            empty, opening, closing, comma, colon = (make(part) for part in marks)
            return maker.object(
                Object(empty, opening, closing, comma, colon, listed, more, is_ordered, low, high, bounds)
            )
        case ("array", marks, first, rest, low, high, bounds, is_unique):
            groups = tuple(choices(group) for group in first)
            empty, opening, closing, comma = (make(part) for part in marks)
            return maker.array(
                Array(empty, opening, closing, comma, groups, choices(rest), low, high, bounds, is_unique)
            )
    raise AssertionError(spec)


def raw_graph(spec: Spec) -> RuleGraph:
    raw = Raw()
    return raw.graph(lower(raw, spec))


def size(spec: Spec) -> int:
    """No fewer than the texts of `spec`, to keep enumeration small; MANY beyond what can be listed."""

    def of(group: list[tuple[Spec, tuple[int, ...]]]) -> int:
        return sum(size(value) for value, _ in group)

    def product(counts: list[int]) -> int:
        found = 1
        for count in counts:
            found = min(MANY, found * count)
        return found

    match spec:
        case ("text", _):
            return 1
        case ("bytes", ranges):
            return sum(high - low + 1 for low, high in ranges)
        case ("then", *items):
            return product([size(item) for item in items])
        case ("either", *items):
            return sum(size(item) for item in items)
        case ("repeat", item, _, high):
            return MANY if high is None else product([size(item) + 1] * high)
        case ("terminal", item):
            return size(item)
        case ("machine", states, _, high):
            widest = max(sum(size(part) for part, _ in moves) for _, moves in states)
            return MANY if high is None else product([widest + 1] * high)
        case ("call", _) | ("rules", *_):
            return MANY
        case ("object", marks, properties, extras, is_ordered, _, high, _):
            empty, *around, comma, colon = (size(part) for part in marks)
            listed = product([of(group) * comma * colon + 1 for _, group, _ in properties])
            each = sum(size(key) * of(group) for key, group in extras) * comma * colon + 1
            orders = 1 if is_ordered else product(list(range(1, len(properties) + 1)))
            most = (MANY if high is None else high) if extras else 0
            spots = product([len(properties) + 1] * min(most, 9))
            return min(MANY, product([listed, orders, spots, *around, *[each] * min(most, 40)]) + empty)
        case ("array", marks, first, rest, _, high, _, _):
            empty, *around, comma = (size(part) for part in marks)
            most = (MANY if rest else len(first)) if high is None else high
            items = [of(group) for group in first[:most]] + [of(rest)] * min(max(0, most - len(first)), 40)
            return min(MANY, product([*(count * comma + 1 for count in items), *around]) + empty)
    raise AssertionError(spec)


# ---------------------------------------------------------------- drawing

TEXT = st.sampled_from([b"a", b"b", b"ab", b"ba", b'"', b'"a"', b"[", b"a,", b"}"])
WORDS = st.sampled_from([b"a", b"b", b"ab", b"ba"])  # of JSON, whose scalars hold no marks
COUNTS = st.sampled_from([(0, 1), (0, 2), (1, 2), (2, 2), (1, 1), (0, 0)])


def draw_regular(draw: Draw, depth: int, texts: st.SearchStrategy[bytes] = TEXT) -> Spec:
    kind = draw(
        st.sampled_from(["text", "text", "bytes", "then", "either", "repeat", "machine"] if depth else ["text"])
    )
    match kind:
        case "text":
            return ("text", draw(texts))
        case "bytes":
            return ("bytes", ((ord("a"), ord("b")),))
        case "repeat":
            return ("repeat", draw_regular(draw, depth - 1, texts), *draw(COUNTS))
        case "machine":
            return draw_machine(draw)
    return (kind, draw_regular(draw, depth - 1, texts), draw_regular(draw, depth - 1, texts))


def draw_machine(draw: Draw) -> Spec:
    """Characters a, b and é, two or three states."""
    count = draw(st.integers(1, 3))
    letters = [("text", b"a"), ("text", b"b"), ("text", "é".encode())]
    states = []
    for _ in range(count):
        targets = draw(st.lists(st.integers(-1, count - 1), min_size=3, max_size=3))
        moves = tuple((letter, target) for letter, target in zip(letters, targets, strict=True) if target >= 0)
        states.append((draw(st.booleans()), moves))
    return ("machine", tuple(states), *draw(COUNTS))


def draw_value(draw: Draw, depth: int, rules: int = 0, is_json: bool = False) -> Spec:
    """A structured part; `rules`: how many can be called. is_json: only what can stand in an array without repeats."""
    kinds = ["terminal", "terminal"]
    if depth and is_json:
        kinds += ["object", "array", "object", "array", "either"]
    elif depth:
        kinds += ["object", "array", "object", "array", "then", "either", "repeat"] + ["call"] * (2 if rules else 0)
    match draw(st.sampled_from(kinds)):
        case "terminal":
            regular = draw_regular(draw, 1, WORDS if is_json else TEXT)
            assume(not is_json or not is_nullable(regular))  # JSON has no such values
            return ("terminal", regular)
        case "object":
            return draw_object(draw, depth - 1, rules, is_json)
        case "array":
            return draw_array(draw, depth - 1, rules, is_json)
        case "repeat":
            return ("repeat", draw_value(draw, depth - 1, rules), *draw(COUNTS))
        case "call":
            return ("call", draw(st.integers(0, rules - 1)))
        case kind:
            return (kind, draw_value(draw, depth - 1, rules, is_json), draw_value(draw, depth - 1, rules, is_json))


def _choices(
    draw: Draw, depth: int, rules: int, marks: int, least: int = 1, is_json: bool = False
) -> list[tuple[Spec, tuple[int, ...]]]:
    group = []
    for _ in range(draw(st.sampled_from([least, 1, 1, 2]))):
        value = draw_value(draw, depth, rules, is_json)
        group.append((value, tuple(draw(st.lists(st.integers(0, marks - 1), max_size=2))) if marks else ()))
    return group


def _bounds(draw: Draw) -> tuple[tuple[int, int | None], ...]:
    return tuple(draw(st.lists(st.sampled_from([(0, 1), (1, None), (1, 1), (2, 3), (0, None)]), max_size=2)))


def _separator(draw: Draw, text: bytes, is_plain: bool = False) -> Spec:
    """The mark alone, or with an optional space or a letter behind it, which may be taken for what follows."""
    kind = draw(st.integers(0, 9))
    if kind < 7:
        return ("text", text)
    return ("then", ("text", text), ("repeat", ("text", b" " if is_plain or kind < 9 else b"a"), 0, 1))


def is_nullable(spec: Spec) -> bool:
    """Whether a regular part has the empty text."""
    match spec:
        case ("text" | "bytes", data):
            return not data
        case ("then", *items):
            return all(is_nullable(item) for item in items)
        case ("either", *items):
            return any(is_nullable(item) for item in items)
        case ("repeat", item, low, _):
            return low == 0 or is_nullable(item)
        case ("terminal", item):
            return is_nullable(item)
        case ("machine", states, low, _):
            return low == 0 and bool(states[0][0])
    raise AssertionError(spec)


def draw_object(draw: Draw, depth: int, rules: int, is_json: bool = False) -> Spec:
    bounds = _bounds(draw)
    keys = draw(st.lists(st.sampled_from([b'"a"', b'"b"', b'"ab"', b'""']), max_size=3, unique=True))
    properties = []
    for key in keys:
        group = _choices(draw, depth, rules, len(bounds), 0, is_json)
        properties.append((key, group, bool(group) and draw(st.booleans())))
    quote, letters = ("text", b'"'), ("bytes", ((ord("a"), ord("b")),))
    extra_keys = [("then", quote, ("repeat", letters, 0, 1), quote), ("then", quote, ("repeat", letters, 2, 2), quote)]
    extras = [
        (key, _choices(draw, depth, rules, len(bounds), 1, is_json))
        for key in draw(st.lists(st.sampled_from(extra_keys), max_size=2, unique=True))
    ]
    low, high = draw(st.sampled_from([(0, 2), (0, 3), (1, 2), (2, 3), (0, 0), (1, 1)]))
    marks = (
        ("text", b"{}"), ("text", b"{"), ("text", b"}"), _separator(draw, b",", is_json),
        _separator(draw, b":", is_json),
    )  # fmt: skip
    return ("object", marks, properties, extras, draw(st.booleans()), low, high, bounds)


def draw_array(draw: Draw, depth: int, rules: int, is_json: bool = False) -> Spec:
    bounds = _bounds(draw)
    is_unique = not bounds and draw(st.booleans())
    is_json |= is_unique
    first = [_choices(draw, depth, rules, len(bounds), 0, is_json) for _ in range(draw(st.sampled_from([0, 0, 1, 2])))]
    rest = _choices(draw, depth, rules, len(bounds), 0, is_json)
    low, high = draw(st.sampled_from([(0, 1), (0, 2), (1, 2), (2, 3), (3, 3), (0, 0)]))
    marks = (("text", b"[]"), ("text", b"["), ("text", b"]"), _separator(draw, b",", is_json))
    return ("array", marks, first, rest, low, high, bounds, is_unique)


@st.composite
def finite_specs(draw: Draw, most: int = 400) -> Spec:
    """Structured parts with at most `most` texts."""
    spec = draw_value(draw, 2)
    assume(spec[0] != "terminal" and size(spec) <= most)
    return spec


@st.composite
def recursive_specs(draw: Draw) -> Spec:
    """One or two rules, each of which can end within a few bytes."""
    count = draw(st.integers(1, 2))
    bodies = []
    for _ in range(count):
        base = ("terminal", ("text", draw(st.sampled_from([b"a", b"b", b"ab"]))))
        inner = draw_object(draw, 1, count) if draw(st.booleans()) else draw_array(draw, 1, count)
        bodies.append(("either", base, inner))
    return ("rules", *bodies, ("call", 0))
