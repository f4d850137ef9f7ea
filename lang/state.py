"""What a program holds in its hands: a State to append to and read from, and the Branches of a fork.

Both are thin views of a `Run`, which does the work. Appending never blocks; reading waits for what it needs and
raises the real error. This file knows the user's syntax and nothing of threads or messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar, overload

from latticework.lang.branch import Branch, Composed, Gathered, Local, Slot, Variable, place, user_line
from latticework.lang.errors import InvalidArgument, LatticeworkError, ProgramError, UnknownVariable
from latticework.lang.events import Done, Usage
from latticework.lang.expr import Expr, Piece, checked_text, message, pieces_of
from latticework.lang.ir import Join, Program, Role, Set, Text
from latticework.lang.run import Run

R = TypeVar("R")


class State:
    """One branch of a run: append with `s += …`, read with `s["x"]`.

    A body gets a State to write to; `run` returns one to read from. Every method that waits takes `timeout` in
    seconds and raises DeadlineExceeded; reading something that failed raises why.
    """

    __slots__ = ("_branch", "_outside", "_run")

    def __init__(self, run: Run, branch: Branch, outside: bool = False) -> None:
        self._run = run
        self._branch = branch
        self._outside = outside  # a reader beside the body: what is not there yet may still come

    # ------------------------------------------------------------ writing

    def __iadd__(self, value: str | Expr) -> State:
        pieces = pieces_of(value)
        self._check_writable()
        self._run.append(self._branch, pieces)
        return self

    def __setitem__(self, name: str, value: object) -> None:
        """Sets a variable of this branch. Text is best; other objects read back as they are."""
        checked_name(name)
        self._check_writable()
        text = checked_text(str(value), field=name)
        self._run.append(self._branch, (Piece(Set(name, (Text(text),))),))
        self._run.bind(self._branch, name, Local(value))

    @overload
    def system(self, content: str | Expr) -> None: ...
    @overload
    def system(self) -> OpenMessage: ...
    def system(self, content: str | Expr | None = None) -> OpenMessage | None:
        """Appends a system message; without content, `with s.system():` opens one."""
        return self._message("system", content)

    @overload
    def user(self, content: str | Expr) -> None: ...
    @overload
    def user(self) -> OpenMessage: ...
    def user(self, content: str | Expr | None = None) -> OpenMessage | None:
        """Appends a user message; without content, `with s.user():` opens one."""
        return self._message("user", content)

    @overload
    def assistant(self, content: str | Expr) -> None: ...
    @overload
    def assistant(self) -> OpenMessage: ...
    def assistant(self, content: str | Expr | None = None) -> OpenMessage | None:
        """Appends an assistant message; without content, `with s.assistant():` opens one."""
        return self._message("assistant", content)

    def _message(self, role: str, content: str | Expr | None) -> OpenMessage | None:
        if content is None:
            return OpenMessage(self, role)
        self.__iadd__(message(role, content))
        return None

    def fork(self, n: int = 1) -> Branches:
        """Starts n branches that continue from here, with this text and these variables."""
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise InvalidArgument(f"fork got n={n!r}; expected an integer of at least 1", field="n")
        self._check_writable()
        return Branches(self, self._run.fork(self._branch, n))

    def cancel(self) -> None:
        """Ends the whole run at once; whoever waits for it gets Cancelled. Idempotent."""
        self._run.cancel()

    def _check_writable(self) -> None:
        if self._outside:
            raise ProgramError("this state is the result of a run; only the program itself can append to it")

    # ------------------------------------------------------------ reading variables

    def __getitem__(self, name: str) -> Any:
        """Waits for a variable: text, a list of texts after a join or of a gen with n, or what the program set."""
        return self.get(name)

    def get(self, name: str, timeout: float | None = None) -> Any:
        """`s[name]` with a deadline."""
        return self._read(name, timeout, lambda slot, done: done.text)

    def value(self, name: str, timeout: float | None = None) -> Any:
        """The typed value of a variable: an instance of gen's `schema`, the JSON of its `json_schema`, else text.
        Raises InvalidValue when the text is not of that type."""
        return self._read(
            name, timeout, lambda slot, done: slot.decoder.decode(name, done.text) if slot.decoder else done.text
        )

    def meta(self, name: str, timeout: float | None = None) -> Any:
        """How a variable came about: its Done event with finish, usage, logprobs, scores, seed; a list of them
        after a join or of a gen with n."""
        if isinstance(self._find(name, timeout), Local | Composed):
            raise ProgramError(f"{name!r} was set by the program; only generated variables have a meta")
        return self._read(name, timeout, lambda slot, done: done)

    def __contains__(self, name: object) -> bool:
        with self._run.condition:
            return name in self._branch.variables

    def variables(self) -> tuple[str, ...]:
        """Names that can be read here, in the order they were set."""
        with self._run.condition:
            return tuple(self._branch.variables)

    def _read(self, name: str, timeout: float | None, read: Callable[[Slot, Done], R]) -> Any:
        variable = self._find(name, timeout)
        self._run.wait_for_slots(_slots(variable), timeout, f"variable {name!r}")
        return _map(variable, read)

    def _find(self, name: str, timeout: float | None) -> Variable:
        """The variable, at once; a reader beside the body waits until the body sets it or ends."""
        run, variables = self._run, self._branch.variables
        if self._outside:
            run.wait(lambda: name in variables or run.over, timeout, f"variable {name!r}")
        with run.condition:
            found = variables.get(name)
            known = ", ".join(map(repr, variables)) or "none"
        if found is not None:
            return found
        if run.failure:
            raise run.failure.exception()
        raise UnknownVariable(
            f"no op of this branch sets {name!r}; it has: {known}", field=name, where=place(user_line())
        )

    # ------------------------------------------------------------ reading text

    def text(self, timeout: float | None = None) -> str:
        """Everything in this branch: what was appended, the template's markers, and what was generated."""
        return "".join(slot.text for slot in self._settled(timeout))

    def messages(self, timeout: float | None = None) -> list[dict[str, str]]:
        """The conversation as {"role": …, "content": …}; text outside messages is left out."""
        messages: list[dict[str, str]] = []
        is_open = False
        for slot in self._settled(timeout):
            if isinstance(slot.op, Role):
                is_open = slot.op.role is not None
                if slot.op.role:
                    messages.append({"role": slot.op.role, "content": ""})
            elif is_open:
                messages[-1]["content"] += slot.text
        return messages

    def wait(self, timeout: float | None = None) -> None:
        """Waits for all of this branch; on the result of a run, for the whole run. Raises what went wrong."""
        self._settled(timeout)

    def _settled(self, timeout: float | None) -> list[Slot]:
        run = self._run
        if self._outside:
            run.wait_until_over(timeout)
            if run.failure:
                raise run.failure.exception()
        with run.condition:
            slots = self._branch.history()
        run.wait_for_slots(slots, timeout, "the text")
        return slots

    def text_iter(self, name: str | None = None, timeout: float | None = None) -> Iterator[str]:
        """The text as it grows, or that of one variable (of a gen with n: its first output, which the text goes on
        with). `timeout` bounds the wait for each piece.

        On the result of a run it ends with the run, and raises what the run raises.
        """
        if name is not None:
            variable = self._find(name, timeout)
            for slot in _slots(variable):
                yield from self._run.follow(slot, timeout)
            return
        seen = 0
        while slots := self._next_slots(seen, timeout):
            seen += len(slots)
            for slot in slots:
                yield from self._run.follow(slot, timeout)
        if self._outside and self._run.failure:
            raise self._run.failure.exception()

    def _next_slots(self, seen: int, timeout: float | None) -> list[Slot]:
        """Ops after the first `seen`; beside the body it waits for more, and none means that the run is over."""
        run = self._run
        if self._outside:
            run.wait(lambda: len(self._branch.slots) > seen or run.over, timeout, "the text")
        with run.condition:
            return self._branch.history()[seen:]

    # ------------------------------------------------------------ about the run

    def error(self) -> BaseException | None:
        """What has gone wrong so far, without raising or waiting."""
        return self._run.error()

    def usage(self) -> Usage:
        """Tokens of the whole run so far."""
        return self._run.usage()

    def program(self) -> Program:
        """What the run has appended so far, as IR."""
        return self._run.program()

    @property
    def seed(self) -> int:
        """The run's seed, given or drawn: running again with it gives the same text."""
        return self._run.seed

    @property
    def item(self) -> int:
        """The run's place in its batch, 0 outside one."""
        return self._run.item

    @property
    def waits(self) -> int:
        """How often a thread of this run had to wait for an answer. What is there before it is needed is no wait."""
        return self._run.waits

    @property
    def ret_value(self) -> Any:
        """What the body returned. Waits until the run is over."""
        if self._outside:
            self._run.wait_until_over(None)
        return self._run.result

    def _repr_html_(self) -> str:
        """What a notebook shows: the run so far."""
        from latticework.lang.html import run_html

        return run_html(self._run)

    def __repr__(self) -> str:
        status = "over" if self._run.over else "running"
        return f"<State of branch {self._branch.number}, {status}, variables: {', '.join(self.variables()) or 'none'}>"


