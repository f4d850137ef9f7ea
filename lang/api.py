"""The public verbs: function, gen, select, system, user, assistant.

Each checks what it is given at once and makes an expression of it; nothing here waits or talks to a backend,
except `Function.run`.
"""

from __future__ import annotations

import functools
import inspect
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args, overload

from latticework.lang.backends.base import Backend
from latticework.lang.backends.default import default_backend
from latticework.lang.batch import run_batch
from latticework.lang.compiled import CompiledProgram, compile_function
from latticework.lang.errors import InvalidArgument, RegexError, Unsupported, point_at
from latticework.lang.expr import Expr, Piece, checked_text, message
from latticework.lang.ir import (
    After,
    Constraint,
    Gbnf,
    Gen,
    JsonSchema,
    Lark,
    OnLength,
    Program,
    Regex,
    Sampling,
    Select,
    SelectMethod,
    Triggered,
)
from latticework.lang.run import Run
from latticework.lang.settings import Settings, split_settings
from latticework.lang.state import State, checked_name
from latticework.lang.trace import look_at, refuse_while_tracing, trace
from latticework.lang.values import JSON, Decoder, constraint_of

# ---------------------------------------------------------------- expressions


def gen(
    name: str | None = None,
    max_tokens: int | None = None,
    *,
    stop: str | Sequence[str] | None = None,
    stop_token_ids: Sequence[int] | None = None,
    stop_regex: str | Sequence[str] | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    frequency_penalty: float | None = None,
    presence_penalty: float | None = None,
    repetition_penalty: float | None = None,
    logit_bias: Mapping[int, float] | None = None,
    min_tokens: int | None = None,
    ignore_eos: bool | None = None,
    include_stop: bool | None = None,
    seed: int | None = None,
    n: int | None = None,
    best_of: int | None = None,
    regex: str | None = None,
    choices: Sequence[str] | None = None,
    json_schema: str | Mapping[str, Any] | None = None,
    schema: Any = None,
    grammar: str | Lark | Gbnf | Triggered | None = None,
    after: str | None = None,
    on_length: OnLength = "close",
    return_logprob: bool = False,
    top_logprobs: int | None = None,
    prompt_logprobs: int | None = None,
) -> Expr:
    """Text that the model writes, stored under `name`.

    Sampling: None takes the run's default (max_tokens 128, temperature 1.0); see `Sampling`. Constraint, at most
    one: `regex`; `json_schema`, a schema as dict or text; `schema`, a type (pydantic model, dataclass, TypedDict,
    Enum, Literal, list[int], …), whose value `s.value(name)` returns; `grammar`, a Lark grammar as text, or `lw.Lark`,
    `lw.Gbnf`, `lw.Triggered`; `choices`, which makes it a `select`. after: the constraint begins only behind the first
    occurrence of this text, as in after="</think>"; what comes before is free, and `s.value(name)` leaves it out.
    on_length: what a constrained gen does as its tokens run out, see `OnLength`. return_logprob: keep each
    token's log-probability in `s.meta(name)`; top_logprobs=k the k likeliest as well. prompt_logprobs: the same
    for the constant text right before, 0 or k likeliest. n: so many outputs, drawn side
    by side; `s[name]`, `s.value(name)` and `s.meta(name)` are lists, and the text goes on with the first. best_of: the
    n best of so many, best first.
    Raises InvalidArgument (RegexError, SchemaError) at once.
    """
    if name is not None:
        checked_name(name)
    if top_logprobs is not None or return_logprob:
        logprobs = top_logprobs or 0
    else:
        logprobs = None
    asked = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "stop": stop,
        "stop_token_ids": stop_token_ids,
        "stop_regex": stop_regex,
        "frequency_penalty": frequency_penalty,
        "presence_penalty": presence_penalty,
        "repetition_penalty": repetition_penalty,
        "logit_bias": logit_bias,
        "min_tokens": min_tokens,
        "ignore_eos": ignore_eos,
        "include_stop": include_stop,
        "seed": seed,
        "n": n,
        "best_of": best_of,
        "logprobs": logprobs,
        "prompt_logprobs": prompt_logprobs,
    }
    given: dict[str, Any] = {field: value for field, value in asked.items() if value is not None}
    constraints = {
        "regex": regex, "choices": choices, "json_schema": json_schema, "schema": schema, "grammar": grammar
    }  # fmt: skip
    chosen = [field for field, value in constraints.items() if value is not None]
    if len(chosen) > 1:
        raise InvalidArgument(f"gen got {' and '.join(chosen)}; expected at most one of them", field=chosen[1])
    sampling = Sampling(**given)
    for pattern in sampling.stop_regex:
        _regex(pattern, "stop_regex")
    if choices is not None:
        if after is not None:
            raise InvalidArgument("gen with choices scores every choice; after has no effect on that", field="after")
        return _gen_choices(name, choices, sampling, given)
    constraint, decoder = _constraint(regex, json_schema, schema, grammar)
    if after is not None:
        constraint, decoder = _after(after, constraint, decoder)
    if on_length not in get_args(OnLength):
        raise InvalidArgument(f"on_length is {on_length!r}; expected one of {get_args(OnLength)}", field="on_length")
    if on_length != "close" and constraint is None:
        raise InvalidArgument("on_length needs a regex, json_schema, schema or grammar", field="on_length")
    return Expr(Piece(Gen(name, sampling, tuple(given), constraint, on_length), decoder))


