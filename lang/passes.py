"""What can be known of a program before it runs: small passes, each a pure function on the IR.

    merge_text        adjacent text becomes one op                                    program → program
    fold_constants    a Ref to what a Set says becomes what the Set says              program → program
    constant_prefix   the ops that every call has in common                           program → count of ops
    constraints       each constraint once, with the ops that share it                program → places
    chains            which ops go to the engine as one request                       program → ranges
    last_needed       after which op nothing continues from a branch's text any more  program → positions
    fork_order        which of a fork's children is the longest way to the end        program → children

None changes what a run says: tokens, seeds and runs of text stay what they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import msgspec

from latticework.lang.check import Place, linked, shortened
from latticework.lang.ir import (
    Arg,
    Branch,
    Constraint,
    Fork,
    Gen,
    Join,
    Op,
    Program,
    Ref,
    Role,
    Sampling,
    Select,
    Set,
    Text,
)

Piece: TypeAlias = Text | Arg | Ref
Marked: TypeAlias = tuple[Op, int]
"""An op, and the position of the one it was or is a part of."""

SELECT_TOKENS = 8  # what a select counts for on the way to the end


class Edited(msgspec.Struct, frozen=True):
    """A program whose ops have moved. origins: for every op of each branch, the position of the one it was."""

    program: Program
    origins: tuple[tuple[int, ...], ...]

    def then(self, later: Edited) -> Edited:
        """Both edits as one."""
        origins = (
            tuple(before[position] for position in after)
            for before, after in zip(self.origins, later.origins, strict=True)
        )
        return Edited(later.program, tuple(origins))


def unedited(program: Program) -> Edited:
    return Edited(program, tuple(tuple(range(len(branch.ops))) for branch in program.branches))


def _edited(blocks: Sequence[Sequence[Marked]]) -> Edited:
    """The program of these ops, whose Refs are linked to places as they were."""
    moved = {
        (index, origin): (index, position)
        for index, block in enumerate(blocks)
        for position, (op, origin) in enumerate(block)
        if isinstance(op, Gen | Select | Set)
    }
    program = Program(tuple(Branch(tuple(_moved(op, moved) for op, _ in block)) for block in blocks))
    return Edited(shortened(program), tuple(tuple(origin for _, origin in block) for block in blocks))


def _moved(op: Op, moved: Mapping[Place, Place]) -> Op:
    if isinstance(op, Ref) and op.op is not None:
        return Ref(op.name, moved[op.op], op.sample)
    if isinstance(op, Set):
        return Set(op.name, tuple(_moved(piece, moved) for piece in op.value))  # type: ignore[misc]
    return op


# ---------------------------------------------------------------- program -> program


def merge_text(program: Program) -> Edited:
    """Adjacent Text ops become one, in Sets too; empty ones go."""
    blocks: list[list[Marked]] = []
    for branch in linked(program).branches:
        block: list[Marked] = []
        for position, op in enumerate(branch.ops):
            if isinstance(op, Set):
                block.append((Set(op.name, _merged(op.value)), position))
            elif not isinstance(op, Text):
                block.append((op, position))
            elif op.text:
                before, origin = block[-1] if block else (None, 0)
                if isinstance(before, Text):
                    block[-1] = (Text(before.text + op.text), origin)
                else:
                    block.append((op, position))
        blocks.append(block)
    return _edited(blocks)


def _merged(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    merged: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, Text) and merged and isinstance(merged[-1], Text):
            merged[-1] = Text(merged[-1].text + piece.text)
        elif piece != Text(""):
            merged.append(piece)
    return tuple(merged)


def fold_constants(program: Program) -> Edited:
    """A Ref to a Set becomes what the Set says: text, arguments, and Refs to what was generated."""
    program = linked(program)
    blocks: list[list[Marked]] = []
    for branch in program.branches:
        block: list[Marked] = []
        for position, op in enumerate(branch.ops):
            if isinstance(op, Ref):
                block += [(piece, position) for piece in _folded(program, op)]
            elif isinstance(op, Set):
                value = tuple(part for piece in op.value for part in _folded(program, piece))
                block.append((Set(op.name, _merged(value)), position))
            else:
                block.append((op, position))
        blocks.append(block)
    return _edited(blocks)


def _folded(program: Program, piece: Piece) -> tuple[Piece, ...]:
    if not isinstance(piece, Ref):
        return (piece,)
    source = op_at(program, piece.op)
    if not isinstance(source, Set):
        return (piece,)
    return tuple(part for inner in source.value for part in _folded(program, inner))


def op_at(program: Program, place: Place | None) -> Op:
    """The op of a linked Ref."""
    assert place is not None, "the program is linked"
    return program.branches[place[0]].ops[place[1]]


# ---------------------------------------------------------------- what every call has in common


def constant_prefix(program: Program) -> int:
    """How many ops of the first branch come before the first that depends on an argument or draws something."""
    ops = program.branches[0].ops
    for position, op in enumerate(ops):
        is_constant = isinstance(op, Text | Role) or (isinstance(op, Set) and not any_unknown(op.value))
        if not is_constant:
            return position
    return len(ops)


def any_unknown(pieces: Iterable[Piece]) -> bool:
    return any(not isinstance(piece, Text) for piece in pieces)


def constraints(program: Program) -> dict[Constraint, tuple[Place, ...]]:
    """Every constraint of the program, in the order in which it is first met, with the gens that have it."""
    found: dict[Constraint, tuple[Place, ...]] = {}
    for index, branch in enumerate(program.branches):
        for position, op in enumerate(branch.ops):
            if isinstance(op, Gen) and op.constraint is not None:
                found[op.constraint] = (*found.get(op.constraint, ()), (index, position))
    return found


# ---------------------------------------------------------------- requests


def chains(program: Program) -> tuple[tuple[range, ...], ...]:
    """For each branch, the ops that go to the engine as one request: up to a fork, a
    join, a gen of several outputs (a request of its own, or rather several), or text that depends on what the chain
    itself or another branch draws. Text behind the last gen goes with what follows; where nothing does, nowhere."""
    program = linked(program)
    known, needed = _Known(program), last_needed(program)
    return tuple(tuple(_chains_of(program, index, known, needed)) for index in range(len(program.branches)))


def _chains_of(program: Program, index: int, known: _Known, needed: Sequence[int]) -> Iterator[range]:
    first = since = 0  # where the open chain begins; from where on what is drawn is not known yet
    last: int | None = None  # behind its last gen
    for position, op in enumerate(program.branches[index].ops):
        if isinstance(op, Gen | Select) and not draws_several(op):
            last = position + 1
            continue
        if isinstance(op, Ref) and known.before(index, since, op):
            continue
        if isinstance(op, Fork) and needed[index] >= position:
            if any(not isinstance(part, Set) for part in program.branches[index].ops[first:position]):
                yield range(first, position)
            first = position + 1
        elif isinstance(op, Fork | Join | Ref | Gen):
            if last is not None:
                yield range(first, last)
                first = last
            if isinstance(op, Gen):
                yield range(first, position + 1)
                first = position + 1
        else:
            continue
        since, last = position, None
    if last is not None:
        yield range(first, last)


def draws_several(op: Gen | Select) -> bool:
    """Whether the op itself says so; a run's own default may."""
    return isinstance(op, Gen) and op.sampling.candidates > 1 and bool({"n", "best_of"} & set(op.given))


