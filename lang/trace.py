"""Runs a body on symbolic arguments, and makes a program of what it appends.

The body runs as in any run, on a backend that answers every gen at once with a symbol of its text. Afterwards the
symbols in the text are found again and become Arg and Ref ops. A body that asks for a value raises NeedsValue.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from types import CodeType
from typing import Any, NoReturn, Protocol

import msgspec

from latticework.lang.asynchronous import call_at_once
from latticework.lang.backends.base import Listener
from latticework.lang.backends.calls import Terms
from latticework.lang.branch import Branch, Gathered, Line, Local, Slot, Span, Variable, place
from latticework.lang.check import Place, check_program, shortened
from latticework.lang.errors import InvalidArgument, NeedsValue, ProgramError, Unsupported
from latticework.lang.events import Done, Rendered, Usage
from latticework.lang.expr import label
from latticework.lang.ir import Arg, Gen, Op, Program, Ref, Role, Sampling, Select, Set, Text
from latticework.lang.ir import Branch as BranchOps
from latticework.lang.layout import (
    Blank,
    FromArgument,
    FromOp,
    Layout,
    ListVariable,
    OpVariable,
    Source,
    TextVariable,
    VariableTemplate,
)
from latticework.lang.questions import refuse_silent_questions
from latticework.lang.run import Run
from latticework.lang.state import Branches, State
from latticework.lang.symbols import Argument, Meaning, Output, Symbol, Symbols, Unknown, refuse
from latticework.lang.values import Decoder

_tracing: ContextVar[bool] = ContextVar("tracing", default=False)


class Traceable(Protocol):
    """What tracing needs of a program."""

    name: str
    signature: inspect.Signature
    is_async: bool
    body: Callable[..., Any]


class Traced(msgspec.Struct, frozen=True):
    """What a body has come to. arguments: the parameters that a call has to give, in order."""

    program: Program
    layout: Layout
    arguments: tuple[str, ...]


def refuse_while_tracing(what: str) -> None:
    """Raises NeedsValue inside a body that is being traced: a run of its own would run on symbols."""
    if _tracing.get():
        refuse(what)


def look_at(function: Traceable, bound: inspect.BoundArguments, while_tracing: bool = False) -> None:
    """Raises NeedsValue where the source asks what nobody would hear of. while_tracing: only then, as for a function
    that another one calls."""
    if while_tracing and not _tracing.get():
        return
    state = next(iter(function.signature.parameters))
    values = [name for name, value in bound.arguments.items() if isinstance(value, Symbol)]
    refuse_silent_questions(inspect.unwrap(function.body), state, values)


def trace(function: Traceable, constants: Mapping[str, Any]) -> Traced:
    """Runs the body once. constants: values of parameters that are part of the program, as are all defaults.

    Raises NeedsValue with the file, line and variable where the body asks for a value, InvalidArgument for a constant
    that is no parameter, and whatever else the body raises.
    """
    symbols = Symbols()
    bound, arguments = _bind(function, constants, symbols)
    look_at(function, bound)
    answering = _Answering(symbols)
    run = Run(answering, Terms(sampling=Sampling(), seed=0))
    answering.run = run
    token = _tracing.set(True)
    try:
        result = call_at_once(function, State(run, run.root), bound)
        _refuse_parts(run)
        run.flush(*run.branches)
    except Exception as error:
        _explain(error, symbols, inspect.unwrap(function.body))
        raise
    finally:
        _tracing.reset(token)
        run.end()
    program, layout = _Reading(run.branches, symbols, answering.decoders).read(result)
    return Traced(program, layout, arguments)


def _refuse_parts(run: Run) -> None:
    """What a part of a generated text is, only that text says."""
    for slot in (slot for branch in run.branches for slot in branch.slots if slot.parts):
        raise Unsupported("separate_reasoning cannot be traced", where=place(slot.line), hint="f.run(…) runs any body")


def _bind(
    function: Traceable, constants: Mapping[str, Any], symbols: Symbols
) -> tuple[inspect.BoundArguments, tuple[str, ...]]:
    parameters = list(function.signature.parameters.values())
    names = [parameter.name for parameter in parameters[1:]]
    for name in constants:
        if name not in names:
            known = ", ".join(names) or "none"
            raise InvalidArgument(f"{function.name} has no parameter {name!r}; it has: {known}", field=name)
    values: dict[str, Any] = {parameters[0].name: None}
    arguments: list[str] = []
    for parameter in parameters[1:]:
        name = parameter.name
        if name in constants:
            values[name] = constants[name]
        elif parameter.default is not parameter.empty:
            values[name] = parameter.default
        elif parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            values[name] = symbols.symbol(Argument(name))
            arguments.append(name)
    bound = inspect.BoundArguments(function.signature, values)
    return bound, tuple(arguments)


def _explain(error: Exception, symbols: Symbols, body: Callable[..., Any]) -> None:
    """Raises NeedsValue in place of an error that is about a symbol: what the user did wrong is to need its value."""
    told = (str(error), *(part for part in (*error.args, *vars(error).values()) if isinstance(part, str)))
    if isinstance(error, NeedsValue) or not any(map(symbols.is_in, told)):
        return
    raise NeedsValue(
        f"a value was used where the traced program needs to know it ({type(error).__name__})",
        where=place(_raising_line(error, getattr(body, "__code__", None))),
        hint="arguments of gen, select and of other functions are to be constants; f.run(…) runs any body",
    ) from error


def _raising_line(error: Exception, code: CodeType | None) -> Line:
    """The innermost line of the body's file that the error came through."""
    file = code.co_filename if code is not None else ""
    found = (file, 0)
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            found = file, trace.tb_lineno
        trace = trace.tb_next
    return found


