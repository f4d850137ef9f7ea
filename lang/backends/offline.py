"""Offline use: many prompts through one engine, results in order.

    lw.Engine("smollm2").generate(prompts, lw.Sampling(max_tokens=32), constraint)

A prompt is text, token ids or a conversation; behind it is a private `Runtime`, so nothing here imports torch. The
engine behind the link is `latticework.runtime.engine.Engine`; this one is what people hold.
"""

from __future__ import annotations

import asyncio
import math
import queue
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import aclosing
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, TypeAlias, cast, get_args

import msgspec

from latticework.lang.backends.base import Session
from latticework.lang.backends.runtime import Runtime
from latticework.lang.errors import DeadlineExceeded, InvalidArgument, LatticeworkError, from_data
from latticework.lang.events import Done, Event, Failed, Finish, TokenLogprob, Usage
from latticework.lang.expr import checked_text
from latticework.lang.ir import Constraint, Gen, JsonSchema, OnLength, Sampling, derive_seed
from latticework.lang.progress import progress, silent
from latticework.lang.values import JSON, Decoder, constraint_of
from latticework.runtime.link.messages import ChatMessage, Conversation
from latticework.runtime.link.messages import Prompt as Encoded

__all__ = ["Engine", "Pending", "Prompt", "Result"]

Prompt: TypeAlias = str | Sequence[int] | Sequence[Mapping[str, str]]
"""Raw text (special tokens in it are recognised), token ids, or messages of `role` and `content`."""

Truncate: TypeAlias = Literal["error", "middle"]
"""What becomes of a conversation that leaves no room for max_tokens: refused, or shortened."""

Outcome: TypeAlias = "Result | LatticeworkError"
MAX_TOKEN_ID = 1 << 31
IN_FLIGHT = 512  # several full batches of the engine: enough to schedule among, little to hold


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of one prompt. index: its place among the prompts. See `Done` for the other fields. Of several outputs
    this is the first, with the usage of all."""

    index: int
    text: str
    finish: Finish
    complete: bool
    stopped_by: str | int | None
    usage: Usage
    logprobs: tuple[TokenLogprob, ...]
    prompt_logprobs: tuple[TokenLogprob, ...]
    seed: int
    decoder: Decoder | None = field(default=None, repr=False)
    several: tuple[Result, ...] = field(default=(), repr=False)

    @property
    def samples(self) -> tuple[Result, ...]:
        """All outputs that the Sampling's n asks for, each with its own usage; with best_of the best first."""
        return self.several or (self,)

    def value(self) -> Any:
        """The value that the constraint's schema or type promised; the text, where there is none. Raises
        InvalidValue."""
        return self.text if self.decoder is None else self.decoder.decode(f"result {self.index}", self.text)


@dataclass(frozen=True, slots=True)
class _Job:
    index: int
    prompt: Encoded
    gen: Gen
    decoder: Decoder | None
    deadline: _Deadline | None


