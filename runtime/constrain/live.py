"""What of a rule graph can be written at all: parts without any text are taken out.

Rules may call one another, so this is a least fixpoint: nothing of a rule is believed to be writable until some text
of it has been found. Used twice: with every byte when a graph is built, with a vocabulary's bytes when it is run.
"""

from __future__ import annotations

from collections.abc import Callable
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

ALL_BYTES = frozenset(range(256))


def needs_only(graph: RuleGraph, writable: frozenset[int], tick: Callable[[], None]) -> bool:
    """Whether no part of `graph` needs a byte outside `writable`."""
    for node in graph.nodes:
        tick()
        match node:
            case Bytes(ranges):
                if not all(byte in writable for low, high in ranges for byte in range(low, high + 1)):
                    return False
            case Literal(data):
                if not writable.issuperset(data):
                    return False
            case Words(words):
                if not all(writable.issuperset(word) for word in words):
                    return False
    return True


def live_graph(graph: RuleGraph, writable: frozenset[int], tick: Callable[[], None]) -> RuleGraph | None:
    """`graph` without the parts that need a byte outside `writable` or never end; nodes keep their numbers. None
    where nothing is left."""
    few = FewTexts(graph.nodes)
    live = _live_nodes(graph, writable, few, tick)
    if not live[graph.root]:
        return None
    nodes = tuple(
        _without_dead(node, live, writable, few, tick) if live[index] else Empty()
        for index, node in enumerate(graph.nodes)
    )
    return RuleGraph(nodes, graph.root, graph.rules)


def _live_nodes(graph: RuleGraph, writable: frozenset[int], few: FewTexts, tick: Callable[[], None]) -> list[bool]:
    """For each node, whether some text of it can be written. Each node is asked once, and again only after something
    that it names has come to life; those before it first."""
    nodes = graph.nodes
    live = [False] * len(nodes)
    rules = [False] * len(graph.rules)
    texts: dict[int, list[int]] = {}  # node -> the rules whose text it is
    for rule, index in enumerate(graph.rules):
        texts.setdefault(index, []).append(rule)
    users: dict[int, list[int]] = {}  # node -> those not yet live that name it
    callers: dict[int, list[int]] = {}
    work = list(range(len(nodes)))
    waiting = [True] * len(nodes)
    while work:
        index = heappop(work)
        waiting[index] = False
        tick()
        if not _is_live(nodes[index], live, rules, writable, few, tick):
            for child in children(nodes[index]):
                if not live[child]:
                    users.setdefault(child, []).append(index)
            if isinstance(node := nodes[index], Call):
                callers.setdefault(node.rule, []).append(index)
            continue
        live[index] = True
        woken = users.pop(index, [])
        for rule in texts.get(index, ()):
            rules[rule] = True
            woken += callers.pop(rule, [])
        for user in woken:
            if not live[user] and not waiting[user]:
                waiting[user] = True
                heappush(work, user)
    return live


def _is_live(
    node: Node, live: list[bool], rules: list[bool], writable: frozenset[int], few: FewTexts, tick: Callable[[], None]
) -> bool:
    match node:
        case Empty():
            return True
        case Bytes(ranges):
            return any(byte in writable for low, high in ranges for byte in range(low, high + 1))
        case Literal(data):
            return writable.issuperset(data)
        case Words(words):
            return any(writable.issuperset(word) for word in words)
        case Then(first, rest):
            return live[first] and live[rest]
        case Either(items):
            return any(live[item] for item in items)
        case Repeat(item, low):
            return low == 0 or live[item]
        case Machine():
            return _machine(node, live) is not None
        case Terminal(item):
            return live[item]
        case Call(rule):
            return rules[rule]
        case Object():
            return _object(node, live, few, tick) is not None
        case Array():
            return _array(node, live, few, tick) is not None


def _without_dead(
    node: Node, live: list[bool], writable: frozenset[int], few: FewTexts, tick: Callable[[], None]
) -> Node:
    """A live node less its dead parts."""
    match node:
        case Bytes(ranges) if len(writable) < 256:
            return Bytes(tuple((b, b) for low, high in ranges for b in range(low, high + 1) if b in writable))
        case Words(words) if len(writable) < 256:
            return Words(tuple(word for word in words if writable.issuperset(word)))
        case Either(items) if not all(live[item] for item in items):
            return Either(tuple(item for item in items if live[item]))
        case Repeat(item) if not live[item]:
            return Empty()
        case Machine():
            found: Node | None = _machine(node, live)
        case Object():
            found = _object(node, live, few, tick)
        case Array():
            found = _array(node, live, few, tick)
        case _:
            found = node
    assert found is not None
    return found


def _machine(node: Machine, live: list[bool]) -> Machine | None:
    """The machine's states that some text passes through; None when it has no text."""
    if all(live[part] for state in node.states for part, _ in state.moves):
        ends = _ending(node.states)
        if all(ends):
            return _if_long_enough(node)
    else:
        states = tuple(
            MachineState(state.accepts, tuple(move for move in state.moves if live[move[0]])) for state in node.states
        )
        node = msgspec.structs.replace(node, states=states)
        ends = _ending(states)
    if not ends[0]:
        return None
    states = tuple(
        MachineState(state.accepts, tuple(move for move in state.moves if ends[move[1]]))
        if keeps
        else MachineState(False, ())
        for state, keeps in zip(node.states, ends, strict=True)
    )
    return _if_long_enough(msgspec.structs.replace(node, states=states))


def _if_long_enough(node: Machine) -> Machine | None:
    """None when no text has as many characters as the bounds ask for."""
    if not node.low and node.high is None:
        return node
    return node if Lengths(node).is_live(0, 0) else None


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


def _object(node: Object, live: list[bool], few: FewTexts, tick: Callable[[], None]) -> Object | None:
    if not all(live[part] for part in (node.empty, node.open, node.close, node.comma, node.colon)):
        return None
    properties = tuple(Property(p.key, _choices(p.choices, live), p.is_required) for p in node.properties)
    extras = tuple(Extra(e.key, choices) for e in node.extras if live[e.key] and (choices := _choices(e.choices, live)))
    if any(member.is_required and not member.choices for member in properties):
        return None
    found = msgspec.structs.replace(node, properties=properties, extras=extras)
    if node.low or node.high is not None or node.bounds:
        prices, more = [[1] * len(p.choices) for p in properties], [[1] * len(e.choices) for e in extras]
        members = Members(found, prices, more, [few(extra.key) for extra in extras], tick)
        if members.cost(members.start) >= IMPOSSIBLE:
            return None
    return found


def _array(node: Array, live: list[bool], few: FewTexts, tick: Callable[[], None]) -> Array | None:
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
    found = msgspec.structs.replace(node, first=tuple(first), rest=rest, high=high)
    items = Items(found, [[1] * len(choices) for choices in first], [1] * len(rest), tick)
    if items.cost(0, items.bounds.start) >= IMPOSSIBLE:
        return None
    return None if found.is_unique and not Distinct(few, found).is_possible() else found


def _choices(choices: tuple[Choice, ...], live: list[bool]) -> tuple[Choice, ...]:
    return tuple(choice for choice in choices if live[choice.value])
