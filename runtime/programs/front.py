"""The front: what stands between people and the engine. Tokenizes, compiles constraints, detokenizes.

One asyncio loop, no torch. HTTP asks it for single generations; program runs (run.py) are made of the same parts.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import msgspec

from latticework.lang.errors import ConstraintError, DeadlineExceeded, InvalidArgument, PromptTooLong, from_data
from latticework.lang.events import Done, TokenLogprob, Usage
from latticework.lang.ir import Constraint, Gen, Regex, Sampling, constraint_key
from latticework.runtime.config import EngineConfig, ServerConfig
from latticework.runtime.constrain import Limits
from latticework.runtime.constrain.pool import CompilePool
from latticework.runtime.link.engine_link import EngineLink
from latticework.runtime.link.sockets import RuntimeFolder
from latticework.runtime.model.locate import find_model
from latticework.runtime.model.spec import ModelCard
from latticework.runtime.programs.speech import Speech
from latticework.runtime.request import GenSegment, Request, Segment, TextSegment, TokenEvent
from latticework.runtime.text.chat import ChatTemplate
from latticework.runtime.text.tokenizer import Tokenizer

RESTART_PATIENCE = 30.0  # seconds that a new request waits for an engine that is restarting
ENGINE_GRACE = 1.0  # seconds after its deadline in which the engine is to end a request


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of a generation. `done` is set on the last one."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    done: Done | None = None


class Front:
    """Owns the engine link, the compile pool and the runtime folder. Make one with `start`, end it with `close`."""

    def __init__(
        self, card: ModelCard, link: EngineLink, pool: CompilePool, folder: RuntimeFolder, server: ServerConfig
    ) -> None:
        self.card = card
        self.server = server
        self.link = link
        self.pool = pool
        self.folder = folder
        self.tokenizer = Tokenizer.from_file(Path(card.tokenizer))
        self.chat = ChatTemplate.of(card)
        self._longest_token = max(map(len, self.tokenizer.token_bytes))

    @classmethod
    async def start(
        cls,
        engine: EngineConfig,
        server: ServerConfig,
        progress: Callable[[float], None] | None = None,
        folder: RuntimeFolder | None = None,
        log_file: IO[bytes] | None = None,
    ) -> Front:
        """Finds the model, starts engine and compile child, and returns when both answer.

        progress: called with 0 to 1 while weights load. folder: for the engine's socket, ours from now on; default:
        a new one. log_file: where the engine's stderr goes; default: ours.
        Raises ModelError, or whatever the engine reports.
        """
        card = await asyncio.to_thread(find_model, engine.model)
        folder = folder or RuntimeFolder()
        pool = CompilePool(Limits(seconds=server.compile_seconds))
        link = EngineLink(engine, folder.address("engine"), log_file, server.hang_seconds)
        try:
            await pool.start()
            await link.start(progress)
            return cls(card, link, pool, folder, server)
        except BaseException:
            await link.close()
            await pool.close()
            folder.remove()
            raise

    async def close(self) -> None:
        """Ends the children. Open requests get an error. Idempotent."""
        await self.link.close()
        await self.pool.close()
        self.folder.remove()

    @property
    def context(self) -> int:
        """The longest sequence in tokens."""
        assert self.link.greeting is not None
        return self.link.greeting.context

    @property
    def dtype(self) -> str:
        assert self.link.greeting is not None
        return self.link.greeting.dtype

    # ------------------------------------------------------------ text

    def text_run(self, pieces: Sequence[tuple[str, bool]], at_start: bool) -> TextSegment:
        """One run of a program: pieces of (text, is it the template's), encoded once. Only the template's pieces
        may become special tokens. at_start: nothing precedes it, so the model's begin token does.

        Text that cannot fit the context however it is encoded raises PromptTooLong before any time is spent on it.
        """
        size = sum(len(text) for text, _ in pieces)
        if size > self.context * self._longest_token:
            raise PromptTooLong(
                f"the text has {size} characters; no text of more than {self.context * self._longest_token} fits the "
                f"context of {self.context} tokens",
                field="prompt",
            )
        tokens, head, head_tokens = self.tokenizer.encode_pieces(pieces)
        begin = self.tokenizer.bos_ids
        if at_start and begin and tuple(tokens[: len(begin)]) != begin:
            return self._within_cap(TextSegment((*begin, *tokens)))
        return self._within_cap(TextSegment(tuple(tokens), head, head_tokens))

    def _within_cap(self, text: TextSegment) -> TextSegment:
        """`text` itself. Raises PromptTooLong when it is longer than the server's setting allows."""
        cap = self.server.max_prompt_tokens
        if cap is not None and len(text.tokens) > cap:
            raise PromptTooLong(
                f"the prompt has {len(text.tokens)} tokens; this server takes {cap} (max_prompt_tokens)", field="prompt"
            )
        return text

    def chat_prompt(self, messages: list[dict[str, str]]) -> TextSegment:
        """A conversation in the model's own template; what people wrote never becomes special tokens."""
        return self.text_run(self.chat.pieces(messages), at_start=True)

    def text_prompt(self, prompt: str | Sequence[int]) -> TextSegment:
        """A raw prompt: special tokens in it are recognised; token ids are taken as they are."""
        if isinstance(prompt, str):
            return self.text_run([(prompt, True)], at_start=True)
        return self._within_cap(TextSegment(tuple(prompt)))

    # ------------------------------------------------------------ generation

    async def gen_segment(self, gen: Gen, sampling: Sampling, rules: dict[str, bytes]) -> GenSegment:
        """The segment of a gen whose sampling is resolved and seeded. Its constraint and its stop regexes are compiled
        into `rules`. Raises ConstraintError, and InvalidArgument for more tokens than the server's setting allows."""
        cap = self.server.max_output_tokens
        if cap is not None and sampling.max_tokens > cap:
            raise InvalidArgument(
                f"max_tokens is {sampling.max_tokens}; this server allows {cap} (max_output_tokens)", field="max_tokens"
            )
        key = None if gen.constraint is None else await self._compile(gen.constraint, rules)
        try:
            stops = [await self._compile(Regex(pattern), rules) for pattern in sampling.stop_regex]
        except ConstraintError as error:
            error.field = "stop_regex"
            raise
        return GenSegment(sampling, key, gen.on_length if key is not None else "close", tuple(stops))

    async def _compile(self, constraint: Constraint, rules: dict[str, bytes]) -> str:
        key = constraint_key(constraint)
        if key not in rules:
            began = time.monotonic()
            rules[key] = await self.pool.compile(constraint)
            self.link.meter.compiling.observe(time.monotonic() - began)
        return key

    def generate(
        self, prompt: TextSegment, gen: Gen, *, timeout: float | None = None, priority: int = 0, tenant: str = ""
    ) -> Generation:
        """One generation after a prompt: an async context manager and iterator. Leaving it cancels.

        timeout: seconds from now after which it raises DeadlineExceeded. priority, tenant: see `Request`."""
        return Generation(self, prompt, gen, timeout, priority, tenant)


class Generation:
    """A single request in progress. Iterating yields `Output`s and raises LatticeworkErrors."""

    def __init__(
        self, front: Front, prompt: TextSegment, gen: Gen, timeout: float | None, priority: int, tenant: str
    ) -> None:
        self._front = front
        self._prompt = prompt
        self._gen = gen
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._priority = priority
        self._tenant = tenant
        self._id = front.link.number()
        self._events: asyncio.Queue[TokenEvent] = asyncio.Queue()

    async def __aenter__(self) -> Generation:
        """Compiles the constraint and submits. Raises ConstraintError."""
        sampling = self._gen.sampling
        self._seed = sampling.seed if sampling.seed is not None else secrets.randbits(63)
        seeded = msgspec.structs.replace(sampling, seed=self._seed)
        rules: dict[str, bytes] = {}
        began = time.monotonic()
        chain: tuple[Segment, ...] = (self._prompt, await self._front.gen_segment(self._gen, seeded, rules))
        self._compiling = Usage(compile_seconds=time.monotonic() - began) if rules else Usage()
        left = self._left()
        await self._front.link.available(RESTART_PATIENCE if left is None else min(RESTART_PATIENCE, left))
        request = Request(self._id, chain, tenant=self._tenant, priority=self._priority, deadline=self._left())
        self._front.link.submit(request, rules, self._events.put_nowait)
        return self

    def _left(self) -> float | None:
        """Seconds until the deadline. Raises DeadlineExceeded when there are none."""
        if self._deadline is None:
            return None
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._too_late()
        return left

    def _too_late(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"the request took longer than the {self._timeout:g} seconds it was given",
            hint="give it more time, or ask for fewer tokens",
            field="timeout",
        )

    async def _event(self) -> TokenEvent:
        """The next event. The engine ends a request at its deadline; one that says nothing for another while has
        stopped."""
        if self._deadline is None:
            return await self._events.get()
        patience = self._deadline + ENGINE_GRACE - time.monotonic()
        try:
            return await asyncio.wait_for(self._events.get(), max(0.0, patience))
        except asyncio.TimeoutError:
            raise self._too_late() from None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._front.link.cancel(self._id)

    async def __aiter__(self) -> AsyncIterator[Output]:
        speech = Speech(self._front.tokenizer, 0, 0, self._seed)
        while True:
            event = await self._event()
            if event.error is not None:
                raise from_data(event.error)
            said = speech.hear(event) if event.segment == 1 else None
            if event.final:
                done = speech.done
                if done is not None:
                    done = msgspec.structs.replace(done, usage=done.usage + self._compiling)
                yield Output(said.text if said else "", said.logprobs if said else (), done)
                return
            if said is not None:
                yield Output(said.text, said.logprobs)