class _Answering:
    """A backend, and its only session: answers every op with a symbol, from inside its `append`."""

    name = "trace"

    def __init__(self, symbols: Symbols) -> None:
        self.symbols = symbols
        self.run: Run | None = None
        self.decoders: dict[Slot, Decoder] = {}
        self._listener: Listener = lambda event: None

    def open(
        self, sampling: Sampling, seed: int, item: int, listener: Listener, timeout: float | None = None
    ) -> _Answering:
        self._listener = listener
        return self

    def append(self, branch: int, first: int, ops: Sequence[Op]) -> None:
        assert self.run is not None, "nothing is appended before the body runs"
        for position, op in enumerate(ops, first):
            slot = self.run.branches[branch].slots[position]
            if isinstance(op, Role):
                marker = self.symbols.symbol(Output(slot, 0, None, "the template's marker of a message"))
                self._listener(Rendered(branch, position, marker))
            elif isinstance(op, Gen | Select):
                if slot.decoder is not None:
                    self.decoders[slot] = slot.decoder
                    slot.decoder = _refusing(op)
                self._listener(self._done(slot, branch, position, op))

    def _done(self, slot: Slot, branch: int, position: int, op: Gen | Select) -> Done:
        several = op.sampling.n if isinstance(op, Gen) and "n" in op.given else 1
        samples = [self._sample(slot, branch, position, op, sample) for sample in range(several)]
        return msgspec.structs.replace(samples[0], samples=tuple(samples)) if several > 1 else samples[0]

    def _sample(self, slot: Slot, branch: int, position: int, op: Gen | Select, sample: int) -> Done:
        text: Any = self.symbols.symbol(Output(slot, sample, op.name, label(op)))
        unknown: Any = Unknown(f"how {label(op)} came about", op.name)
        return Done(
            branch,
            position,
            text,
            unknown,
            complete=unknown,
            stopped_by=unknown,
            usage=_UnknownUsage(),
            logprobs=unknown,
            scores=unknown,
            seed=unknown,
            prompt_logprobs=unknown,
        )

    def close(self) -> None:
        """Nothing is held."""

    def shutdown(self) -> None:
        """Nothing was started."""


def _refusing(op: Gen | Select) -> Decoder:
    def read(text: str) -> NoReturn:
        refuse(f"the typed value of {label(op)}", op.name)

    return Decoder("value", read)


class _UnknownUsage(Usage, frozen=True):
    """Usage that nobody may look at."""

    def __getattribute__(self, name: str) -> Any:
        if name in Usage.__struct_fields__:
            refuse("the usage of a run")
        return super().__getattribute__(name)

    def __radd__(self, other: object) -> NoReturn:
        refuse("the usage of a run")


