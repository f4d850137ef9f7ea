"""What a program holds in its hands: a State to append to and to read from.

It is a thin view of a `Run`, which does the work. Appending never blocks; reading waits for what it needs and raises
the real error. This file knows the user's syntax and nothing of threads or messages.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar, overload

from latticework.lang.branch import Branch, Local, Span
from latticework.lang.errors import InvalidArgument, LatticeworkError, ProgramError, Unsupported
from latticework.lang.events import Usage
from latticework.lang.expr import Expr, Piece, checked_text, message, pieces_of
from latticework.lang.group import Branches
from latticework.lang.ir import Program, Role, Set, Text
from latticework.lang.meta import meta_info, stream_info
from latticework.lang.reading import View, checked_name
from latticework.lang.run import Run
from latticework.lang.waiting import iterate, iterate_async, run_through

__all__ = ["Branches", "OpenMessage", "State", "checked_name"]


class Appendable(Protocol):
    """What a message can be opened in."""

    def __iadd__(self, value: Expr) -> Any: ...


S = TypeVar("S", bound=Appendable)


class State:
    """One branch of a run: append with `s += …`, read with `s["x"]`.

    A body gets a State to write to; `run` returns one to read from. Every method that waits takes `timeout` in
    seconds and raises DeadlineExceeded; reading something that failed raises why.
    """

    __slots__ = ("_branch", "_outside", "_run", "_view")

    def __init__(self, run: Run, branch: Branch, outside: bool = False) -> None:
        self._run = run
        self._branch = branch
        self._outside = outside  # a reader beside the body: what is not there yet may still come
        self._view = View(run, branch, outside)

    # ------------------------------------------------------------ writing

    def __iadd__(self, value: str | Expr) -> State:
        pieces = pieces_of(value)
        self._check_writable()
        self._run.append(self._branch, pieces)
        return self

    def __setitem__(self, name: str, value: object) -> None:
        """Sets a variable of this branch. Text is best; other objects read back as they are. On the result of a run
        that is over it only changes what is read."""
        checked_name(name)
        if self._outside and self._run.over:
            self._run.bind(self._branch, name, Local(value))
            return
        self._check_writable()
        text = checked_text(str(value), field=name)
        self._run.append(self._branch, (Piece(Set(name, (Text(text),))),))
        self._run.bind(self._branch, name, Local(value))

    @overload
    def system(self, expr: str | Expr) -> None: ...
    @overload
    def system(self) -> OpenMessage[State]: ...
    def system(self, expr: str | Expr | None = None) -> OpenMessage[State] | None:
        """Appends a system message; without an expr, `with s.system():` opens one."""
        return self._message("system", expr)

    @overload
    def user(self, expr: str | Expr) -> None: ...
    @overload
    def user(self) -> OpenMessage[State]: ...
    def user(self, expr: str | Expr | None = None) -> OpenMessage[State] | None:
        """Appends a user message; without an expr, `with s.user():` opens one."""
        return self._message("user", expr)

    @overload
    def assistant(self, expr: str | Expr) -> None: ...
    @overload
    def assistant(self) -> OpenMessage[State]: ...
    def assistant(self, expr: str | Expr | None = None) -> OpenMessage[State] | None:
        """Appends an assistant message; without an expr, `with s.assistant():` opens one."""
        return self._message("assistant", expr)

    def _message(self, role: str, expr: str | Expr | None) -> OpenMessage[State] | None:
        if expr is None:
            return OpenMessage(self, role)
        self.__iadd__(message(role, expr))
        return None

    def set_var(self, name: str, value: object) -> None:
        """`s[name] = value`."""
        self[name] = value

    @contextmanager
    def var_scope(self, name: str) -> Iterator[State]:
        """`with s.var_scope("x"):` — all that is appended inside, as text, is the variable `name` afterwards."""
        checked_name(name)
        self._check_writable()
        first = len(self._branch.slots)
        yield self
        with self._run.condition:
            slots = tuple(self._branch.slots[first:])
        self._run.bind(self._branch, name, Span(slots))

    def fork(self, size: int = 1, position_ids_offset: list[int] | None = None) -> Branches:
        """Starts `size` branches that continue from here, with this text and these variables. Raises InvalidArgument
        for less than one. position_ids_offset is SGLang's, where it has no effect: only None is taken."""
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise InvalidArgument(f"fork got {size!r}; expected an integer of at least 1", field="size")
        if position_ids_offset is not None:
            raise Unsupported("fork cannot move positions", field="position_ids_offset", hint="leave it out")
        self._check_writable()
        branches = self._run.fork(self._branch, size)
        return Branches(self, [State(self._run, branch) for branch in branches])

    @contextmanager
    def copy(self, position_ids_offset: list[int] | None = None) -> Iterator[State]:
        """`with s.copy() as c:` — a branch of its own, joined at the end."""
        forks = self.fork(1, position_ids_offset)
        yield forks[0]
        forks.join()

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
        return run_through(self._run, self._view.text_of(name, timeout))

    def get_var(self, name: str, timeout: float | None = None) -> Any:
        """`get` by SGLang's name."""
        return self.get(name, timeout)

    def value(self, name: str, timeout: float | None = None) -> Any:
        """The typed value of a variable: an instance of gen's `schema`, the JSON of its `json_schema`, a value of its
        `dtype`, else text. Raises InvalidValue when the text is not of that type."""
        return run_through(self._run, self._view.value_of(name, timeout))

    def meta(self, name: str, timeout: float | None = None) -> Any:
        """How a variable came about: its Done event with finish, usage, logprobs, scores, seed; a list of them
        after a join or of a gen with n."""
        return run_through(self._run, self._view.done_of(name, timeout))

    def get_meta_info(self, name: str, timeout: float | None = None) -> Any:
        """The same as a dict, by SGLang's names: see `meta_info`."""
        return meta_info(self.meta(name, timeout))

    def __contains__(self, name: object) -> bool:
        with self._run.condition:
            return name in self._branch.variables

    def variables(self) -> tuple[str, ...]:
        """Names that can be read here, in the order they were set."""
        with self._run.condition:
            return tuple(self._branch.variables)

    # ------------------------------------------------------------ reading text

    def text(self, timeout: float | None = None) -> str:
        """Everything in this branch: what was appended, the template's markers, and what was generated."""
        return run_through(self._run, self._view.text(timeout))

    def messages(self, timeout: float | None = None) -> list[dict[str, str]]:
        """The conversation as {"role": …, "content": …}; text outside messages is left out."""
        return run_through(self._run, self._view.messages(timeout))

    def wait(self, timeout: float | None = None) -> None:
        """Waits for all of this branch; on the result of a run, for the whole run. Raises what went wrong."""
        run_through(self._run, self._view.settling(timeout))

    def sync(self, timeout: float | None = None) -> None:
        """`wait` by SGLang's name."""
        self.wait(timeout)

    def text_iter(self, var_name: str | None = None, timeout: float | None = None) -> Iterator[str]:
        """The text as it grows, or that of one variable (of a gen with n: its first output, which the text goes on
        with). `timeout` bounds the wait for each piece.

        On the result of a run it ends with the run, and raises what the run raises.
        """
        for heard in iterate(self._run, self._view.hearing(var_name, timeout)):
            if heard.text:
                yield heard.text

    @overload
    def text_async_iter(self, var_name: str | None = None) -> AsyncIterator[str]: ...
    @overload
    def text_async_iter(
        self, var_name: str | None = None, return_meta_data: bool = False, timeout: float | None = None
    ) -> AsyncIterator[Any]: ...
    async def text_async_iter(
        self, var_name: str | None = None, return_meta_data: bool = False, timeout: float | None = None
    ) -> AsyncIterator[Any]:
        """The same in an event loop. return_meta_data: yields (text, dict), see `stream_info`; none of the tokens'
        log-probabilities is lost, however many come at once."""
        async for heard in iterate_async(self._run, self._view.hearing(var_name, timeout)):
            if return_meta_data:
                yield heard.text, stream_info(heard)
            elif heard.text:
                yield heard.text

    # ------------------------------------------------------------ about the run

    def error(self) -> BaseException | None:
        """What has gone wrong so far, without raising or waiting."""
        return self._run.error()

    def usage(self) -> Usage:
        """Tokens of the whole run so far: those of its gens and selects, each of which `meta` has by itself, and text
        that was computed before them, for a fork."""
        return self._run.usage()

    def program(self) -> Program:
        """What the run has appended so far, as IR."""
        return self._run.program()

    @property
    def seed(self) -> int:
        """The run's seed, given or drawn: running again with it gives the same text."""
        return self._run.terms.seed

    @property
    def item(self) -> int:
        """The run's place in its batch, 0 outside one."""
        return self._run.terms.item

    @property
    def waits(self) -> int:
        """How often a thread of this run had to wait for an answer. What is there before it is needed is no wait."""
        return self._run.waits

    @property
    def ret_value(self) -> Any:
        """What the body returned. Waits until the run is over."""
        return run_through(self._run, self._view.result())

    def _repr_html_(self) -> str:
        """What a notebook shows: the run so far."""
        from latticework.lang.html import run_html

        return run_html(self._run)

    def __repr__(self) -> str:
        status = "over" if self._run.over else "running"
        return f"<State of branch {self._branch.number}, {status}, variables: {', '.join(self.variables()) or 'none'}>"


class OpenMessage(Generic[S]):
    """`with s.user():` — what is appended inside is one message."""

    def __init__(self, state: S, role: str) -> None:
        self._state = state
        self._role = role

    def __enter__(self) -> S:
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
