"""A program as a graph of its ops, printed from its last one on, as SGLang's programs do with a trace.

    f.trace().last_node.print_graph_dfs()

    %1 = text "Say "
    %2 = %1 + arg word
    %3 = %2 + fork 1 2

Every op comes after what it continues from, and a join after the branches that it waits for.
"""

from __future__ import annotations

from collections.abc import Iterator

from latticework.lang.check import Place
from latticework.lang.ir import Fork, Join, Program, describe


class Node:
    """An op of a program."""

    def __init__(self, program: Program, place: Place) -> None:
        self._program = program
        self._place = place
        self._forks = {
            child: (index, position)
            for index, branch in enumerate(program.branches)
            for position, op in enumerate(branch.ops)
            if isinstance(op, Fork)
            for child in op.children
        }

    def print_graph_dfs(self) -> None:
        """Prints this op and all that it depends on, one a line."""
        print("\n".join(self.lines()))

    def lines(self) -> Iterator[str]:
        """The same, without printing it."""
        numbers: dict[Place, int] = {}
        waiting = [self._place]
        while waiting:
            place = waiting[-1]
            before = self._before(place)
            missing = [one for one in before if one not in numbers]
            if missing and place not in numbers:
                waiting += reversed(missing)
                continue
            waiting.pop()
            if place not in numbers:
                numbers[place] = len(numbers) + 1
                yield f"%{numbers[place]} = {self._shown(place, [numbers[one] for one in before])}"

    def _shown(self, place: Place, sources: list[int]) -> str:
        op = self._program.branches[place[0]].ops[place[1]]
        joined = dict.fromkeys(sources[1:])
        shown = "join " + " ".join(f"%{number}" for number in joined) if isinstance(op, Join) else describe(op)
        return f"%{sources[0]} + {shown}" if sources else shown

    def _before(self, place: Place) -> list[Place]:
        """What an op continues from, and the last ops of branches that it joins."""
        branch, position = place
        previous = (branch, position - 1) if position else self._forks.get(branch)
        found = [] if previous is None else [previous]
        op = self._program.branches[branch].ops[position]
        for child in op.children if isinstance(op, Join) else ():
            ops = self._program.branches[child].ops
            found.append((child, len(ops) - 1) if ops else self._forks[child])
        return found
