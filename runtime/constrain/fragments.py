"""Alternatives without repeats, run as one small automaton: `\\w` is hundreds of byte sequences and one place.

A *fragment* is the part of an `Either` that is made of bytes, literals, sequences and alternatives alone. Its states
are found once (sets of positions in it), whatever follows the node and however often it stands in a text, so that a
place in it is a number. This file knows the fragment of one node; where it stands, `place.py` knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

from latticework.runtime.constrain.expressions import Classes, Expressions
from latticework.runtime.constrain.rules import Bytes, Either, Literal, Then, children

Position: TypeAlias = tuple[tuple[int, int], ...]
"""What is still to be written: nodes, the next one last, each with how much of it is written (of a literal)."""


_LEAVES = (Bytes, Literal)
_PLAIN = (Bytes, Literal, Then, Either)  # what fragments are made of


class Move(NamedTuple):
    """What a byte class leads to. ends: the fragment may be over; state: where it goes on, None where it cannot."""

    ends: bool
    state: int | None


class Fragment:
    """The automaton of `items`, nodes without repeats. State 0 is the start; states appear when first needed."""

    def __init__(self, items: Iterable[int], expressions: Expressions, split: Classes) -> None:
        self._expressions = expressions
        self._split = split
        self._numbers: dict[frozenset[Position], int] = {}
        self._positions: list[frozenset[Position]] = []
        self._moves: list[dict[int, Move] | None] = []
        self._costs: dict[int, int] = {}
        self._number(frozenset(found for item in items for found in self._heads(((item, 0),))))

    def moves(self, state: int) -> dict[int, Move]:
        """The moves of a state, by byte class."""
        moves = self._moves[state]
        if moves is None:
            moves = self._moves[state] = self._find_moves(state)
        return moves

    def cost(self, state: int) -> int:
        """Tokens that surely suffice to finish from a state."""
        cost = self._costs.get(state)
        if cost is None:
            cost = self._costs[state] = min(self._cost(position) for position in self._positions[state])
        return cost

    def _find_moves(self, state: int) -> dict[int, Move]:
        positions = self._positions[state]
        if len(positions) == 1:
            (position,) = positions
            return dict.fromkeys(self._taken(position), self._move(frozenset(self._after(position))))
        takers: dict[int, list[Position]] = {}
        for position in positions:
            after = self._after(position)
            for byte_class in self._taken(position):
                takers.setdefault(byte_class, []).extend(after)
        return {byte_class: self._move(frozenset(after)) for byte_class, after in takers.items()}

    def _taken(self, position: Position) -> tuple[int, ...]:
        """The byte classes that a position goes on with."""
        node, written = position[-1]
        kind = self._expressions.nodes[node]
        if isinstance(kind, Literal):
            return (int(self._split.classes[kind.data[written]]),)
        return self._split.of_node[node]

    def _move(self, after: frozenset[Position]) -> Move:
        going_on = after - {()}
        return Move(len(going_on) < len(after), self._number(going_on) if going_on else None)

    def _number(self, positions: frozenset[Position]) -> int:
        number = self._numbers.get(positions)
        if number is None:
            number = self._numbers[positions] = len(self._positions)
            self._positions.append(positions)
            self._moves.append(None)
        return number

    def _cost(self, position: Position) -> int:
        *later, (node, written) = position
        is_literal = isinstance(self._expressions.nodes[node], Literal)
        now = self._expressions.literal_cost(node, written) if is_literal else self._expressions.costs[node]
        return now + sum(self._expressions.costs[other] for other, _ in later)

    def _after(self, position: Position) -> list[Position]:
        """The positions once the next byte of `position` is written."""
        *later, (node, written) = position
        kind = self._expressions.nodes[node]
        if isinstance(kind, Literal) and written + 1 < len(kind.data):
            return [(*later, (node, written + 1))]
        return list(self._heads(tuple(later)))

    def _heads(self, position: Position) -> Iterator[Position]:
        """The positions that can write the next byte; the empty one is the end."""
        work = [position]
        while work:
            position = work.pop()
            if not position:
                yield position
                continue
            *later, (node, _) = position
            match self._expressions.nodes[node]:
                case Then(first, rest):
                    work.append((*later, (rest, 0), (first, 0)))
                case Either(items):
                    work += [(*later, (item, 0)) for item in items]
                case _:
                    yield position


class Fragments:
    """The fragments of the `Either` nodes of a regular node, found where they are come to."""

    def __init__(self, expressions: Expressions, split: Classes) -> None:
        self._expressions = expressions
        self._split = split
        self._found: dict[int, tuple[Fragment | None, tuple[int, ...]]] = {}
        self._is_plain: dict[int, bool] = {}

    def split(self, node: int, items: tuple[int, ...]) -> tuple[Fragment | None, tuple[int, ...]]:
        """The fragment among the `items` of an `Either` node, if there is one, and the items beside it."""
        found = self._found.get(node)
        if found is None:
            plain = [item for item in items if self._plain(item)]
            if len(plain) < 2:
                found = None, items
            else:
                others = tuple(item for item in items if not self._is_plain[item])
                found = Fragment(plain, self._expressions, self._split), others
            self._found[node] = found
        return found

    def of(self, node: int) -> Fragment:
        """The fragment of a node that was `split`."""
        fragment = self._found[node][0]
        assert fragment is not None
        return fragment

    def _plain(self, node: int) -> bool:
        is_plain = self._is_plain
        work = [node]
        while work:
            index = work[-1]
            kind = self._expressions.nodes[index]
            if index in is_plain:
                work.pop()
            elif isinstance(kind, _LEAVES):
                is_plain[work.pop()] = True
            elif not isinstance(kind, _PLAIN):
                is_plain[work.pop()] = False
            else:
                unknown = [child for child in children(kind) if child not in is_plain]
                work += unknown
                if not unknown:
                    is_plain[work.pop()] = all(is_plain[child] for child in children(kind))
        return is_plain[node]


__all__ = ["Fragment", "Fragments", "Move"]