def _gen_choices(name: str | None, choices: Sequence[str], sampling: Sampling, given: Mapping[str, Any]) -> Expr:
    ignored = sorted(set(given) - {"max_tokens", "temperature"})
    if ignored:
        raise InvalidArgument(
            f"gen with choices scores every choice; {ignored[0]} has no effect on that", field=ignored[0]
        )
    if "temperature" in given and not sampling.greedy:
        raise InvalidArgument(
            f"gen with choices takes the likeliest; temperature is {sampling.temperature}",
            field="temperature",
            hint="leave temperature out; regex='(yes|no)' draws a choice token by token",
        )
    return select(name, choices)


def _constraint(
    regex: str | None, json_schema: Any, schema: Any, grammar: Any
) -> tuple[Constraint | None, Decoder | None]:
    if regex is not None:
        return _regex(regex), None
    if json_schema is not None:
        if not isinstance(json_schema, str | Mapping | bool):
            raise InvalidArgument(
                f"json_schema is a {type(json_schema).__name__}; expected a dict or JSON text",
                field="json_schema",
                hint="give a type as schema=",
            )
        return JsonSchema(dict(json_schema) if isinstance(json_schema, Mapping) else json_schema), JSON
    if schema is not None:
        return constraint_of(schema)
    if grammar is not None:
        if isinstance(grammar, str):
            return Lark(checked_text(grammar, "grammar")), None
        if not isinstance(grammar, Lark | Gbnf | Triggered):
            raise InvalidArgument(
                f"grammar is a {type(grammar).__name__}; expected a Lark grammar as text",
                field="grammar",
                hint="lw.Gbnf and lw.Triggered are taken too",
            )
        return grammar, None
    return None, None


def _after(marker: str, constraint: Constraint | None, decoder: Decoder | None) -> tuple[Constraint, Decoder | None]:
    """The constraint behind a marker; its value is read from what stands behind it."""
    if constraint is None:
        raise InvalidArgument("after needs a regex, json_schema, schema or grammar", field="after")
    constraint = After(checked_text(marker, "after"), constraint)
    if decoder is None:
        return constraint, None
    read = decoder.read
    return constraint, Decoder(decoder.kind, lambda text: read(text.partition(marker)[2]))


def _regex(pattern: str, field: str = "regex") -> Regex:
    """The runtime's own parser has the last word; what Python refuses is refused here, where it was written."""
    if not isinstance(pattern, str):
        raise InvalidArgument(f"{field} is a {type(pattern).__name__}; expected a pattern as text", field=field)
    try:
        re.compile(checked_text(pattern, field))
    except re.error as error:
        position = error.pos or 0
        raise RegexError(
            f"invalid regex: {error.msg} at character {position}\n{point_at(pattern, position)}",
            field=field,
            position=position,
        ) from None
    except (OverflowError, RecursionError) as error:
        raise RegexError(f"invalid regex: {error}", field=field, position=0) from None
    return Regex(pattern)


def select(name: str | None, choices: Sequence[str], method: SelectMethod = "token_length_normalized") -> Expr:
    """The likeliest of `choices`, appended and stored under `name`; `s.meta(name).scores` has one number each."""
    if name is not None:
        checked_name(name)
    if isinstance(choices, str) or not isinstance(choices, Sequence):
        raise InvalidArgument(f"choices is a {type(choices).__name__}; expected a list of strings", field="choices")
    for choice in choices:
        if not isinstance(choice, str):
            raise InvalidArgument(f"choices holds {choice!r}; expected strings", field="choices")
        checked_text(choice, "choices")
    if method not in get_args(SelectMethod):
        raise InvalidArgument(f"method is {method!r}; expected one of {get_args(SelectMethod)}", field="method")
    return Expr(Piece(Select(name, tuple(choices), method)))


def system(content: str | Expr) -> Expr:
    """A system message, in the markers of the model's own template."""
    return message("system", content)


def user(content: str | Expr) -> Expr:
    """A user message, in the markers of the model's own template."""
    return message("user", content)


def assistant(content: str | Expr) -> Expr:
    """An assistant message, in the markers of the model's own template."""
    return message("assistant", content)


# ---------------------------------------------------------------- programs