@dataclass(frozen=True, slots=True)
class _Deadline:
    """The end of a call that may take so many seconds."""

    seconds: float
    at: float

    @classmethod
    def after(cls, seconds: float) -> _Deadline:
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not is_number or not 0 <= seconds < math.inf:
            raise InvalidArgument(f"timeout is {seconds!r}; expected seconds", field="timeout")
        return cls(seconds, time.monotonic() + seconds)

    def left(self) -> float:
        """Seconds until then. Raises DeadlineExceeded when there are none."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise self.error()
        return left

    def error(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"the call took longer than the {self.seconds:g} seconds it was given", field="timeout")


@dataclass(frozen=True, slots=True)
class _Sent:
    """A prompt at work. session None: its outcome has been told."""

    session: Session | None
    outputs: int


class Engine:
    """A model that answers prompts, in subprocesses of its own. Owns them: `shutdown()`, `with`, or the end of this
    process ends them.

    model and settings: as for `Runtime`. in_flight: outputs at work at once; the others wait here. Raises
    ModelError or InvalidArgument at once.
    """

    def __init__(self, model: str | None = None, *, in_flight: int = IN_FLIGHT, **settings: Any) -> None:
        if not isinstance(in_flight, int) or isinstance(in_flight, bool) or not 1 <= in_flight <= 4096:
            raise InvalidArgument(f"in_flight is {in_flight!r}; expected an integer from 1 to 4096", field="in_flight")
        self.runtime = Runtime(model, **settings)
        self._in_flight = in_flight

    def generate(
        self,
        prompts: Iterable[Prompt],
        sampling: Sampling | Sequence[Sampling] | None = None,
        constraint: Any = None,
        *,
        on_length: OnLength = "close",
        seed: int | None = None,
        truncate: Truncate = "error",
        timeout: float | None = None,
        progress_bar: bool = True,
        return_exceptions: bool = False,
    ) -> list[Result]:
        """One result per prompt, in their order.

        sampling, constraint: one for all, or a list of one each. A constraint is `lw.Regex`, `lw.Choices`,
        `lw.JsonSchema`, `lw.Lark`, `lw.Gbnf`, `lw.Triggered`, `lw.After`, or a type (see `gen`), whose value
        `Result.value()` returns. seed: of the whole call; a
        prompt whose own Sampling names a seed uses that; None takes that of a common Sampling, else draws one.
        truncate: "middle" shortens conversations that leave no room for max_tokens, old turns first; `usage.truncated`
        says by how many tokens. timeout: seconds for the whole call; what is not done by then fails with
        DeadlineExceeded. When all are over, the first failed prompt's error is raised; with return_exceptions it stands
        in its place. Wrong prompts or lists are refused before anything runs. Ctrl-C cancels what is open.
        """
        jobs = list(self._jobs(prompts, sampling, constraint, on_length, seed, truncate, timeout))
        outcomes: list[Any] = [None] * len(jobs)
        with progress(self.runtime.model, len(jobs)) if progress_bar else silent() as show:
            usage = Usage()
            for done, (index, outcome) in enumerate(self._outcomes(iter(jobs)), 1):
                outcomes[index] = outcome
                usage += outcome.usage if isinstance(outcome, Result) else Usage()
                show(done, usage)
        return _in_order(outcomes, return_exceptions)

    def agenerate(
        self,
        prompts: Iterable[Prompt],
        sampling: Sampling | Sequence[Sampling] | None = None,
        constraint: Any = None,
        *,
        on_length: OnLength = "close",
        seed: int | None = None,
        truncate: Truncate = "error",
        timeout: float | None = None,
        return_exceptions: bool = False,
    ) -> Pending:
        """`generate` for async code: awaited, it is the list; iterated with `async for`, it gives every result as it
        finishes. Prompts are read as places become free, so they may be a generator without end."""
        jobs = self._jobs(prompts, sampling, constraint, on_length, seed, truncate, timeout)
        return Pending(self, jobs, return_exceptions)

    def shutdown(self) -> None:
        """Ends the subprocesses. Idempotent."""
        self.runtime.shutdown()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    # ------------------------------------------------------------ jobs

    def _jobs(
        self,
        prompts: Iterable[Prompt],
        sampling: Any,
        constraint: Any,
        on_length: OnLength,
        seed: int | None,
        truncate: Truncate,
        timeout: float | None,
    ) -> Iterator[_Job]:
        """What was asked, checked: at once where it is not about one prompt. The time begins to run."""
        if truncate not in get_args(Truncate):
            raise InvalidArgument(f"truncate is {truncate!r}; expected one of {get_args(Truncate)}", field="truncate")
        deadline = None if timeout is None else _Deadline.after(timeout)
        if isinstance(prompts, str) or not isinstance(prompts, Iterable):
            raise InvalidArgument(
                f"prompts is a {type(prompts).__name__}; expected a list of prompts", field="prompts", hint="[prompt]"
            )
        count = len(prompts) if isinstance(prompts, Sized) else None
        if on_length not in get_args(OnLength):
            raise InvalidArgument(
                f"on_length is {on_length!r}; expected one of {get_args(OnLength)}", field="on_length"
            )
        if seed is None:
            common = sampling.seed if isinstance(sampling, Sampling) else None
            seed = common if common is not None else secrets.randbits(63)
        Sampling(seed=seed)  # raises if it is none
        samplings = _each("sampling", sampling, count, lambda one: _seeding(one, seed, shared=False))
        if sampling is None or isinstance(sampling, Sampling):
            samplings = _Same(_seeding(sampling or Sampling(), seed, shared=True))
        constraints = _each("constraint", constraint, count, _constraint)

        def jobs() -> Iterator[_Job]:
            for index, prompt in enumerate(prompts):
                asked, decoder = constraints[index]
                gen = Gen(sampling=samplings[index](index), constraint=asked, on_length=on_length)
                yield _Job(index, _encoded(index, prompt, truncate), gen, decoder, deadline)

        return jobs()

    def _start(self, job: _Job, tell: Callable[[tuple[int, Outcome]], None]) -> Session | None:
        """Sends one prompt; `tell` hears its outcome, from any thread. None: it has heard it."""

        def listen(event: Event) -> None:
            if isinstance(event, Done):
                tell((job.index, _result(job, event)))
            elif isinstance(event, Failed):
                error = from_data(event.error)
                is_late = job.deadline is not None and isinstance(error, DeadlineExceeded)
                tell((job.index, _named(job.deadline.error() if is_late and job.deadline else error, job.index)))

        try:
            left = None if job.deadline is None else job.deadline.left()
            return self.runtime.generate(job.prompt, job.gen, listen, left)
        except LatticeworkError as error:
            tell((job.index, _named(error, job.index)))
            return None

    def _fill(self, jobs: Iterator[_Job], sent: dict[int, _Sent], tell: Callable[[tuple[int, Outcome]], None]) -> None:
        """Sends prompts while there are places; every output takes one."""
        taken = sum(one.outputs for one in sent.values())
        while taken < self._in_flight:
            job = next(jobs, None)
            if job is None:
                return
            outputs = job.gen.sampling.candidates
            sent[job.index] = _Sent(self._start(job, tell), outputs)
            taken += outputs

    def _outcomes(self, jobs: Iterator[_Job]) -> Generator[tuple[int, Outcome], None, None]:
        """Outcomes with their indices, as they come."""
        told: queue.SimpleQueue[tuple[int, Outcome]] = queue.SimpleQueue()
        sent: dict[int, _Sent] = {}
        try:
            while True:
                self._fill(jobs, sent, told.put)
                if not sent:
                    return
                index, outcome = told.get()
                if index in sent:  # a lost connection tells of runs that had ended, too
                    _close(sent.pop(index).session)
                    yield index, outcome
        finally:
            for one in sent.values():
                _close(one.session)

    async def _aoutcomes(self, jobs: Iterator[_Job]) -> AsyncGenerator[tuple[int, Outcome], None]:
        """The same on an event loop. Sending is done in a thread: it may start a runtime anew."""
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[tuple[int, Outcome]] = asyncio.Queue()
        sent: dict[int, _Sent] = {}

        def tell(outcome: tuple[int, Outcome]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(told.put_nowait, outcome)

        try:
            while True:
                await _whole(asyncio.to_thread(self._fill, jobs, sent, tell))
                if not sent:
                    return
                index, outcome = await told.get()
                if index in sent:
                    _close(sent.pop(index).session)
                    yield index, outcome
        finally:
            for one in list(sent.values()):
                _close(one.session)


class Pending:
    """Prompts under way on an event loop: await it for the list, or iterate it; once."""

    def __init__(self, engine: Engine, jobs: Iterator[_Job], return_exceptions: bool) -> None:
        self._engine = engine
        self._jobs = jobs
        self._return_exceptions = return_exceptions

    def __await__(self) -> Generator[Any, None, list[Result]]:
        return self._list().__await__()

    async def _list(self) -> list[Result]:
        async with aclosing(self._engine._aoutcomes(self._jobs)) as source:
            outcomes = {index: outcome async for index, outcome in source}
        return _in_order([outcomes[index] for index in sorted(outcomes)], self._return_exceptions)

    async def __aiter__(self) -> AsyncGenerator[Result, None]:
        """Results as they finish. A failed prompt's error (`where` names the prompt) is given in its place with
        return_exceptions, else raised when all the others are over."""
        first: LatticeworkError | None = None
        async with aclosing(self._engine._aoutcomes(self._jobs)) as source:
            async for _, outcome in source:
                if isinstance(outcome, Result) or self._return_exceptions:
                    yield cast(Result, outcome)
                else:
                    first = first or outcome
        if first is not None:
            raise first


# ---------------------------------------------------------------- what was asked


class _Same:
    """A list that holds one thing everywhere."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __getitem__(self, index: int) -> Any:
        return self._value