class OpenMessage:
    """`with s.user():` — what is appended inside is one message."""

    def __init__(self, state: State, role: str) -> None:
        self._state = state
        self._role = role

    def __enter__(self) -> State:
        self._state.__iadd__(Expr(Piece(Role(self._role))))
        return self._state

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._state.__iadd__(Expr(Piece(Role(None))))
        else:
            with suppress(LatticeworkError):  # the error under way is the one to hear of
                self._state.__iadd__(Expr(Piece(Role(None))))


class Branches:
    """The branches of one fork: index, iterate, append to all with `+=`, and `join`."""

    def __init__(self, parent: State, branches: list[Branch]) -> None:
        self._parent = parent
        self._branches = branches
        self._states = [State(parent._run, branch) for branch in branches]

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

    def __iadd__(self, value: str | Expr) -> Branches:
        for state in self._states:
            state += value
        return self

    def join(self, timeout: float | None = None) -> None:
        """Ends the branches and waits for them. Each variable set in them becomes, in the parent, the list of the
        branches' values (of those that set it, in order). Raises the first branch's failure."""
        run, parent = self._parent._run, self._parent._branch
        with run.condition:
            joining = not self._branches[0].joined
        if joining:
            run.flush(*self._branches)
            run.append(parent, (Piece(Join(tuple(branch.number for branch in self._branches))),))
            self._gather(run, parent)
            run.flush(parent)
        with run.condition:
            slots = [slot for branch in self._branches for slot in branch.slots]
        run.wait_for_slots(slots, timeout, "join")

    def _gather(self, run: Run, parent: Branch) -> None:
        with run.condition:
            names = {name: None for branch in self._branches for name in branch.own}
            for branch in self._branches:
                branch.joined = True
            for name in names:
                parts = tuple(branch.variables[name] for branch in self._branches if name in branch.own)
                run.bind(parent, name, Gathered(parts))


def checked_name(name: object, field: str = "name") -> str:
    """A variable's name. Raises InvalidArgument."""
    if not isinstance(name, str) or not name:
        raise InvalidArgument(f"{field} is {name!r}; expected a non-empty string", field=field)
    return checked_text(name, field)


def _slots(variable: Variable) -> list[Slot]:
    match variable:
        case Slot():
            return [variable]
        case Gathered(parts):
            return [slot for part in parts for slot in _slots(part)]
        case Composed(parts):
            return [part[0] for part in parts if not isinstance(part, str)]
        case _:
            return []


def _map(variable: Variable, read: Callable[[Slot, Done], R]) -> Any:
    match variable:
        case Slot(done=done):
            assert done is not None, "a variable's op ends with a Done"
            return [read(variable, sample) for sample in done.samples] if done.samples else read(variable, done)
        case Gathered(parts):
            return [_map(part, read) for part in parts]
        case Composed():
            return variable.text()
        case Local(value):
            return value