class Function:
    """A program: a Python function whose first parameter is the state it appends to."""

    __name__: str

    def __init__(self, body: Callable[..., Any]) -> None:
        _check_body(body)
        functools.update_wrapper(self, body)
        self.name: str = getattr(body, "__name__", "program")
        self.body = body
        self.signature = inspect.signature(body)
        self.parameters = frozenset(list(self.signature.parameters)[1:])

    def run(self, /, *args: Any, **kwargs: Any) -> State:
        """Runs the program and returns its state.

        Takes the program's arguments, and settings by name: `backend`, `seed`, `timeout` (seconds for the whole
        run), default sampling as `temperature=`, `max_tokens=`… or `sampling=lw.Sampling(...)`. A program's own
        parameter wins over a setting of the same name. Waits for everything and raises what went wrong; with
        `wait=False` or `stream=True` it returns at once, and the state's readers wait and raise instead.
        """
        refuse_while_tracing(f"{self.name}.run(...)")
        settings, arguments = split_settings(kwargs, self.parameters)
        bound = self.bind_arguments(args, arguments)
        run = self.open(settings, settings.backend or default_backend(), 0)
        if settings.wait and not settings.stream:
            self.execute(run, bound)
        else:
            threading.Thread(
                target=self._execute_quietly, args=(run, bound), name=f"run of {self.name}", daemon=True
            ).start()
        return State(run, run.root, outside=True)

    def run_batch(
        self,
        items: Sequence[Mapping[str, Any]],
        *,
        progress_bar: bool = False,
        num_threads: int | Literal["auto"] = "auto",
        return_exceptions: bool = False,
        **settings: Any,
    ) -> list[State]:
        """Runs the program once per dict of arguments and returns the states in that order.

        settings: as for `run`, except wait and stream; one seed serves the whole batch, with the item's index.
        num_threads bounds the runs open at once ("auto": 32). Arguments are checked before anything runs; the
        first failed item's error is raised once all are over, or with return_exceptions put in its place."""
        refuse_while_tracing(f"{self.name}.run_batch(...)")
        chosen, unknown = split_settings(settings, ())
        if unknown or chosen.stream or not chosen.wait:
            name = next(iter(unknown), "stream" if chosen.stream else "wait")
            raise InvalidArgument(
                f"run_batch takes no {name}; arguments of the program belong in the items", field=name
            )
        return run_batch(
            self,
            items,
            chosen,
            progress_bar=progress_bar,
            num_threads=num_threads,
            return_exceptions=return_exceptions,
        )

    def trace(self, **constants: Any) -> Program:
        """The program as IR: the body, run once on symbolic arguments. Parameters given here, and those with a
        default, are constants of the program. Raises NeedsValue where the body asks for a value."""
        return trace(self, constants).program

    def compile(self, **constants: Any) -> CompiledProgram:
        """The program, traced once and made ready to run without its body; see `trace`."""
        return compile_function(self, constants)

    def __call__(self, state: State, /, *args: Any, **kwargs: Any) -> Any:
        """Inside a running program: runs the body on its state and returns what the body returns."""
        if not isinstance(state, State):
            raise InvalidArgument(
                f"{self.name}() was called without a state",
                hint=f"{self.name}.run(...) starts a run; {self.name}(s, ...) continues one inside a program",
            )
        bound = self.bind_arguments(args, kwargs)
        look_at(self, bound, while_tracing=True)
        return self.body(state, *bound.args[1:], **bound.kwargs)

    def bind_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        """Arguments matched with parameters; the first stands for the state. Raises InvalidArgument."""
        try:
            return self.signature.bind(None, *args, **kwargs)
        except TypeError as error:
            raise InvalidArgument(f"{self.name}{self.signature}: {error}") from None

    def open(self, settings: Settings, backend: Backend, item: int) -> Run:
        """Starts a run in a backend, before its body."""
        return Run(backend, settings.sampling, settings.seed, item, settings.timeout)

    def execute(self, run: Run, bound: inspect.BoundArguments) -> None:
        """Runs the body and waits for all it asked for. Raises the first error; the run is over either way."""
        try:
            run.result = self.body(State(run, run.root), *bound.args[1:], **bound.kwargs)
            run.finish()
        except BaseException as error:
            run.abort(error)
            raise
        finally:
            run.end()

    def _execute_quietly(self, run: Run, bound: inspect.BoundArguments) -> None:
        """In a thread of its own: the error is kept in the run, for whoever reads it."""
        try:
            self.execute(run, bound)
        except BaseException:
            assert run.failure is not None

    def __repr__(self) -> str:
        return f"<program {self.name}{self.signature}>"


def _check_body(body: Callable[..., Any]) -> None:
    name = getattr(body, "__name__", repr(body))
    if not callable(body):
        raise InvalidArgument(f"@function got a {type(body).__name__}; expected a function")
    if inspect.iscoroutinefunction(body) or inspect.isasyncgenfunction(body):
        raise Unsupported(
            f"{name} is an async function; programs are plain functions for now",
            hint="write `def`: reads inside it wait, and run(wait=False) or run_batch run many at once",
        )
    if inspect.isgeneratorfunction(body):
        raise InvalidArgument(f"{name} is a generator; a program appends to its state instead of yielding")
    parameters = list(inspect.signature(body).parameters.values())
    if not parameters or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise InvalidArgument(f"{name} has no parameter for its state", hint=f"def {name}(s, ...):")


@overload
def function(body: Callable[..., Any]) -> Function: ...
@overload
def function() -> Callable[[Callable[..., Any]], Function]: ...
def function(body: Callable[..., Any] | None = None) -> Function | Callable[[Callable[..., Any]], Function]:
    """Makes a program of a Python function: `@function` or `@function()`."""
    return Function if body is None else Function(body)