def _each(name: str, given: Any, count: int | None, read: Callable[[Any], Any]) -> Any:
    """`given` as something with an entry per prompt. Raises InvalidArgument for a list of another length."""
    if not isinstance(given, list | tuple):
        return _Same(read(given))
    if count is None:
        raise InvalidArgument(f"{name} is a list, but the number of prompts is not known", field=name)
    if len(given) != count:
        raise InvalidArgument(f"{name} has {len(given)} entries for {count} prompts", field=name)
    return [read(one) for one in given]


def _seeding(sampling: Any, seed: int, *, shared: bool) -> Callable[[int], Sampling]:
    """The sampling of a prompt, by its index. shared: a seed in it is that of the whole call."""
    if sampling is None:
        sampling = Sampling()
    if not isinstance(sampling, Sampling):
        raise InvalidArgument(f"sampling is a {type(sampling).__name__}; expected lw.Sampling", field="sampling")

    def of(index: int) -> Sampling:
        if sampling.seed is not None and not shared:
            return sampling
        return msgspec.structs.replace(sampling, seed=derive_seed(seed, index, (), 0))

    return of


def _constraint(given: Any) -> tuple[Constraint | None, Decoder | None]:
    if given is None:
        return None, None
    if isinstance(given, get_args(Constraint)):
        return given, JSON if isinstance(given, JsonSchema) else None
    if isinstance(given, str | dict):
        raise InvalidArgument(
            f"constraint is a {type(given).__name__}; expected a constraint, as lw.Regex, or a type",
            field="constraint",
        )
    return constraint_of(given)


