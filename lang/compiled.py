"""A program that was traced: it runs without its body, next to the scheduler where the backend can.

    compile    body ──▶ trace ──▶ passes ──▶ CompiledProgram
    run        arguments ──▶ backend ──▶ a State, after one wait

This file knows what a user may ask of a compiled program; `call.py` how a run of it goes.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any, Literal

import msgspec

from latticework.lang.backends.base import Backend
from latticework.lang.backends.calls import Bounding, Encoded
from latticework.lang.backends.default import default_backend
from latticework.lang.call import Call, Prepared, argument_text, begin
from latticework.lang.diagram import mermaid
from latticework.lang.errors import InvalidArgument, Unsupported
from latticework.lang.explain import Explanation, explain
from latticework.lang.html import program_html
from latticework.lang.ir import Program
from latticework.lang.many import checked_open, run_many
from latticework.lang.passes import fold_constants, merge_text, unedited
from latticework.lang.progress import progress, silent
from latticework.lang.settings import Settings, split_settings
from latticework.lang.state import State
from latticework.lang.trace import Traceable, refuse_while_tracing, trace

PASSES = (fold_constants, merge_text)
SHOWN_AS: dict[str, Callable[[Program], str]] = {"text": str, "mermaid": mermaid, "html": program_html}
PROGRESS_SECONDS = 0.1


def compile_function(function: Traceable, constants: Mapping[str, Any]) -> CompiledProgram:
    """Traces the body and applies the passes. Raises what `trace` raises."""
    traced = trace(function, constants)
    edited = unedited(traced.program)
    for edit in PASSES:
        edited = edited.then(edit(edited.program))
    prepared = Prepared(Encoded.of(edited.program), traced.layout.moved(edited.origins), function.name)
    return CompiledProgram(function, traced.program, prepared, traced.arguments)


class CompiledProgram:
    """A static program, made by `f.compile()`. arguments: what a call gives, in order; everything else is constant."""

    def __init__(self, function: Traceable, traced: Program, prepared: Prepared, arguments: tuple[str, ...]) -> None:
        self.name = function.name
        self.arguments = arguments
        self._traced = traced
        self._prepared = prepared
        state, *parameters = function.signature.parameters.values()
        self._constants = frozenset(part.name for part in parameters if part.name not in arguments)
        self._signature = inspect.Signature([state, *(part for part in parameters if part.name in arguments)])

    @property
    def ir(self) -> Program:
        """What runs: the traced program after the passes."""
        return self._prepared.program.program

    @property
    def hash(self) -> str:
        """Content hash of the IR, by which runtimes know it."""
        return self._prepared.program.hash

    # ------------------------------------------------------------ running

    def run(self, /, *args: Any, **kwargs: Any) -> State:
        """Runs the program and returns its state, as `Function.run` does.

        Takes the program's arguments, of which the backend gets the text (str, numbers, bool, None, and lists and
        dicts of them, as `str()` writes them), and the settings of `Function.run`. Waits once, whatever the program;
        with wait=False it returns at once.
        """
        chosen, given = self._settings(kwargs)
        arguments = self._arguments(args, given)
        is_whole = chosen.wait and not chosen.stream
        chosen = msgspec.structs.replace(chosen, chunks=not is_whole)
        call = begin(self._prepared, chosen, arguments, chosen.backend or default_backend(), 0)
        if is_whole:
            call.finish()
        return call.state

    def stream(self, /, *args: Any, **kwargs: Any) -> State:
        """The same, but returns at once: `text_iter` of the state gives the text as it grows."""
        chosen, given = self._settings(kwargs)
        arguments = self._arguments(args, given)
        return begin(self._prepared, chosen, arguments, chosen.backend or default_backend(), 0).state

    async def arun(self, /, *args: Any, **kwargs: Any) -> State:
        """The same, awaited: other tasks go on meanwhile, and cancelling this one cancels the run."""
        chosen, given = self._settings(kwargs)
        arguments = self._arguments(args, given)
        backend = chosen.backend or await _started()
        chosen = msgspec.structs.replace(chosen, chunks=False)
        call = begin(self._prepared, chosen, arguments, backend, 0)
        await call.finished()
        return call.state

    def run_batch(
        self,
        items: Iterable[Mapping[str, Any]],
        *,
        progress_bar: bool = False,
        max_open: int | Literal["auto"] = "auto",
        return_exceptions: bool = False,
        **settings: Any,
    ) -> list[State]:
        """Runs the program once per dict of arguments and returns the states in that order.

        max_open bounds the runs open at once ("auto": 256); none costs a thread. What all items begin with is computed
        once and held while the batch lives. One seed serves the whole batch, with the item's index. Arguments are
        checked before anything runs; the first failed item's error is raised once all are over, or with
        return_exceptions put in its place."""
        chosen = self._batch_settings(settings)
        at_once = checked_open(max_open)
        texts = [self._item(index, item) for index, item in enumerate(items)]
        if not texts:
            return []
        backend: Backend = chosen.backend or default_backend()
        starts = (partial(begin, self._prepared, chosen, text, backend, index) for index, text in enumerate(texts))
        with progress(self.name, len(texts)) if progress_bar else silent() as show:
            seconds = PROGRESS_SECONDS if progress_bar else None
            results = list(run_many(starts, backend, self._prepared.program, at_once, show, seconds))
        failed = next((result for result in results if isinstance(result, BaseException)), None)
        if failed is not None and not return_exceptions:
            raise failed
        return results

    def iter_batch(
        self,
        items: Iterable[Mapping[str, Any]],
        *,
        max_open: int | Literal["auto"] = "auto",
        return_exceptions: bool = False,
        **settings: Any,
    ) -> Iterator[State]:
        """The same, as an iterator: each state in order, as soon as it and those before it are there.

        items are taken as there is room, so memory does not grow with their number. A failed item, or one whose
        arguments are wrong, raises in its place, or with return_exceptions comes in it; leaving the iterator early
        cancels what is open."""
        chosen, at_once = self._batch_settings(settings), checked_open(max_open)
        backend: Backend = chosen.backend or default_backend()
        starts = (partial(self._begin_item, chosen, backend, index, item) for index, item in enumerate(items))
        return self._iterate(run_many(starts, backend, self._prepared.program, at_once), return_exceptions)

    def _begin_item(self, settings: Settings, backend: Backend, index: int, item: Mapping[str, Any]) -> Call:
        return begin(self._prepared, settings, self._item(index, item), backend, index)

    @staticmethod
    def _iterate(results: Generator[Any, None, None], return_exceptions: bool) -> Iterator[State]:
        with closing(results):
            for result in results:
                if isinstance(result, BaseException) and not return_exceptions:
                    raise result
                yield result

    def _batch_settings(self, settings: Mapping[str, Any]) -> Settings:
        chosen, unknown = self._settings(settings, ())
        if unknown or chosen.stream or not chosen.wait:
            name = next(iter(unknown), "stream" if chosen.stream else "wait")
            raise InvalidArgument(f"a batch takes no {name}; arguments of the program belong in the items", field=name)
        return msgspec.structs.replace(chosen, chunks=False)

    # ------------------------------------------------------------ looking

    def explain(self, backend: Backend | None = None) -> Explanation:
        """What each pass found or changed; `str()` of it reads well. backend: a runtime to compile the constraints,
        for the tokens that they leave possible. Raises Unsupported for a backend that compiles none."""
        if backend is None:
            return explain(self._traced)
        if not isinstance(backend, Bounding):
            raise Unsupported(f"{backend.name} compiles no constraints", hint="explain() needs no backend for the rest")
        return explain(self._traced, backend.bounds(self._prepared.program))

    def show(self, form: Literal["text", "mermaid", "html"] = "text") -> str:
        """The program as text, as the source of a Mermaid flowchart, or as HTML."""
        if form not in SHOWN_AS:
            raise InvalidArgument(f"form is {form!r}; expected one of {', '.join(SHOWN_AS)}", field="form")
        return SHOWN_AS[form](self.ir)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return program_html(self.ir)

    def __repr__(self) -> str:
        return f"<compiled program {self.name}({', '.join(self.arguments)}), {self.hash[:12]}>"

    def __str__(self) -> str:
        return str(self.ir)

    # ------------------------------------------------------------ what a call is given

    def _settings(
        self, kwargs: Mapping[str, Any], parameters: Sequence[str] | None = None
    ) -> tuple[Settings, dict[str, Any]]:
        """The settings among the arguments, and the others."""
        refuse_while_tracing(f"{self.name}.run(...)")
        return split_settings(kwargs, self.arguments if parameters is None else parameters)

    def _arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, str]:
        """The text of each argument. Raises InvalidArgument."""
        for name in kwargs:
            if name in self._constants:
                raise InvalidArgument(
                    f"{name} is a constant of the compiled program",
                    field=name,
                    hint=f"f.compile({name}=…) makes another program, with another value",
                )
        try:
            bound = self._signature.bind(None, *args, **kwargs)
        except TypeError as error:
            raise InvalidArgument(f"{self.name}({', '.join(self.arguments)}): {error}") from None
        return {name: argument_text(name, bound.arguments[name]) for name in self.arguments}

    def _item(self, index: int, item: Mapping[str, Any]) -> dict[str, str]:
        if not isinstance(item, Mapping):
            raise InvalidArgument(
                f"item {index} is a {type(item).__name__}; expected a dict of arguments", field="items"
            )
        try:
            return self._arguments((), item)
        except InvalidArgument as error:
            raise InvalidArgument(f"item {index}: {error.message}", field="items", hint=error.hint) from None


async def _started() -> Backend:
    """The default backend; the first time, it starts a runtime."""
    return await asyncio.to_thread(default_backend)
