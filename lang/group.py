"""The branches of one fork, and what joining them makes of them.

    gather_variable       each variable becomes the list of the branches' values; their text stays theirs
    concate_and_append    the branches' own text is appended to the parent, one after the other; variables stay theirs

This file knows no syntax of a single state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from latticework.lang.branch import Branch, Gathered, Slot
from latticework.lang.errors import InvalidArgument
from latticework.lang.expr import Expr, Piece
from latticework.lang.ir import Join, Op, Role, Text
from latticework.lang.run import Run
from latticework.lang.waiting import Waiting, run_through

if TYPE_CHECKING:
    from latticework.lang.state import State

JoinMode = Literal["gather_variable", "concate_and_append"]


class Branches:
    """The branches of one fork: index, iterate, append to all with `+=`, and `join`."""

    def __init__(self, parent: State, states: list[State]) -> None:
        self._run: Run = parent._run
        self._parent: Branch = parent._branch
        self._branches = [state._branch for state in states]
        self._states = states

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[State]:
        return iter(self._states)

    def __getitem__(self, index: int) -> State:
        return self._states[index]

    def __setitem__(self, index: int, state: State) -> None:
        # `forks[0] += …` ends with this assignment.
        if state is not self._states[index]:
            raise InvalidArgument("a branch cannot be replaced; append to it with +=", field="index")

    def __iadd__(self, value: str | Expr | Callable[[int], str | Expr] | Sequence[str | Expr]) -> Branches:
        """The same to every branch; or value(i), or value[i], to branch i. Raises InvalidArgument for a list of
        another length."""
        if not isinstance(value, str | Expr | list | tuple) and not callable(value):
            raise InvalidArgument(
                f"a {type(value).__name__} cannot be appended to branches; expected text, an expression, a list with "
                "one for each, or a function of the branch's number",
                field="value",
            )
        if isinstance(value, list | tuple) and len(value) != len(self._states):
            raise InvalidArgument(
                f"{len(value)} values were given to {len(self._states)} branches; expected one for each", field="value"
            )
        for index, state in enumerate(self._states):
            if isinstance(value, list | tuple):
                state += value[index]
            else:
                state += value(index) if callable(value) else value
        return self

    def join(self, mode: JoinMode = "gather_variable", timeout: float | None = None) -> None:
        """Ends the branches and waits for them. Raises the first branch's failure.

        gather_variable: each variable set in them becomes, in the parent, the list of the branches' values (of those
        that set it, in order), whether or not the parent had one of that name. concate_and_append: the text of each,
        from the fork on, is appended to the parent, in order, with its messages.
        """
        run_through(self._run, self.joining(mode, timeout))

    def joining(self, mode: JoinMode, timeout: float | None) -> Waiting[None]:
        """`join` as a wait that somebody drives, in a thread or on an event loop: `AsyncBranches.join` does."""
        if mode not in get_args(JoinMode):
            raise InvalidArgument(f"mode is {mode!r}; expected one of {get_args(JoinMode)}", field="mode")
        run = self._run
        with run.condition:
            is_first = not self._branches[0].joined
            slots = [slot for branch in self._branches for slot in branch.slots]
        if is_first:
            run.flush(*self._branches)
            run.append(self._parent, (Piece(Join(tuple(branch.number for branch in self._branches))),))
            self._end(gather=mode == "gather_variable")
            run.flush(self._parent)
        yield from run.answering(slots, timeout, "join")
        if is_first and mode == "concate_and_append":
            run.append(self._parent, tuple(_again(slot) for slot in slots if slot.text or isinstance(slot.op, Role)))

    def _end(self, gather: bool) -> None:
        with self._run.condition:
            names = {name: None for branch in self._branches for name in branch.own} if gather else {}
            for branch in self._branches:
                branch.joined = True
            for name in names:
                parts = tuple(branch.variables[name] for branch in self._branches if name in branch.own)
                self._run.bind(self._parent, name, Gathered(parts))


def _again(slot: Slot) -> Piece:
    """The same text as a constant; a message's marker as a marker."""
    op: Op = slot.op if isinstance(slot.op, Role) else Text(slot.text)
    return Piece(op, closes=slot.closes)
