"""What of a rule graph can be written at all: parts without any text are taken out.

Rules may call one another, so this is a least fixpoint: nothing of a rule is believed to be writable until some text
of it has been found. Used twice: with every byte when a graph is built, with a vocabulary's bytes when it is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop, heappush

import msgspec

from latticework.runtime.constrain.counting import IMPOSSIBLE, Items, Members
from latticework.runtime.constrain.distinct import Distinct, FewTexts
from latticework.runtime.constrain.lengths import Lengths
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
    Repeat,
    RuleGraph,
    Terminal,
    Then,
    Words,
    children,
)

_LEAVES = (Empty, Bytes, Literal, Words)
_EMPTY = Empty()


def live_graph(
    graph: RuleGraph, writable: frozenset[int], tick: Callable[[], None], *, is_live: bool = False
) -> RuleGraph | None:
    """`graph` without the parts that need a byte outside `writable` or never end; nodes keep their numbers. None
    where nothing is left. is_live: with every byte, each part of `graph` has a text."""
    search = _Search(graph, writable, tick, is_live=is_live)
    search.run()
    return RuleGraph(tuple(search.kept), graph.root, graph.rules) if search.live[graph.root] else None


class _Search:
    """Finds what can be written. Most nodes lead to no call: those before them say all about them, so they are asked
    once, in order. The others are a least fixpoint: asked again only after something that they name has come to life.

    live: whether a node has a text; kept: it, without its dead parts (`Empty` where it is dead itself).
    """

    def __init__(self, graph: RuleGraph, writable: frozenset[int], tick: Callable[[], None], *, is_live: bool) -> None:
        self.live = [False] * len(graph.nodes)
        self.kept: list[Node] = []
        self._graph = graph
        self._writable = writable
        self._tick = tick
        self._is_live = is_live
        self._few = FewTexts(graph.nodes, graph.rules, self.live)
        self._is_whole = True  # nothing has died so far

    def run(self) -> None:
        live, kept = self.live, self.kept
        has_every_byte = len(self._writable) == 256
        calling = [False] * len(self._graph.nodes)  # whether a call is in it
        recursive: list[int] = []
        has_lost = False  # a part of a node with calls is dead
        for index, node in enumerate(self._graph.nodes):
            self._tick()
            found: Node | None = node
            if isinstance(node, _LEAVES):
                if not has_every_byte:
                    found = _leaf(node, self._writable)
            elif isinstance(node, Call) or (recursive and any(calling[part] for part in children(node))):
                calling[index] = True
                recursive.append(index)
                has_lost = has_lost or self._has_dead_part(node)
            elif self._has_dead_part(node) or not (self._is_live or _lives_by_parts(node)):
                found = self._possible(node)
            self._is_whole = self._is_whole and found is not None
            live[index] = found is not None
            kept.append(_EMPTY if found is None else found)
        if recursive and (has_lost or not self._is_live or not all(live[node] for node in self._graph.rules)):
            self._find_fixpoint(recursive)

    def _has_dead_part(self, node: Node) -> bool:
        return not self._is_whole and not all(self.live[part] for part in children(node))

    def _possible(self, node: Node) -> Node | None:
        """`node` without its dead parts; None where it is dead."""
        if isinstance(node, Object | Array | Machine):
            self._tick()
        found = _without_dead(node, self.live)
        return found if found is not None and _has_text(found, self._few, self._tick) else None

    def _find_fixpoint(self, recursive: list[int]) -> None:
        nodes, live = self._graph.nodes, self.live
        for index in recursive:
            live[index] = False
        texts: dict[int, list[int]] = {}  # node -> the rules whose text it is
        for rule, index in enumerate(self._graph.rules):
            texts.setdefault(index, []).append(rule)
        users: dict[int, list[int]] = {}  # node -> those not yet live that name it
        callers: dict[int, list[int]] = {}
        picky = [index for index in recursive if _counts_values(nodes[index])]
        work = list(recursive)
        waiting = set(recursive)
        while work or (work := [index for index in picky if not live[index] and self._possible(nodes[index])]):
            index = heappop(work)
            waiting.discard(index)
            self._tick()
            node = nodes[index]
            if isinstance(node, Call):
                is_live = live[self._graph.rules[node.rule]]
            else:
                is_live = self._possible(node) is not None
            if not is_live:
                for child in children(node):
                    if not live[child]:
                        users.setdefault(child, []).append(index)
                if isinstance(node, Call):
                    callers.setdefault(node.rule, []).append(index)
                continue
            live[index] = True
            woken = users.pop(index, [])
            for rule in texts.get(index, ()):
                woken += callers.pop(rule, [])
            for user in woken:
                if not live[user] and user not in waiting:
                    waiting.add(user)
                    heappush(work, user)
        for index in recursive:
            found = _without_dead(nodes[index], live) if live[index] else _EMPTY
            assert found is not None
            self.kept[index] = found


def _counts_values(node: Node) -> bool:
    """Whether it depends on what is deeper than its parts: on how many values they have."""
    return isinstance(node, Array) and node.is_unique and node.low > 1


def _lives_by_parts(node: Node) -> bool:
    """Whether it is live wherever all of its parts are."""
    return bool(node.items) if isinstance(node, Either) else isinstance(node, (Then, Repeat, Terminal))


def _leaf(node: Node, writable: frozenset[int]) -> Node | None:
    """What of a node without parts can be written."""
    match node:
        case Literal(data):
            return node if writable.issuperset(data) else None
        case Bytes(ranges):
            taken = [byte for low, high in ranges for byte in range(low, high + 1)]
            if writable.issuperset(taken):
                return node
            left = _ranges(byte for byte in taken if byte in writable)
            return Bytes(left) if left else None
        case Words(words):
            kept = tuple(word for word in words if writable.issuperset(word))
            return Words(kept) if kept else None
        case _:
            return node


def _ranges(ascending: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Numbers as ranges, both ends included."""
    found: list[tuple[int, int]] = []
    for number in ascending:
        if found and found[-1][1] == number - 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return tuple(found)


