"""What an `async def` program holds in its hands: the same state, whose reads are awaited.

    async def program(s: lw.AsyncState) -> None:
        s += "2 + 2 = " + lw.gen("x")
        if "4" in await s["x"]:
            …

Appending never waits, so it is the same as in a plain program. This file knows what is awaited, not how.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any, Protocol, overload

from latticework.lang.errors import InvalidArgument, Unsupported
from latticework.lang.events import Done, Usage
from latticework.lang.expr import Expr
from latticework.lang.group import Branches, JoinMode
from latticework.lang.ir import Program
from latticework.lang.meta import meta_info
from latticework.lang.state import OpenMessage, State
from latticework.lang.waiting import Awaited, Waiting


class AsyncState:
    """One branch of a run: append with `s += …`, read with `await s["x"]`.

    Every method that waits takes `timeout` in seconds and raises DeadlineExceeded; awaiting something that failed
    raises why. Cancelling the task that awaits leaves the run as it is; `cancel()` ends it.
    """

    __slots__ = ("_state",)

    def __init__(self, state: State) -> None:
        self._state = state

    # ------------------------------------------------------------ writing, as in State

    def __iadd__(self, value: str | Expr) -> AsyncState:
        self._state += value
        return self

    def __setitem__(self, name: str, value: object) -> None:
        self._state[name] = value

    def set_var(self, name: str, value: object) -> None:
        """`s[name] = value`."""
        self._state[name] = value

    @overload
    def system(self, expr: str | Expr) -> None: ...
    @overload
    def system(self) -> OpenMessage[AsyncState]: ...
    def system(self, expr: str | Expr | None = None) -> OpenMessage[AsyncState] | None:
        """Appends a system message; without an expr, `with s.system():` opens one."""
        return self._message("system", expr)

    @overload
    def user(self, expr: str | Expr) -> None: ...
    @overload
    def user(self) -> OpenMessage[AsyncState]: ...
    def user(self, expr: str | Expr | None = None) -> OpenMessage[AsyncState] | None:
        """Appends a user message; without an expr, `with s.user():` opens one."""
        return self._message("user", expr)

    @overload
    def assistant(self, expr: str | Expr) -> None: ...
    @overload
    def assistant(self) -> OpenMessage[AsyncState]: ...
    def assistant(self, expr: str | Expr | None = None) -> OpenMessage[AsyncState] | None:
        """Appends an assistant message; without an expr, `with s.assistant():` opens one."""
        return self._message("assistant", expr)

    def _message(self, role: str, expr: str | Expr | None) -> OpenMessage[AsyncState] | None:
        if expr is None:
            return OpenMessage(self, role)
        self._state._message(role, expr)
        return None

    def var_scope(self, name: str) -> AbstractContextManager[AsyncState]:
        """`with s.var_scope("x"):` — all that is appended inside is the variable `name` afterwards."""

        @contextmanager
        def scope() -> Iterator[AsyncState]:
            with self._state.var_scope(name):
                yield self

        return scope()

    def fork(self, size: int = 1, position_ids_offset: list[int] | None = None) -> AsyncBranches:
        """Starts `size` branches that continue from here."""
        return AsyncBranches(self._state.fork(size, position_ids_offset))

    @asynccontextmanager
    async def copy(self) -> AsyncIterator[AsyncState]:
        """`async with s.copy() as c:` — a branch of its own, joined at the end."""
        forks = self.fork(1)
        yield forks[0]
        await forks.join()

    def cancel(self) -> None:
        """Ends the whole run at once; whoever waits for it gets Cancelled. Idempotent."""
        self._state.cancel()

    # ------------------------------------------------------------ reading

    def __getitem__(self, name: str) -> Awaited[Any]:
        """`await s["x"]`: text, a list of texts after a join or of a gen with n, or what the program set."""
        return self._awaited(lambda: self._state._view.text_of(name, None), f's["{name}"]')

    def get(self, name: str, timeout: float | None = None) -> Awaited[Any]:
        """`await s[name]` with a deadline."""
        return self._awaited(lambda: self._state._view.text_of(name, timeout), f's.get("{name}")')

    def get_var(self, name: str, timeout: float | None = None) -> Awaited[Any]:
        """`get` by SGLang's name."""
        return self.get(name, timeout)

    def value(self, name: str, timeout: float | None = None) -> Awaited[Any]:
        """The typed value of a variable; see `State.value`."""
        return self._awaited(lambda: self._state._view.value_of(name, timeout), f's.value("{name}")')

    def meta(self, name: str, timeout: float | None = None) -> Awaited[Any]:
        """How a variable came about; see `State.meta`."""
        return self._awaited(lambda: self._state._view.done_of(name, timeout), f's.meta("{name}")')

    def get_meta_info(self, name: str, timeout: float | None = None) -> Awaited[Any]:
        """The same as a dict, by SGLang's names: see `meta_info`."""

        def read() -> Waiting[Any]:
            done: Done = yield from self._state._view.done_of(name, timeout)
            return meta_info(done)

        return self._awaited(read, f's.get_meta_info("{name}")')

    def text(self, timeout: float | None = None) -> Awaited[str]:
        """Everything in this branch."""
        return self._awaited(lambda: self._state._view.text(timeout), "s.text()")

    def messages(self, timeout: float | None = None) -> Awaited[list[dict[str, str]]]:
        """The conversation as {"role": …, "content": …}; text outside messages is left out."""
        return self._awaited(lambda: self._state._view.messages(timeout), "s.messages()")

    def wait(self, timeout: float | None = None) -> Awaited[None]:
        """All of this branch; on the result of a run, the whole run. Raises what went wrong."""

        def read() -> Waiting[None]:
            yield from self._state._view.settling(timeout)

        return self._awaited(read, "s.wait()")

    def sync(self, timeout: float | None = None) -> Awaited[None]:
        """`wait` by SGLang's name."""
        return self.wait(timeout)

    def result(self) -> Awaited[Any]:
        """What the body has returned, once the run is over."""
        return self._awaited(self._state._view.result, "s.result()")

    def text_iter(self, var_name: str | None = None, timeout: float | None = None) -> AsyncIterator[str]:
        """`async for`: the text as it grows, or that of one variable."""
        return self._state.text_async_iter(var_name, timeout=timeout)

    def text_async_iter(
        self, var_name: str | None = None, return_meta_data: bool = False, timeout: float | None = None
    ) -> AsyncIterator[Any]:
        """The same by SGLang's name; see `State.text_async_iter`."""
        return self._state.text_async_iter(var_name, return_meta_data, timeout)

    def __aiter__(self) -> AsyncIterator[str]:
        return self.text_iter()

    def _awaited(self, read: Callable[[], Waiting[Any]], what: str) -> Awaited[Any]:
        return Awaited(self._state._run, read, what)

    # ------------------------------------------------------------ about the run, as in State

    def __contains__(self, name: object) -> bool:
        return name in self._state

    def variables(self) -> tuple[str, ...]:
        """Names that can be read here, in the order they were set."""
        return self._state.variables()

    def error(self) -> BaseException | None:
        """What has gone wrong so far."""
        return self._state.error()

    def usage(self) -> Usage:
        """Tokens of the whole run so far."""
        return self._state.usage()

    def program(self) -> Program:
        """What the run has appended so far, as IR."""
        return self._state.program()

    @property
    def seed(self) -> int:
        """The run's seed, given or drawn."""
        return self._state.seed

    @property
    def item(self) -> int:
        """The run's place in its batch, 0 outside one."""
        return self._state.item

    def __repr__(self) -> str:
        return f"<Async{repr(self._state)[1:]}"


