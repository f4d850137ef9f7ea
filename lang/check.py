"""Whether a program can be run: names, variables, roles, and an order in which nobody waits for himself.

The program is walked as it would run: a branch goes on until it comes to a join or a variable that another branch
has yet to reach. Where nothing can go on before the end, the program is cyclic. On the way every Ref finds the op
that it means. Pure functions on the IR; `Program` itself guards its size and that its forks make a tree.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import NoReturn, TypeAlias

from latticework.lang.errors import ProgramError
from latticework.lang.ir import (
    MAX_FORK_DEPTH,
    MAX_N,
    MAX_OPS,
    Arg,
    Branch,
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
    describe,
)

Place: TypeAlias = tuple[int, int]
"""Branch and position of an op."""

MAX_SET_DEPTH = 64
SHOWN = 120  # characters of an op in an error
_FIELDS = frozenset(Sampling.__struct_fields__)


def check_program(program: Program) -> None:
    """Raises ProgramError naming branch and op."""
    linked(program)


def linked(program: Program) -> Program:
    """The same program, in which every Ref names its op. Raises ProgramError naming branch and op."""
    walk = _Walk(program)
    walk.run()
    return Program(tuple(Branch(tuple(walk.linked[index])) for index in range(len(program.branches))))


def shortened(program: Program) -> Program:
    """The same program, in which a Ref names its op only where its name alone would not do. Raises ProgramError."""
    walk = _Walk(program, shorten=True)
    walk.run()
    return Program(tuple(Branch(tuple(walk.linked[index])) for index in range(len(program.branches))))


def fail(branch: int, position: int, op: Op, message: str, hint: str | None = None) -> NoReturn:
    shown = describe(op)
    shown = shown if len(shown) <= SHOWN else shown[:SHOWN] + "…"
    raise ProgramError(f"branch {branch}, op {position} ({shown}): {message}", hint=hint)


def _outputs(op: Gen | Select | Set | None) -> int:
    """How many outputs it may have; the run has the say where the op has not."""
    if not isinstance(op, Gen):
        return 1
    return op.sampling.n if "n" in op.given else MAX_N


class _State:
    """A branch on the walk. What it knows is looked up, never copied: branches are many, and so are variables.

    variables: for each name that it sets, when (the position) and by which op; None for a list that a join made.
    """

    def __init__(self, parent: _State | None = None) -> None:
        self.parent = parent
        self.position = 0
        self.start: int = parent.position if parent else 0  # of the parent, when it was forked
        self.depth: int = parent.depth + 1 if parent else 0
        self.role: str | None = parent.role if parent else None
        self.variables: dict[str, list[tuple[int, Place | None]]] = {}

    def set(self, name: str, place: Place | None) -> None:
        self.variables.setdefault(name, []).append((self.position, place))

    def find(self, name: str) -> tuple[bool, Place | None]:
        """Whether it is known here, and the op behind it."""
        state, before = self, self.position + 1
        while True:
            past = state.variables.get(name, [])
            index = bisect_left(past, before, key=lambda entry: entry[0])
            if index:
                return True, past[index - 1][1]
            if state.parent is None:
                return False, None
            state, before = state.parent, state.start + 1


class _Walk:
    def __init__(self, program: Program, shorten: bool = False) -> None:
        self.shorten = shorten
        self.branches = program.branches
        self.states: dict[int, _State] = {0: _State()}
        self.linked: list[list[Op]] = [[] for _ in program.branches]
        self.sizes: dict[Place, tuple[int, int]] = {}  # of each Set
        self._pieces = 0
        self._joined: set[int] = set()
        self._waiting: dict[Place, list[int]] = {}  # who waits for an op; for the end, the position after the last
        self._able = deque([0])

    def run(self) -> None:
        while self._able:
            self._advance(self._able.popleft())
        for index, state in sorted(self.states.items()):
            ops = self.branches[index].ops
            if state.position < len(ops):
                fail(index, state.position, ops[state.position], "this waits for something that waits for it")

    def _advance(self, index: int) -> None:
        state, ops = self.states[index], self.branches[index].ops
        while state.position < len(ops):
            op = ops[state.position]
            awaited = self._awaited(index, op)
            if awaited is not None:
                self._waiting.setdefault(awaited, []).append(index)
                return
            self.linked[index].append(self._take(index, state, op))
            state.position += 1
            self._wake((index, state.position - 1))
        self._wake((index, len(ops)))

    def _wake(self, place: Place) -> None:
        self._able.extend(self._waiting.pop(place, ()))

    def _awaited(self, index: int, op: Op) -> Place | None:
        """What has to be reached before `op` can be."""
        if isinstance(op, Join):
            places = [(child, len(self.branches[child].ops)) for child in op.children]
        else:
            pieces = op.value if isinstance(op, Set) else (op,)
            places = [piece.op for piece in pieces if isinstance(piece, Ref) and piece.op is not None]
        return next((place for place in places if not self._reached(*place)), None)

    def _reached(self, branch: int, position: int) -> bool:
        if not 0 <= branch < len(self.branches) or position > len(self.branches[branch].ops):
            return True  # there is none, as `_link` will say
        reached = self.states[branch].position if branch in self.states else 0
        at_end = branch in self.states and reached == len(self.branches[branch].ops)
        return reached > position or (at_end and position == reached)

    # ------------------------------------------------------------ one op

    def _take(self, index: int, state: _State, op: Op) -> Op:
        match op:
            case Text(text):
                self._check_text(index, state, op, text)
            case Arg(name):
                self._check_name(index, state, op, name)
            case Ref():
                return self._link(index, state, op, op)
            case Set(name, value):
                self._check_name(index, state, op, name)
                op = Set(name, tuple(self._link(index, state, op, p) if isinstance(p, Ref) else p for p in value))
                self._measure(index, state, op)
                state.set(name, (index, state.position))
            case Gen(name, _, given):
                unknown = [field for field in given if field not in _FIELDS]
                if unknown or len(set(given)) < len(given):
                    fail(index, state.position, op, f"given is {list(given)}; expected names of sampling parameters")
                self._bind_output(index, state, op, name)
            case Select(name):
                self._bind_output(index, state, op, name)
            case Role(role):
                self._turn(index, state, op, role)
            case Fork(children):
                self._fork(index, state, op, children)
            case Join(children):
                self._join(index, state, op, children)
        return op

    def _check_text(self, index: int, state: _State, op: Op, text: str) -> None:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            fail(index, state.position, op, f"a lone surrogate at character {error.start}, which has no UTF-8 form")

    def _check_name(self, index: int, state: _State, op: Op, name: str) -> None:
        if not name:
            fail(index, state.position, op, "the name is empty")
        self._check_text(index, state, op, name)

    def _bind_output(self, index: int, state: _State, op: Op, name: str | None) -> None:
        if name is not None:
            self._check_name(index, state, op, name)
            state.set(name, (index, state.position))

    def _link(self, index: int, state: _State, op: Op, ref: Ref) -> Ref:
        """The Ref with its op. op: the one to name in an error, which holds the Ref."""
        at = (index, state.position, op)
        self._check_name(*at[:1], state, op, ref.name)
        if ref.op is None:
            is_known, found = state.find(ref.name)
            if not is_known:
                known = ", ".join(map(repr, state.variables)) or "none"
                fail(*at, f"no op before it sets {ref.name!r}; this branch sets: {known}")
            if found is None:
                fail(*at, f"{ref.name!r} is a list here, made by a join", hint="name the op of the element: op=(…)")
        else:
            found = ref.op
        source = self._source(found)
        if getattr(source, "name", None) != ref.name:
            fail(*at, f"op {found[1]} of branch {found[0]} sets no {ref.name!r}")
        if not 0 <= ref.sample < _outputs(source):
            fail(*at, f"there is no output {ref.sample} of {ref.name!r}")
        if isinstance(source, Set) and op is ref:
            self._count(index, state, op, self.sizes[found][0])
        needless = self.shorten and state.find(ref.name)[1] == found
        return Ref(ref.name, None if needless else found, ref.sample)

    def _measure(self, index: int, state: _State, op: Set) -> None:
        """How much text a Set stands for in the end, in pieces, and how deep Sets are in it."""
        pieces, depth = 0, 1
        for piece in op.value:
            inner = self.sizes.get(piece.op, (1, 0)) if isinstance(piece, Ref) and piece.op else (1, 0)
            pieces, depth = pieces + inner[0], max(depth, inner[1] + 1)
        if depth > MAX_SET_DEPTH:
            fail(index, state.position, op, f"variables are made of variables more than {MAX_SET_DEPTH} deep")
        self._count(index, state, op, pieces)
        self.sizes[index, state.position] = pieces, depth

    def _count(self, index: int, state: _State, op: Op, pieces: int) -> None:
        self._pieces += pieces
        if self._pieces > MAX_OPS:
            fail(index, state.position, op, f"variables made of variables stand for more than {MAX_OPS} pieces of text")

    def _source(self, place: Place) -> Gen | Select | Set | None:
        branch, position = place
        if 0 <= branch < len(self.branches) and 0 <= position < len(self.branches[branch].ops):
            op = self.branches[branch].ops[position]
            if isinstance(op, Gen | Select | Set):
                return op
        return None

    def _turn(self, index: int, state: _State, op: Op, role: str | None) -> None:
        if role is None and state.role is None:
            fail(index, state.position, op, "no message is open here")
        if role is not None:
            if state.role is not None:
                fail(index, state.position, op, f"a {state.role} message is open already")
            self._check_name(index, state, op, role)
        state.role = role

    def _fork(self, index: int, state: _State, op: Op, children: tuple[int, ...]) -> None:
        if not children:
            fail(index, state.position, op, "it starts no branch")
        if state.depth >= MAX_FORK_DEPTH:
            fail(index, state.position, op, f"forks nest more than {MAX_FORK_DEPTH} deep")
        for child in children:
            self.states[child] = _State(state)
            self._able.append(child)

    def _join(self, index: int, state: _State, op: Op, children: tuple[int, ...]) -> None:
        if not children or len(set(children)) < len(children) or self._joined.intersection(children):
            fail(index, state.position, op, "it joins no branch, or one twice")
        self._joined.update(children)
        for child in children:
            for name in self.states[child].variables:
                state.set(name, None)