def _encoded(index: int, prompt: Any, truncate: Truncate) -> Encoded:
    """A prompt as it travels. Raises InvalidArgument."""
    if isinstance(prompt, str):
        return _text(index, prompt)
    if isinstance(prompt, Sequence) and not isinstance(prompt, bytes):
        if all(isinstance(part, int) and not isinstance(part, bool) for part in prompt):
            wrong = next((token for token in prompt if not 0 <= token < MAX_TOKEN_ID), None)
            if wrong is not None:
                raise InvalidArgument(f"prompt {index} holds {wrong}, which is no token id", field="prompts")
            return tuple(prompt)
        if all(isinstance(part, Mapping) for part in prompt):
            return Conversation(tuple(_message(index, part) for part in prompt), truncate)
    raise InvalidArgument(
        f"prompt {index} is a {type(prompt).__name__}; expected a string, a list of token ids or a list of messages",
        field="prompts",
    )


def _message(index: int, message: Mapping[str, Any]) -> ChatMessage:
    if set(message) != {"role", "content"} or not all(isinstance(text, str) for text in message.values()):
        raise InvalidArgument(
            f"prompt {index} has a message of {sorted(map(str, message))}; expected role and content, both strings",
            field="prompts",
        )
    return ChatMessage(_text(index, message["role"]), _text(index, message["content"]))


def _text(index: int, text: str) -> str:
    try:
        return checked_text(text, f"prompt {index}")
    except InvalidArgument as error:
        error.field = "prompts"
        raise


async def _whole(work: Coroutine[Any, Any, None]) -> None:
    """Waits for `work` to its end, even when cancelled meanwhile: what it started has to be known."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


# ---------------------------------------------------------------- what came of it


def _result(job: _Job, done: Done) -> Result:
    return Result(
        index=job.index,
        text=done.text,
        finish=done.finish,
        complete=done.complete,
        stopped_by=done.stopped_by,
        usage=done.usage,
        logprobs=done.logprobs,
        prompt_logprobs=done.prompt_logprobs,
        seed=done.seed,
        decoder=job.decoder,
        several=tuple(_result(job, sample) for sample in done.samples),
    )


def _named(error: LatticeworkError, index: int) -> LatticeworkError:
    error.where = error.where or f"prompt {index}"
    return error


def _close(session: Session | None) -> None:
    if session is not None:
        session.close()


def _in_order(outcomes: list[Any], return_exceptions: bool) -> list[Result]:
    if not return_exceptions:
        for outcome in outcomes:
            if isinstance(outcome, LatticeworkError):
                raise outcome
    return outcomes
