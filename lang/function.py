"""A program: a Python function that appends to a state, and every way to run it.

    run         in this thread                          arun        in this event loop
    run_batch   many, in threads only where they wait   astream     in this event loop, read as it grows

This file knows whose arguments are whose; `execution.py` how a run goes.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MethodType
from typing import Any, Literal, overload

from latticework.lang.asynchronous import AsyncState
from latticework.lang.backends.base import Backend
from latticework.lang.backends.default import default_backend
from latticework.lang.batch import generate_batch, run_batch
from latticework.lang.compiled import CompiledProgram, compile_function
from latticework.lang.errors import InvalidArgument
from latticework.lang.execution import Execution
from latticework.lang.expr import Expr, Piece
from latticework.lang.ir import Gen, Program, Role, Sampling, Text
from latticework.lang.passes import constant_prefix
from latticework.lang.record import record
from latticework.lang.run import Run
from latticework.lang.settings import Settings, split_settings
from latticework.lang.state import State
from latticework.lang.trace import look_at, refuse_while_tracing, trace


class Function:
    """A program: a Python function whose first parameter is the state it appends to, whatever its name. A method's
    first is `self`, and its second the state.

    num_api_spec_tokens: SGLang's, kept and without effect: a program's gens leave together as it is.
    """

    __name__: str

    def __init__(
        self,
        body: Callable[..., Any],
        num_api_spec_tokens: int | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> None:
        _check_body(body)
        functools.update_wrapper(self, body)
        self.name: str = getattr(body, "__name__", "program")
        self.body = body
        self.is_async = inspect.iscoroutinefunction(body)
        self.num_api_spec_tokens = num_api_spec_tokens
        self.signature = inspect.signature(body)
        self.parameters = frozenset(list(self.signature.parameters)[1:])
        self.values = dict(values or {})
        self._execution = Execution(self)

    def bind(self, **values: Any) -> Function:
        """The same program with some of its arguments given. What a call gives counts instead. Raises
        InvalidArgument for a name that is no parameter."""
        kinds = [parameter.kind for parameter in self.signature.parameters.values()]
        for name in values:
            if name not in self.parameters and inspect.Parameter.VAR_KEYWORD not in kinds:
                known = ", ".join(list(self.signature.parameters)[1:]) or "none"
                raise InvalidArgument(f"{self.name} has no parameter {name!r}; it has: {known}", field=name)
        return Function(self.body, self.num_api_spec_tokens, {**self.values, **values})

    def __get__(self, instance: object, owner: type | None = None) -> Function:
        """As a method of a class, whose body begins with `self`: the program of that instance."""
        if instance is None or next(iter(self.signature.parameters)) != "self":
            return self
        return Function(MethodType(self.body, instance), self.num_api_spec_tokens, self.values)

    # ------------------------------------------------------------ running

    def run(self, /, *args: Any, **kwargs: Any) -> State:
        """Runs the program and returns its state.

        Takes the program's arguments, and settings by name: `backend`, `seed`, `timeout` (seconds for the whole
        run), default sampling as `temperature=`, `max_tokens=`… or `sampling=lw.Sampling(...)`; `priority`, higher
        goes first, 0 by default; `max_total_tokens`, output tokens of all ops together, beyond which the run fails with
        LimitExceeded; and `record`, a file that gets a line of JSON when the run is over (see `lw.replay`). A program's
        own parameter wins over a setting of the same name. Waits for everything and raises what went wrong; with
        `wait=False` or `stream=True` it returns at once, and the state's readers wait and raise instead.
        """
        settings, bound = self._prepare(args, kwargs)
        run = self.open(settings, settings.backend or default_backend(), 0)
        if settings.wait and not settings.stream:
            self._execution.execute(run, bound)
        else:
            self._execution.start(run, bound)
        return State(run, run.root, outside=True)

    async def arun(self, /, *args: Any, **kwargs: Any) -> State:
        """The same, awaited: other tasks go on meanwhile, and cancelling this one cancels the run. An `async def`
        body runs in this loop; a plain one in a thread, which it has for itself only while it waits for an answer.
        What is returned is over, so that reading it never waits."""
        settings, bound = self._prepare(args, kwargs)
        run = self.open(settings, await self._execution.backend(settings.backend), 0)
        await self._execution.execute_async(run, bound)
        return State(run, run.root, outside=True)

    def astream(self, /, *args: Any, **kwargs: Any) -> AsyncState:
        """Starts the program in the running event loop and returns at once. `async for piece in f.astream(…)` gives
        the text as it grows, `text_iter("x")` of what is returned that of a variable. Raises RuntimeError without a
        running loop."""
        settings, bound = self._prepare(args, kwargs)
        run = self.open(settings, settings.backend or default_backend(), 0)
        self._execution.start_async(run, bound)
        return AsyncState(State(run, run.root, outside=True))

    @overload
    def run_batch(
        self,
        batch_kwargs: Iterable[Mapping[str, Any] | Sequence[Any]],
        *,
        num_threads: int | Literal["auto"] = "auto",
        progress_bar: bool = False,
        generator_style: Literal[False] = False,
        return_exceptions: bool = False,
        **settings: Any,
    ) -> list[State]: ...
    @overload
    def run_batch(
        self,
        batch_kwargs: Iterable[Mapping[str, Any] | Sequence[Any]],
        *,
        num_threads: int | Literal["auto"] = "auto",
        progress_bar: bool = False,
        generator_style: Literal[True],
        return_exceptions: bool = False,
        **settings: Any,
    ) -> Iterator[State]: ...
    def run_batch(
        self,
        batch_kwargs: Iterable[Mapping[str, Any] | Sequence[Any]],
        *,
        num_threads: int | Literal["auto"] = "auto",
        progress_bar: bool = False,
        generator_style: bool = False,
        return_exceptions: bool = False,
        **settings: Any,
    ) -> list[State] | Iterator[State]:
        """Runs the program once per item, a dict of its arguments or a tuple of them in order, and returns the states
        in that order.

        settings: as for `run`, except wait and stream; one seed serves the whole batch, with the item's index.
        num_threads bounds the runs open at once, and the threads, of which there are more than one only while bodies
        wait for answers ("auto": 256 and 32). Arguments are checked before anything runs; the first failed item's
        error is raised once all are over, or with return_exceptions put in its place. generator_style: yields each
        state as soon as those before it are there, taking items as it goes, so that any number of them take the
        memory of a few; a failed item's error is raised in its turn, and what is still open is cancelled then."""
        refuse_while_tracing(f"{self.name}.run_batch(...)")
        chosen, unknown = split_settings(settings, ())
        if unknown or chosen.stream or not chosen.wait:
            name = next(iter(unknown), "stream" if chosen.stream else "wait")
            raise InvalidArgument(
                f"run_batch takes no {name}; arguments of the program belong in the items", field=name
            )
        do = generate_batch if generator_style else run_batch
        return do(
            self,
            batch_kwargs,
            chosen,
            progress_bar=progress_bar,
            num_threads=num_threads,
            return_exceptions=return_exceptions,
        )

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Inside a running program, with its state first: runs the body on that state and returns what the body
        returns (of an async program: to be awaited). Without a state it is `run`."""
        if not args or not isinstance(args[0], State | AsyncState):
            return self.run(*args, **kwargs)
        state, *rest = args
        if isinstance(state, AsyncState) is not self.is_async:
            kind, other = ("an async", "a plain") if self.is_async else ("a plain", "an async")
            raise InvalidArgument(
                f"{self.name} is {kind} program and got the state of {other} one", hint="make both of one kind"
            )
        bound = self.bind_arguments(rest, kwargs)
        look_at(self, bound, while_tracing=True)
        return self.body(state, *bound.args[1:], **bound.kwargs)

    # ------------------------------------------------------------ compiling

    def trace(self, **constants: Any) -> Program:
        """The program as IR: the body, run once on symbolic arguments. Parameters given here, bound ones, and those
        with a default are constants of the program. Raises NeedsValue where the body asks for a value."""
        return trace(self, {**self.values, **constants}).program

    def compile(self, **constants: Any) -> CompiledProgram:
        """The program, traced once and made ready to run without its body; see `trace`."""
        return compile_function(self, {**self.values, **constants})

    def cache(self, backend: Backend | None = None) -> None:
        """Computes what every run begins with, so that the next ones find it in the backend's cache; one token is
        drawn behind it. Raises what `compile` raises."""
        program = self.trace()
        ops = program.branches[0].ops[: constant_prefix(program)]
        pieces = tuple(Piece(op) for op in ops if isinstance(op, Text | Role))
        if not pieces:
            return

        def prefix(state: State) -> None:
            state += Expr(*pieces, Piece(Gen(None, Sampling(max_tokens=1), ("max_tokens",))))

        Function(prefix).run(backend=backend)

    # ------------------------------------------------------------ what the other files need

    def bind_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        """Arguments matched with parameters, bound values where none is given; the first stands for the state. Raises
        InvalidArgument."""
        try:
            given = self.signature.bind_partial(None, *args, **kwargs).arguments
            values = {name: value for name, value in self.values.items() if name not in given and name not in kwargs}
            return self.signature.bind(None, *args, **values, **kwargs)
        except TypeError as error:
            raise InvalidArgument(f"{self.name}{self.signature}: {error}") from None

    def open(self, settings: Settings, backend: Backend, item: int) -> Run:
        """Starts a run in a backend, before its body."""
        run = Run(backend, settings.terms(item))
        if settings.record is not None:
            record(settings.record, run, backend, self.name)
        return run

    def _prepare(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Settings, inspect.BoundArguments]:
        refuse_while_tracing(f"{self.name}.run(...)")
        settings, arguments = split_settings(kwargs, self.parameters)
        return settings, self.bind_arguments(args, arguments)

    def __repr__(self) -> str:
        return f"<program {self.name}{self.signature}>"


def _check_body(body: Callable[..., Any]) -> None:
    name = getattr(body, "__name__", repr(body))
    if not callable(body):
        raise InvalidArgument(f"@function got a {type(body).__name__}; expected a function")
    if inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body):
        raise InvalidArgument(f"{name} is a generator; a program appends to its state instead of yielding")
    parameters = list(inspect.signature(body).parameters.values())
    if not parameters or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise InvalidArgument(f"{name} has no parameter for its state", hint=f"def {name}(s, ...):")


@overload
def function(func: Callable[..., Any], num_api_spec_tokens: int | None = None) -> Function: ...
@overload
def function(func: None = None, num_api_spec_tokens: int | None = None) -> Callable[[Callable[..., Any]], Function]: ...
def function(
    func: Callable[..., Any] | None = None, num_api_spec_tokens: int | None = None
) -> Function | Callable[[Callable[..., Any]], Function]:
    """Makes a program of a Python function, plain or async: `@function` or `@function()`."""
    if func is None:
        return lambda body: Function(body, num_api_spec_tokens)
    return Function(func, num_api_spec_tokens)