class _Known:
    """Which values a branch is sure to have when it comes to an op."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.parents = {
            child: (index, position)
            for index, branch in enumerate(program.branches)
            for position, op in enumerate(branch.ops)
            if isinstance(op, Fork)
            for child in op.children
        }
        self.joined = {
            child: (index, position)
            for index, branch in enumerate(program.branches)
            for position, op in enumerate(branch.ops)
            if isinstance(op, Join)
            for child in op.children
        }

    def before(self, index: int, since: int, ref: Ref) -> bool:
        """Whether all that `ref` says was answered before op `since` of the branch was."""
        source = op_at(self.program, ref.op)
        assert ref.op is not None
        if isinstance(source, Set):
            return all(self.before(index, since, piece) for piece in source.value if isinstance(piece, Ref))
        return self._precedes(ref.op, (index, since))

    def _precedes(self, place: Place, limit: Place) -> bool:
        branch, position = limit
        while True:
            source: Place | None = place
            while source is not None:  # the op, or the join that its branch ends in, and so on upwards
                if source[0] == branch and source[1] < position:
                    return True
                source = self.joined.get(source[0])
            if branch not in self.parents:
                return False
            branch, position = self.parents[branch]


def last_needed(program: Program) -> tuple[int, ...]:
    """For each branch, the position of the last op that continues from its text in the engine: a gen, a select, or a
    fork one of whose children does. -1: none does, so nothing has to be held or even computed for it."""
    needed = [-1] * len(program.branches)
    for index in reversed(range(len(program.branches))):  # children have higher numbers
        for position, op in enumerate(program.branches[index].ops):
            goes_on = isinstance(op, Fork) and any(needed[child] >= 0 for child in op.children)
            if isinstance(op, Gen | Select) or goes_on:
                needed[index] = position
    return tuple(needed)


def fork_order(program: Program) -> dict[Place, tuple[int, ...]]:
    """For each fork, its children, those first from whose start it is longest to their end, counted in tokens that may
    be drawn one after the other."""
    lengths = [0] * len(program.branches)
    for index in reversed(range(len(program.branches))):
        lengths[index] = _length(program, index, lengths)
    return {
        (index, position): tuple(sorted(op.children, key=lambda child: -lengths[child]))
        for index, branch in enumerate(program.branches)
        for position, op in enumerate(branch.ops)
        if isinstance(op, Fork)
    }


def _length(program: Program, index: int, lengths: Sequence[int]) -> int:
    """Tokens from the start of a branch to its end and that of all it forks."""
    now = 0
    ends: dict[int, int] = {}
    for op in program.branches[index].ops:
        match op:
            case Gen():
                now += op.sampling.max_tokens if "max_tokens" in op.given else Sampling().max_tokens
            case Select():
                now += SELECT_TOKENS
            case Fork(children):
                ends.update({child: now + lengths[child] for child in children})
            case Join(children):
                now = max([now, *(ends[child] for child in children)])
    return max([now, *ends.values()])
