"""Nodes of a rule graph under other numbers; a graph without the nodes that it does not need."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from latticework.runtime.constrain.rules import (
    Array,
    Bytes,
    Call,
    Choice,
    Either,
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
    children,
)


def compact(graph: RuleGraph) -> RuleGraph:
    """The graph with only the nodes that its root needs."""
    nodes = graph.nodes
    needed = [False] * len(nodes)
    needed[graph.root] = True
    rules: dict[int, int] = {}  # the number of each needed rule
    work = [graph.root]
    while work:
        node = nodes[work.pop()]
        if isinstance(node, Then):
            parts: tuple[int, ...] = (node.first, node.rest)
        elif isinstance(node, Call):
            rules.setdefault(node.rule, len(rules))
            parts = (graph.rules[node.rule],)
        else:
            parts = children(node)
        for part in parts:
            if not needed[part]:
                needed[part] = True
                work.append(part)
    place = [0] * len(nodes)
    kept: list[Node] = []
    for index, node in enumerate(nodes):
        if needed[index]:
            place[index] = len(kept)
            kept.append(renumbered(node, place, rules))
    return RuleGraph(tuple(kept), place[graph.root], tuple(place[graph.rules[rule]] for rule in rules))


def renumbered(node: Node, place: Sequence[int], rules: dict[int, int]) -> Node:
    """`node` with the numbers that `place` and `rules` give to the nodes and the rules that it names."""
    if isinstance(node, Then):
        return Then(place[node.first], place[node.rest])
    if isinstance(node, (Literal, Bytes)):
        return node
    if isinstance(node, Either):
        return Either(tuple([place[item] for item in node.items]))
    match node:
        case Repeat(item, low, high):
            return Repeat(place[item], low, high)
        case Terminal(item):
            return Terminal(place[item])
        case Call(rule):
            return Call(rules[rule])
        case Machine(states, low, high):
            moved = (
                MachineState(state.accepts, tuple([(place[part], target) for part, target in state.moves]))
                for state in states
            )
            return Machine(tuple(moved), low, high)
        case Object():
            marks = {name: place[getattr(node, name)] for name in ("empty", "open", "close", "comma", "colon")}
            return msgspec.structs.replace(
                node,
                **marks,
                properties=tuple(Property(p.key, _moved(p.choices, place), p.is_required) for p in node.properties),
                extras=tuple(Extra(place[e.key], _moved(e.choices, place)) for e in node.extras),
            )
        case Array():
            marks = {name: place[getattr(node, name)] for name in ("empty", "open", "close", "comma")}
            groups = tuple(_moved(group, place) for group in node.first)
            return msgspec.structs.replace(node, **marks, first=groups, rest=_moved(node.rest, place))
        case _:
            return node


def _moved(choices: tuple[Choice, ...], place: Sequence[int]) -> tuple[Choice, ...]:
    return tuple([Choice(place[choice.value], choice.marks) for choice in choices])
