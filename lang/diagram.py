"""A program as a Mermaid flowchart: what is drawn, in which order, and where branches part and meet.

text, arguments and earlier values   a rectangle      a gen       rounded
a message's marker                   with bars        a select    a rhombus
"""

from __future__ import annotations

from latticework.lang.ir import Arg, Fork, Gen, Join, Op, Program, Ref, Role, Select, Set, Text, describe

SHOWN = 60  # characters of a label's line
_SHAPES = {
    "text": ('["', '"]'),
    "marker": ('[["', '"]]'),
    "gen": ('(["', '"])'),
    "select": ('{"', '"}'),
    "point": ('(("', '"))'),
}


def mermaid(program: Program) -> str:
    """The flowchart's source."""
    return _Chart(program).source()


class _Chart:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.lines = ["flowchart TD"]
        self.first: dict[int, str] = {}  # of each branch, its first node, where it has one
        self.last: dict[int, str] = {}
        self.edges: list[tuple[str, str]] = []
        self.forks: list[tuple[str, int]] = []
        self.joins: list[tuple[int, str]] = []

    def source(self) -> str:
        for index in range(len(self.program.branches)):
            self._branch(index)
        for node, child in self.forks:
            if child in self.first:
                self.edges.append((node, self.first[child]))
        for child, node in self.joins:
            if child in self.last:
                self.edges.append((self.last[child], node))
        self.lines += [f"    {a} --> {b}" for a, b in self.edges]
        return "\n".join(self.lines)

    def _branch(self, index: int) -> None:
        nodes: list[str] = []
        self.lines.append(f'    subgraph s{index}["{"program" if index == 0 else f"branch {index}"}"]')
        for position, (kind, ops) in self._groups(index):
            node = f"b{index}_{position}"
            opening, closing = _SHAPES[kind]
            label = "<br/>".join(_label(op) for op in ops)
            self.lines.append(f"        {node}{opening}{label}{closing}")
            if nodes:
                self.edges.append((nodes[-1], node))
            nodes.append(node)
            for op in ops:
                if isinstance(op, Fork):
                    self.forks += [(node, child) for child in op.children]
                elif isinstance(op, Join):
                    self.joins += [(child, node) for child in op.children]
        self.lines.append("    end")
        if nodes:
            self.first[index], self.last[index] = nodes[0], nodes[-1]

    def _groups(self, index: int) -> list[tuple[int, tuple[str, list[Op]]]]:
        """Ops by kind: text that follows text shares a node."""
        groups: list[tuple[int, tuple[str, list[Op]]]] = []
        for position, op in enumerate(self.program.branches[index].ops):
            kind = _kind(op)
            if kind == "text" and groups and groups[-1][1][0] == "text":
                groups[-1][1][1].append(op)
            else:
                groups.append((position, (kind, [op])))
        return groups


def _kind(op: Op) -> str:
    match op:
        case Text() | Arg() | Ref() | Set():
            return "text"
        case Role():
            return "marker"
        case Gen():
            return "gen"
        case Select():
            return "select"
        case _:
            return "point"


def _label(op: Op) -> str:
    """One line, in which nothing means anything to Mermaid or HTML."""
    text = type(op).__name__.lower() if isinstance(op, Fork | Join) else describe(op)
    text = text if len(text) <= SHOWN else text[:SHOWN] + "…"
    return "".join(char if char.isalnum() or char in " _.,:=+-…" else f"#{ord(char)};" for char in text)
