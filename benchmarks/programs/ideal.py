"""What a program needs at least: tokens to compute before anything is drawn, and model steps. Pure: no engine.

    prefill    every distinct prefix token once, over all calls that share a tree
    steps      of the longest chain, were the batch unlimited: text of T tokens costs ceil(T / chunk) steps, the last
               of which draws the first token behind it; every further token costs one; a select scores its options'
               first tokens with the text before it, and the others in one more step

Guesses that come true need fewer steps than this, so a ratio may be below 1. What is drawn is no prefill, and what
nothing continues from is not computed at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from latticework.lang.check import Place, linked
from latticework.lang.ir import Arg, Fork, Gen, Join, Op, Program, Ref, Role, Select, Set, Text
from latticework.lang.passes import last_needed, op_at


class Turns(Protocol):
    """The template's markers in one branch: see `runtime.programs.turns`."""

    def copy(self) -> Turns: ...

    def marker(self, role: str | None) -> str: ...


@dataclass(frozen=True)
class Model:
    """What the counts depend on. encode: tokens of one run of (text, is the template's), and whether nothing precedes
    it. chunk: prompt tokens of a step."""

    encode: Callable[[Sequence[tuple[str, bool]], bool], Sequence[int]]
    turns: Callable[[], Turns]
    chunk: int


@dataclass(frozen=True)
class Answer:
    """What an op wrote. drawn: tokens, the end token included."""

    text: str
    drawn: int


@dataclass(frozen=True)
class Ideal:
    prefill: int
    steps: int


class Tree:
    """Every prefix met so far. Node 0 is the empty one."""

    def __init__(self) -> None:
        self._children: dict[tuple[int, int | str], int] = {}

    def extend(self, node: int, keys: Sequence[int | str]) -> tuple[int, int]:
        """The node behind `keys`, and how many of them were new. Drawn text is a key of its own."""
        before = len(self._children)
        for key in keys:
            node = self._children.setdefault((node, key), len(self._children) + 1)
        return node, len(self._children) - before


@dataclass
class _Branch:
    """How far a branch has got. time: steps since the start. waiting: tokens that no step has computed yet."""

    turns: Turns
    time: int = 0
    node: int = 0
    waiting: int = 0
    position: int = 0
    pieces: list[tuple[str, bool]] = field(default_factory=list)


def ideal(
    program: Program, arguments: Mapping[str, str], answers: Mapping[Place, Answer], model: Model, tree: Tree
) -> Ideal:
    """What one call needs. tree: of the calls before it, which it adds to. Raises ValueError where an op has no answer,
    or one of several outputs."""
    return _Walk(linked(program), arguments, answers, model, tree).run()


class _Walk:
    def __init__(
        self,
        program: Program,
        arguments: Mapping[str, str],
        answers: Mapping[Place, Answer],
        model: Model,
        tree: Tree,
    ) -> None:
        self.program = program
        self.arguments = arguments
        self.answers = answers
        self.model = model
        self.tree = tree
        self.needed = last_needed(program)
        self.branches = {0: _Branch(model.turns())}
        self.known: dict[Place, int] = {}  # when an op was answered
        self.prefill = 0

    def run(self) -> Ideal:
        while sum(map(self._advance, list(self.branches))):
            pass  # a branch that waits for another goes on in the next round
        for index, block in enumerate(self.program.branches):
            if index not in self.branches or self.branches[index].position < len(block.ops):
                raise ValueError(f"branch {index} waits for something without an answer")
        return Ideal(self.prefill, max(branch.time for branch in self.branches.values()))

    def _advance(self, index: int) -> int:
        """As many ops of a branch as can be done now; how many these were."""
        branch, ops = self.branches[index], self.program.branches[index].ops
        before = branch.position
        while branch.position < len(ops) and self._take(index, branch, ops[branch.position]):
            branch.position += 1
        return branch.position - before

    def _take(self, index: int, branch: _Branch, op: Op) -> bool:
        """Does one op, unless it waits for another branch."""
        match op:
            case Text() | Arg() | Ref():
                found = self._text(op)
                if found is None:
                    return False
                branch.pieces.append((found[0], False))
                branch.time = max(branch.time, found[1])
            case Role(role):
                branch.pieces.append((branch.turns.marker(role), True))
            case Gen() | Select():
                self._draw((index, branch.position), branch, op)
            case Fork(children):
                if self.needed[index] >= branch.position:
                    self._end_text(branch)
                for child in children:
                    self.branches[child] = _Branch(branch.turns.copy(), branch.time, branch.node, branch.waiting)
            case Join(children):
                joined = [(self.branches[child], len(self.program.branches[child].ops)) for child in children]
                if any(child.position < length for child, length in joined):
                    return False
                branch.time = max([branch.time, *(child.time for child, _ in joined)])
            case Set():
                pass  # a Ref says what it says
        return True

    def _text(self, piece: Text | Arg | Ref) -> tuple[str, int] | None:
        """What a piece says, and since when it is known; None if it is not yet."""
        if isinstance(piece, Text):
            return piece.text, 0
        if isinstance(piece, Arg):
            return self.arguments[piece.name], 0
        source = op_at(self.program, piece.op)
        if isinstance(source, Set):
            parts = [self._text(part) for part in source.value]
            if any(part is None for part in parts):
                return None
            found = [part for part in parts if part is not None]
            return "".join(text for text, _ in found), max((time for _, time in found), default=0)
        if piece.sample:
            raise ValueError(f"output {piece.sample} of {piece.name!r}: only the first of several is counted")
        assert piece.op is not None, "the program is linked"
        return (self.answers[piece.op].text, self.known[piece.op]) if piece.op in self.known else None

    def _draw(self, place: Place, branch: _Branch, op: Gen | Select) -> None:
        self._end_text(branch)
        answer = self.answers.get(place)
        if answer is None:
            raise ValueError(f"op {place[1]} of branch {place[0]} has no answer")
        longest = max(map(len, self._options(op)), default=0)
        drawing = answer.drawn if isinstance(op, Gen) else min(2, longest)
        branch.time += max(1, math.ceil(branch.waiting / self.model.chunk)) - 1 + drawing
        branch.waiting = 0
        branch.node, _ = self.tree.extend(branch.node, [answer.text])
        self.known[place] = branch.time

    def _options(self, op: Gen | Select) -> list[Sequence[int]]:
        return [self.model.encode([(text, False)], False) for text in op.options] if isinstance(op, Select) else []

    def _end_text(self, branch: _Branch) -> None:
        """The text gathered so far is one run, encoded alone."""
        if branch.pieces:
            pieces, branch.pieces = branch.pieces, []
            branch.node, new = self.tree.extend(branch.node, self.model.encode(pieces, branch.node == 0))
            branch.waiting += new
            self.prefill += new
