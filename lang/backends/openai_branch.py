"""One branch of a run on an OpenAI-compatible server: a task that takes ops as they arrive.

What it has said is its `Transcript`; each gen and select sends it whole.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from latticework.lang.backends import openai_bodies as bodies
from latticework.lang.backends.openai_bodies import Said
from latticework.lang.backends.openai_dialects import Dialect
from latticework.lang.backends.openai_transcript import Transcript
from latticework.lang.choices import decide
from latticework.lang.errors import (
    ErrorData,
    LatticeworkError,
    ProgramError,
    RuntimeFailure,
    UnknownVariable,
    Unsupported,
)
from latticework.lang.events import Chunk, Done, Failed, Rendered, TokenLogprob, Usage
from latticework.lang.ir import (
    Arg,
    Fork,
    Gen,
    Join,
    Op,
    Ref,
    Role,
    Sampling,
    Select,
    Set,
    Text,
    derive_seed,
    merge_sampling,
    sample_seed,
)
from latticework.lang.samples import as_one

if TYPE_CHECKING:
    from latticework.lang.backends.openai_session import OpenAISession

ANSWERED = (Role, Gen, Select)  # ops that get a Rendered, a Done or a Failed


class Branch:
    """Ops of one branch, run one after the other. path: see `derive_seed`."""

    def __init__(
        self,
        session: OpenAISession,
        number: int,
        path: tuple[int, ...],
        transcript: Transcript,
        variables: dict[str, str],
    ) -> None:
        self.session = session
        self.number = number
        self.path = path
        self.forks = 0  # named by ops so far
        self.transcript = transcript
        self.variables = variables
        self.idle = asyncio.Event()  # nothing is queued or running, or the branch has failed
        self.idle.set()
        self._queue: deque[tuple[int, Op]] = deque()
        self._unanswered: dict[int, Op] = {}
        self._error: ErrorData | None = None
        self._asked = 0
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # ------------------------------------------------------------ from the session

    def start(self) -> None:
        if self._error is None and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    def add(self, ops: Iterable[tuple[int, Op]]) -> None:
        for position, op in ops:
            if isinstance(op, ANSWERED):
                self._unanswered[position] = op
            self._queue.append((position, op))
        self.idle.clear()
        self._more.set()
        if self._error is not None:
            self.fail(self._error)

    def fail(self, error: ErrorData, at: int | None = None) -> None:
        """This branch goes no further: every op that waits is told, the one at fault first."""
        self._error = self._error or error
        unanswered, self._unanswered = self._unanswered, {}
        order = sorted(unanswered, key=lambda position: (position != at, position))
        for position in order:
            self.session.emit(Failed(self.number, position, self._error))
        queue, self._queue = self._queue, deque()
        for _, op in queue:
            for child in op.children if isinstance(op, Fork) else ():
                self.session.branches[child].fail(self._error)
        self.idle.set()

    def end(self, error: ErrorData) -> None:
        if self._task is not None:
            self._task.cancel()
        self.fail(error)

    # ------------------------------------------------------------ work

    async def _work(self) -> None:
        while self._error is None:
            await self._more.wait()
            await self._take()
            if not self._queue:
                self.idle.set()

    async def _take(self) -> None:
        """Runs what is queued. What the server cannot do is found out before anything is sent."""
        position: int | None = None
        try:
            dialect = await self.session.backend.dialect(self.session.transport, self.session.until)
            while self._queue:
                if self._more.is_set():
                    self._more.clear()
                    self._check_queue(dialect)
                position, op = self._queue[0]
                await self._run(position, op, dialect)
                self._queue.popleft()
        except LatticeworkError as error:
            where = error.position if isinstance(error, _At) else position
            self.fail((error.error if isinstance(error, _At) else error).to_data(), where)
        except Exception as error:  # ours: it fails this branch, with its name, and nothing else
            self.fail(RuntimeFailure(f"internal error: {type(error).__name__}: {error}").to_data(), position)

    def _check_queue(self, dialect: Dialect) -> None:
        """Walks through what is queued without running it. Raises _At."""
        transcript = self.transcript.copy()
        for position, op in self._queue:
            try:
                match op:
                    case Role(role):
                        transcript.mark(role)
                    case Gen():
                        bodies.gen_body(op, self._sampling(op), transcript, dialect, "")
                        transcript.add("…")
                    case Select():
                        self._check_select(op, transcript, dialect)
                        transcript.add("…")
                    case Text() | Ref():
                        transcript.add(op.text if isinstance(op, Text) else "…")
                    case Arg(name):
                        raise Unsupported(f"this backend has no value for argument {name!r}")
            except LatticeworkError as error:
                raise _At(position, error) from None

    async def _run(self, position: int, op: Op, dialect: Dialect) -> None:
        match op:
            case Text(text):
                self.transcript.add(text)
            case Ref():
                self.transcript.add(self._piece(op))
            case Set(name, pieces):
                self.variables[name] = "".join(map(self._piece, pieces))
            case Role(role):
                marker = self.transcript.mark(role)
                del self._unanswered[position]
                self.session.emit(Rendered(self.number, position, marker))
            case Fork(children):
                for number in children:
                    child = self._child(number)
                    child.transcript = self.transcript.copy()
                    child.variables = dict(self.variables)
                    child.start()
            case Join(children):
                for number in children:
                    await self._child(number).idle.wait()
            case Gen():
                self._answer(op, await self._generate(position, op, dialect))
            case Select():
                self._answer(op, await self._select(position, op, dialect))
            case Arg(name):
                raise Unsupported(f"this backend has no value for argument {name!r}")

    def _child(self, number: int) -> Branch:
        child = self.session.branches.get(number)
        if child is None or child.path[:-2] != self.path or number == self.number:
            raise ProgramError(f"branch {number} is no fork of this branch")
        return child

    def _piece(self, piece: Text | Arg | Ref) -> str:
        match piece:
            case Text(text):
                return text
            case Ref(name):
                if name not in self.variables:
                    raise UnknownVariable(f"no op of this branch sets {name!r}", field=name)
                return self.variables[name]
            case Arg(name):
                raise Unsupported(f"this backend has no value for argument {name!r}")

    def _answer(self, op: Gen | Select, done: Done) -> None:
        self.transcript.add(done.text)
        if op.name:
            self.variables[op.name] = done.text
        if self._unanswered.pop(done.position, None) is not None:
            self.session.emit(done)

    def _sampling(self, op: Gen) -> Sampling:
        return merge_sampling(self.session.sampling, op.sampling, op.given)

    # ------------------------------------------------------------ gens

    async def _generate(self, position: int, op: Gen, dialect: Dialect) -> Done:
        sampling = self._sampling(op)
        seed = sampling.seed
        if seed is None or "seed" not in op.given:
            seed = derive_seed(self.session.seed, self.session.item, self.path, self._asked)
        self._asked += 1
        sampling = msgspec.structs.replace(sampling, seed=seed)
        model, chat = self.session.backend.model, self.session.backend.chat
        body = bodies.gen_body(op, sampling, self.transcript, dialect, model)
        if sampling.candidates > 1:
            answer = await self._post(body)
            given, usage = bodies.said(answer, chat), bodies.usage(answer)
        else:
            given, usage = await self._stream(position, body)
        self.session.backend.token_usage.add(usage)
        if len(given) != sampling.n or any(one.finish is None for one in given):
            raise RuntimeFailure(f"the server gives {len(given)} whole outputs; {sampling.n} were asked for")
        drawn = [
            Done(
                self.number,
                position,
                one.text,
                one.finish or "stop",
                complete=op.constraint is None or one.finish != "length",
                stopped_by=one.stopped_by,
                usage=usage if sample == 0 else Usage(),
                logprobs=one.logprobs,
                seed=sample_seed(seed, sample),
            )
            for sample, one in enumerate(given)
        ]
        return drawn[0] if len(drawn) == 1 else as_one(drawn, msgspec.structs.replace(sampling, best_of=None))

    async def _stream(self, position: int, body: dict[str, object]) -> tuple[list[Said], Usage]:
        """One output, told as it comes."""
        chat = self.session.backend.chat
        texts: list[str] = []
        logprobs: list[TokenLogprob] = []
        last = Said()
        usage = Usage()

        def hear(value: object) -> bool:
            nonlocal last, usage
            usage += bodies.usage(value)
            passed = False
            for piece in bodies.said(value, chat):
                if piece.text or piece.logprobs:
                    passed = True
                    texts.append(piece.text)
                    logprobs.extend(piece.logprobs)
                    self.session.emit(Chunk(self.number, position, piece.text, piece.logprobs))
                if piece.finish is not None:
                    last = piece
            return passed

        more = {"stream": True, "stream_options": {"include_usage": True}}
        path = bodies.CHAT if chat else bodies.COMPLETIONS
        await self.session.transport.stream(path, body | more, hear, self.session.until)
        whole = Said("".join(texts), last.finish, last.stopped_by, tuple(logprobs))
        return [whole], usage

    async def _post(self, body: dict[str, object]) -> object:
        path = bodies.CHAT if self.session.backend.chat else bodies.COMPLETIONS
        return await self.session.transport.post(path, body, self.session.until)

    # ------------------------------------------------------------ selects

    def _check_select(self, op: Select, transcript: Transcript, dialect: Dialect) -> None:
        """Raises Unsupported."""
        if transcript.chat or not dialect.scores:
            bodies.choice_body(op, transcript, dialect, "")
        else:
            transcript.prompt()

    async def _select(self, position: int, op: Select, dialect: Dialect) -> Done:
        seed = derive_seed(self.session.seed, self.session.item, self.path, self._asked)
        self._asked += 1
        if not self.transcript.chat and dialect.scores:
            return await self._score(position, op, seed)
        body, as_json = bodies.choice_body(op, self.transcript, dialect, self.session.backend.model)
        answer = await self._post(body)
        (said,) = bodies.said(answer, self.transcript.chat) or [Said()]
        option = bodies.chosen(said.text, op.options, as_json)
        return Done(self.number, position, option, "select", usage=self._used(answer))

    async def _score(self, position: int, op: Select, seed: int) -> Done:
        """The option that the select's own method decides for, or draws, by the log-probabilities of all."""
        prompt = self.transcript.prompt()
        logprobs: list[list[float]] = []
        usage = Usage()
        for first in range(0, len(op.options), bodies.SCORED_AT_ONCE):
            options = op.options[first : first + bodies.SCORED_AT_ONCE]
            answer = await self._post(bodies.scoring_body(options, self.transcript, self.session.backend.model))
            logprobs += bodies.option_scores(answer, prompt, options)
            usage += self._used(answer)
        unconditional: list[float] = []
        if op.method == "unconditional_likelihood_normalized":
            unconditional, used = await self._score_alone(op)
            usage += used
        decision = decide(op.method, logprobs, unconditional, op.temperature, seed)
        return Done(
            self.number,
            position,
            op.options[decision.chosen],
            "select",
            usage=usage,
            scores=decision.scores,
            seed=seed,
            probabilities=decision.probabilities,
        )

    async def _score_alone(self, op: Select) -> tuple[list[float], Usage]:
        """What `lifted_scores` compares with, and what asking for it took."""
        sums: list[float] = []
        usage = Usage()
        for first in range(0, len(op.options), bodies.SCORED_AT_ONCE):
            options = op.options[first : first + bodies.SCORED_AT_ONCE]
            answer = await self._post(bodies.alone_body(options, self.session.backend.model))
            sums += bodies.alone_scores(answer, options)
            usage += self._used(answer)
        return sums, usage

    def _used(self, answer: object) -> Usage:
        usage = bodies.usage(answer)
        self.session.backend.token_usage.add(usage)
        return usage


class _At(LatticeworkError):
    """`error`, of the op at a position of the queue."""

    def __init__(self, position: int, error: LatticeworkError) -> None:
        super().__init__(error.message, position=position)
        self.error = error
