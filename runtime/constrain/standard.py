"""What nearly every JSON constraint has: blanks and punctuation, strings, numbers. Made once per vocabulary.

It depends on the vocabulary alone. A few schemas without demands are run over a text that has every kind of value, and
what was found of their terminals is kept: states, and shares of rows. Terminals of other constraints that are equal,
node by node, begin with that. Nothing in it changes any more once it is made, so automata of several threads may share
it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from latticework.lang.errors import ConstraintError
from latticework.lang.ir import JsonSchema
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.builder import Builder
from latticework.runtime.constrain.expressions import Expressions
from latticework.runtime.constrain.frames import Config, Frames
from latticework.runtime.constrain.json_schema import build_json_schema
from latticework.runtime.constrain.parts import Parts
from latticework.runtime.constrain.places import DEAD, States
from latticework.runtime.constrain.rows import Rows
from latticework.runtime.constrain.rules import Either, Machine, MachineState, Node, Repeat, RuleGraph, Then, children
from latticework.runtime.constrain.suffixes import Suffixes
from latticework.runtime.constrain.terminals import Terminal
from latticework.runtime.constrain.vocabulary import Vocabulary

MOST_STATES = 500  # terminals of more states are left out

_NONE = -1
_SCHEMAS: tuple[dict[str, Any], ...] = ({}, {"type": "integer"}, {"type": "string", "minLength": 1})
_WHITESPACE: tuple[Literal["compact", "spaced", "flexible"], ...] = ("compact", "spaced", "flexible")
_TEXT = [{"a": "b\n", "c d": [-1.5e3, 20, "e", [], {}, [{"f": 0}], None], "g": {"h": True, "i": False}, "j": ""}, 1]


class Standard:
    """The shared terminals of one vocabulary. parts: what is known of them, all that `Parts` of others look up first;
    suffixes: those in it. nbytes: memory held, roughly."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.suffixes = Suffixes(vocabulary.trie)
        self.parts = Parts(vocabulary, self.suffixes)
        self._numbers: dict[Node, int] = {}
        self._shapes: frozenset[tuple[type[Node], int]] = frozenset()
        self._terminals: dict[int, Terminal] = {}
        try:
            expressions = Expressions(_rules(), vocabulary, is_live=True)
        except ConstraintError:
            return  # the vocabulary cannot write such text
        self._numbers = {node: number for number, node in enumerate(expressions.nodes)}
        self._shapes = frozenset(map(_shape, expressions.nodes))
        frames = Frames(expressions, vocabulary, self.suffixes)
        rows = Rows(frames, vocabulary, self.suffixes, 1 << 40, self.parts)
        for text in (json.dumps(_TEXT), json.dumps(_TEXT, separators=(",", ":"))):
            here: Config | None = frames.start
            for byte in text.encode():
                if here is None:
                    break
                rows.get(here)
                here = frames.step(here, byte)
        self._terminals = {node: found for node, found in frames.terminals.items() if _close(found.states)}

    @property
    def nbytes(self) -> int:
        terminals = sum(terminal.nbytes for terminal in self._terminals.values())
        return self.parts.nbytes + self.suffixes.nbytes + terminals

    def recognise(self, nodes: Sequence[Node]) -> Recognised:
        """The terminals among the nodes of a constraint that are known here."""
        return Recognised(nodes, self._numbers, self._shapes, self._terminals)


class Recognised:
    """Which nodes of one constraint are equal to which of the standard ones."""

    def __init__(
        self,
        nodes: Sequence[Node],
        numbers: dict[Node, int],
        shapes: frozenset[tuple[type[Node], int]],
        terminals: dict[int, Terminal],
    ) -> None:
        self._nodes = nodes
        self._numbers = numbers
        self._shapes = shapes
        self._terminals = terminals
        self._found: dict[int, int] = {}

    def terminal(self, node: int) -> Terminal | None:
        """The standard terminal with the same texts as a regular node, if there is one."""
        return self._terminals.get(self._number(node))

    def _number(self, node: int) -> int:
        """The standard node that is equal to `node`, or _NONE."""
        found = self._found
        work = [node]
        while work:
            here = work[-1]
            below = children(self._nodes[here])
            waiting = [child for child in below if child not in found]
            if here in found:
                work.pop()
            elif _shape(self._nodes[here]) not in self._shapes or any(found.get(child) == _NONE for child in below):
                found[here] = _NONE
            elif waiting:
                work += waiting
            else:
                found[here] = self._numbers.get(_with_children(self._nodes[here], found), _NONE)
        return found[node]


def _shape(node: Node) -> tuple[type[Node], int]:
    """What is seen of a node without a look at those below it: its kind, and how many they are."""
    return type(node), len(children(node))


def _with_children(node: Node, numbers: Mapping[int, int]) -> Node:
    """A regular node that names others by their `numbers`."""
    match node:
        case Then(first, rest):
            return Then(numbers[first], numbers[rest])
        case Either(items):
            return Either(tuple(numbers[item] for item in items))
        case Repeat(item, low, high):
            return Repeat(numbers[item], low, high)
        case Machine(states, low, high):
            moved = (tuple((numbers[part], target) for part, target in state.moves) for state in states)
            renamed = (MachineState(state.accepts, moves) for state, moves in zip(states, moved, strict=True))
            return Machine(tuple(renamed), low, high)
        case _:
            return node


def _close(states: States) -> bool:
    """Makes all states and transitions there are, so that nothing changes any more; False where they are many."""
    index = DEAD + 1
    while index < states.size:
        if index > MOST_STATES:
            return False
        states.arrows(index)
        states.loops(states.states[index])
        states.relax(states.states[index])
        index += 1
    return True


def _rules() -> RuleGraph:
    """All schemas, with each whitespace, in one graph."""
    builder = Builder(Limits(), "json_schema")
    schemas = [JsonSchema(schema, whitespace=space) for schema in _SCHEMAS for space in _WHITESPACE]
    rules = builder.finish(builder.either([build_json_schema(builder, schema, Limits()) for schema in schemas]))
    assert rules is not None
    return rules


__all__ = ["Recognised", "Standard"]