class AsyncBranches:
    """The branches of one fork in an async program: index, iterate, append to all with `+=`, and `await join()`."""

    def __init__(self, branches: Branches) -> None:
        self._branches = branches
        self._states = [AsyncState(state) for state in branches]

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[AsyncState]:
        return iter(self._states)

    def __getitem__(self, index: int) -> AsyncState:
        return self._states[index]

    def __setitem__(self, index: int, state: AsyncState) -> None:
        if state is not self._states[index]:  # `forks[0] += …` ends with this assignment
            raise InvalidArgument("a branch cannot be replaced; append to it with +=", field="index")

    def __iadd__(self, value: str | Expr | Callable[[int], str | Expr] | Sequence[str | Expr]) -> AsyncBranches:
        self._branches += value
        return self

    def join(self, mode: JoinMode = "gather_variable", timeout: float | None = None) -> Awaited[None]:
        """See `Branches.join`. Only awaiting it joins."""
        return Awaited(self._branches._run, lambda: self._branches.joining(mode, timeout), "forks.join()")


class Body(Protocol):
    """A program, as far as calling its body goes."""

    name: str
    is_async: bool
    body: Callable[..., Any]


def call_body(function: Body, state: State, bound: inspect.BoundArguments) -> Any:
    """What the body returns: of an async one a coroutine. bound: its arguments, of which the first is the state's."""
    return function.body(AsyncState(state) if function.is_async else state, *bound.args[1:], **bound.kwargs)


def call_at_once(function: Body, state: State, bound: inspect.BoundArguments) -> Any:
    """What the body returns, where nothing that it reads has to be waited for. Raises Unsupported for an async body
    that awaits something else."""
    result = call_body(function, state, bound)
    if not function.is_async:
        return result
    try:
        result.send(None)
    except StopIteration as stop:
        return stop.value
    result.close()
    raise Unsupported(
        f"{function.name} awaits something other than its state, which tracing cannot wait for",
        hint=f"await {function.name}.arun(…) runs any body",
    )