def _without_dead(node: Node, live: list[bool]) -> Node | None:
    """A node less its dead parts; None where it cannot be without them."""
    match node:
        case Then(first, rest):
            return node if live[first] and live[rest] else None
        case Either(items):
            if all(live[item] for item in items):
                return node if items else None
            kept = tuple(item for item in items if live[item])
            return Either(kept) if kept else None
        case Repeat(item, low):
            return node if live[item] else None if low else Empty()
        case Terminal(item):
            return node if live[item] else None
        case Machine():
            return _machine(node, live)
        case Object():
            return _object(node, live)
        case Array():
            return _array(node, live)
        case _:
            return node


def _has_text(node: Node, few: FewTexts, tick: Callable[[], None]) -> bool:
    """Whether the bounds of a node whose parts are live leave it a text."""
    match node:
        case Machine(low=low, high=high):
            return (not low and high is None) or Lengths(node).is_live(0, 0)
        case Object() if node.low or node.high is not None or node.bounds:
            prices = [[1] * len(p.choices) for p in node.properties]
            more = [[1] * len(e.choices) for e in node.extras]
            members = Members(node, prices, more, [few(extra.key) for extra in node.extras], tick)
            return members.cost(members.start) < IMPOSSIBLE
        case Array():
            items = Items(node, [[1] * len(choices) for choices in node.first], [1] * len(node.rest), tick)
            if items.cost(0, items.bounds.start) >= IMPOSSIBLE:
                return False
            return not node.is_unique or Distinct(few, node).is_possible()
        case _:
            return True


def _machine(node: Machine, live: list[bool]) -> Machine | None:
    """The machine's states that some text passes through; None when it has no text."""
    if not all(live[part] for part in {part for state in node.states for part, _ in state.moves}):
        states = tuple(
            MachineState(state.accepts, tuple(move for move in state.moves if live[move[0]])) for state in node.states
        )
        node = msgspec.structs.replace(node, states=states)
    ends = _ending(node.states)
    if all(ends):
        return node
    if not ends[0]:
        return None
    states = tuple(
        MachineState(state.accepts, tuple(move for move in state.moves if ends[move[1]]))
        if keeps
        else MachineState(False, ())
        for state, keeps in zip(node.states, ends, strict=True)
    )
    return msgspec.structs.replace(node, states=states)


def _ending(states: tuple[MachineState, ...]) -> list[bool]:
    """For each state, whether an accepting one can be reached."""
    before: list[list[int]] = [[] for _ in states]
    for index, state in enumerate(states):
        for _, target in state.moves:
            before[target].append(index)
    work = [index for index, state in enumerate(states) if state.accepts]
    ends = [state.accepts for state in states]
    while work:
        for index in before[work.pop()]:
            if not ends[index]:
                ends[index] = True
                work.append(index)
    return ends


def _object(node: Object, live: list[bool]) -> Object | None:
    if not all(live[part] for part in (node.empty, node.open, node.close, node.comma, node.colon)):
        return None
    if all(live[part] for part in children(node)):
        return node
    properties = tuple(Property(p.key, _choices(p.choices, live), p.is_required) for p in node.properties)
    extras = tuple(Extra(e.key, choices) for e in node.extras if live[e.key] and (choices := _choices(e.choices, live)))
    if any(member.is_required and not member.choices for member in properties):
        return None
    return msgspec.structs.replace(node, properties=properties, extras=extras)


def _array(node: Array, live: list[bool]) -> Array | None:
    if not all(live[part] for part in (node.empty, node.open, node.close, node.comma)):
        return None
    first: list[tuple[Choice, ...]] = []
    rest, high = _choices(node.rest, live), node.high
    for choices in node.first:
        kept = _choices(choices, live)
        if not kept:
            rest = ()
            break
        first.append(kept)
    if not rest:
        high = len(first) if high is None else min(high, len(first))
        if high < node.low:
            return None
    return msgspec.structs.replace(node, first=tuple(first), rest=rest, high=high)


def _choices(choices: tuple[Choice, ...], live: list[bool]) -> tuple[Choice, ...]:
    if all(live[choice.value] for choice in choices):
        return choices
    return tuple(choice for choice in choices if live[choice.value])