class _Reading:
    """From the slots of a traced run to ops and their layout.

    Text falls apart into Text, Arg and Ref, so that ops come to other places: first all pieces are made, with the
    places of the slots in their Refs, then these are replaced.
    """

    def __init__(self, branches: Sequence[Branch], symbols: Symbols, decoders: Mapping[Slot, Decoder]) -> None:
        self.branches = branches
        self.symbols = symbols
        self.decoders = decoders
        self.places: dict[Slot, Place] = {}  # of the op that a slot came to, the first of them for text

    def read(self, result: Any) -> tuple[Program, Layout]:
        pieces = [[self._pieces(slot) for slot in branch.slots] for branch in self.branches]
        for branch, parts in zip(self.branches, pieces, strict=True):
            position = 0
            for slot, made in zip(branch.slots, parts, strict=True):
                self.places[slot] = (branch.number, position)
                position += len(made)
        blocks = [[op for made in parts for op in made] for parts in pieces]
        program = Program(tuple(BranchOps(tuple(map(self._resolved, block))) for block in blocks))
        sources = tuple(
            tuple(
                Source(slot.line, self.decoders.get(slot))
                for slot, made in zip(branch.slots, parts, strict=True)
                for _ in made
            )
            for branch, parts in zip(self.branches, pieces, strict=True)
        )
        variables = tuple(
            {name: self._template(variable, branch) for name, variable in branch.variables.items()}
            for branch in self.branches
        )
        layout = Layout(sources, variables, tuple(tuple(branch.own) for branch in self.branches), self._result(result))
        check_program(program)
        return shortened(program), layout

    def _pieces(self, slot: Slot) -> list[Any]:
        """What an op becomes; a Ref is an Output until all places are known."""
        match slot.op:
            case Text(text):
                return [self._piece(part, slot.line) for part in self.symbols.parts(text, slot.line)]
            case Set(name, (Text(text),)):
                return [(name, [self._piece(part, slot.line) for part in self.symbols.parts(text, slot.line)])]
            case op:
                if self.symbols.is_inside(msgspec.to_builtins(op)):
                    raise NeedsValue(
                        "an argument of it depends on a value",
                        where=place(slot.line),
                        hint="arguments of gen, select and roles are to be constants; f.run(…) runs any body",
                    )
                return [op]

    def _piece(self, part: str | Meaning, line: Line) -> Text | Arg | Output:
        match part:
            case Argument(name):
                return Arg(name)
            case Output(name=None):
                raise NeedsValue(
                    f"{part.what} was put into text, where the traced program has no name for it",
                    where=place(line),
                    hint="give the gen a name",
                )
            case Output():
                return part
            case _:
                return Text(part)

    def _resolved(self, made: Any) -> Op:
        if isinstance(made, Output):
            assert made.name is not None
            return Ref(made.name, self.places[made.slot], made.sample)
        if isinstance(made, tuple):
            name, value = made
            return Set(name, tuple(self._resolved(part) for part in value))  # type: ignore[misc]
        return made

    # ------------------------------------------------------------ what is no IR

    def _template(self, variable: Variable, branch: Branch) -> VariableTemplate:
        match variable:
            case Slot():
                return OpVariable(self.places[variable])
            case Gathered(parts):
                return ListVariable(tuple(self._template(part, branch) for part in parts))
            case Local(value) if self.symbols.is_inside(value):
                if isinstance(value, str):
                    return TextVariable(self._blank(value, ("", 0)))
                refuse("a variable set to a list of values")
            case Local():
                return variable
            case Span(slots):
                return TextVariable(Blank(tuple(part for slot in slots for part in self._span_part(slot))))
        raise AssertionError("a trace has no other variables")

    def _span_part(self, slot: Slot) -> tuple[str | FromArgument | FromOp, ...]:
        if isinstance(slot.op, Role):
            raise NeedsValue("a var_scope with a message in it cannot be traced", where=place(slot.line))
        if isinstance(slot.op, Gen | Select):
            return (FromOp(self.places[slot]),)
        return self._blank(slot.text, slot.line).parts

    def _blank(self, text: str, line: Line) -> Blank:
        parts = [self._piece(part, line) for part in self.symbols.parts(str(text), line)]
        return Blank(tuple(self._blank_part(part) for part in parts))

    def _blank_part(self, part: Text | Arg | Output) -> str | FromArgument | FromOp:
        match part:
            case Text(text):
                return text
            case Arg(name):
                return FromArgument(name)
            case Output(slot, sample):
                return FromOp(self.places[slot], sample)

    def _result(self, value: Any) -> Any:
        """What the body returned, with blanks."""
        match value:
            case str() if self.symbols.is_inside(value):
                return self._blank(value, ("the body's return value", 0))
            case list():
                return [self._result(part) for part in value]
            case tuple() if type(value) is tuple:
                return tuple(self._result(part) for part in value)
            case dict():
                return {key: self._result(part) for key, part in value.items()}
            case State() | Branches() | Unknown():
                raise ProgramError(
                    "a compiled body returned a state or how a gen came about",
                    hint="return text, variables or plain values; the state is what f.compile().run(…) returns",
                )
            case _:
                return value
