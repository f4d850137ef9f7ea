"""The front: what stands between people and the engine. Tokenizes, compiles constraints, detokenizes.

One asyncio loop, no torch. HTTP asks it for single generations; program runs (run.py) are made of the same parts.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import msgspec

from latticework.lang.errors import from_data
from latticework.lang.events import Done, TokenLogprob
from latticework.lang.ir import Constraint, Gen, Sampling, constraint_key
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


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of a generation. `done` is set on the last one."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    done: Done | None = None


class Front:
    """Owns the engine link, the compile pool and the runtime folder. Make one with `start`, end it with `close`."""

    def __init__(self, card: ModelCard, link: EngineLink, pool: CompilePool, folder: RuntimeFolder) -> None:
        self.card = card
        self.link = link
        self.pool = pool
        self.folder = folder
        self.tokenizer = Tokenizer.from_file(Path(card.tokenizer))
        self.chat = ChatTemplate.of(card)

    @classmethod
    async def start(
        cls,
        engine: EngineConfig,
        server: ServerConfig,
        progress: Callable[[float], None] | None = None,
        log: IO[bytes] | None = None,
    ) -> Front:
        """Finds the model, starts engine and compile child, and returns when both answer.

        progress: called with 0 to 1 while weights load. log: where the children's stderr goes.
        Raises ModelError, or whatever the engine reports.
        """
        card = await asyncio.to_thread(find_model, engine.model)
        folder = RuntimeFolder()
        pool = CompilePool(Limits(seconds=server.compile_seconds))
        link = EngineLink(engine, folder.address("engine"), log)
        try:
            await pool.start()
            await link.start(progress)
            return cls(card, link, pool, folder)
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
        may become special tokens. at_start: nothing precedes it, so the model's begin token does."""
        tokens, head, head_tokens = self.tokenizer.encode_pieces(pieces)
        begin = self.tokenizer.bos_ids
        if at_start and begin and tuple(tokens[: len(begin)]) != begin:
            return TextSegment((*begin, *tokens))
        return TextSegment(tuple(tokens), head, head_tokens)

    def chat_prompt(self, messages: list[dict[str, str]]) -> TextSegment:
        """A conversation in the model's own template; what people wrote never becomes special tokens."""
        return self.text_run(self.chat.pieces(messages), at_start=True)

    def text_prompt(self, prompt: str | Sequence[int]) -> TextSegment:
        """A raw prompt: special tokens in it are recognised; token ids are taken as they are."""
        if isinstance(prompt, str):
            return self.text_run([(prompt, True)], at_start=True)
        return TextSegment(tuple(prompt))

    # ------------------------------------------------------------ generation

    async def compile(self, constraint: Constraint) -> str:
        """Compiles and names a constraint. Raises ConstraintError. Returns its key."""
        key = constraint_key(constraint)
        self.link.define(key, await self.pool.compile(constraint))
        return key

    async def gen_segment(self, gen: Gen, sampling: Sampling) -> GenSegment:
        """The segment of a gen whose sampling is resolved and seeded."""
        key = await self.compile(gen.constraint) if gen.constraint is not None else None
        return GenSegment(sampling, key, gen.on_length)

    def generate(self, prompt: TextSegment, gen: Gen) -> Generation:
        """One generation after a prompt: an async context manager and iterator. Leaving it cancels."""
        return Generation(self, prompt, gen)


class Generation:
    """A single request in progress. Iterating yields `Output`s and raises LatticeworkErrors."""

    def __init__(self, front: Front, prompt: TextSegment, gen: Gen) -> None:
        self._front = front
        self._prompt = prompt
        self._gen = gen
        self._id = front.link.number()
        self._events: asyncio.Queue[TokenEvent] = asyncio.Queue()

    async def __aenter__(self) -> Generation:
        """Compiles the constraint and submits. Raises ConstraintError."""
        sampling = self._gen.sampling
        self._seed = sampling.seed if sampling.seed is not None else secrets.randbits(63)
        seeded = msgspec.structs.replace(sampling, seed=self._seed)
        chain: tuple[Segment, ...] = (self._prompt, await self._front.gen_segment(self._gen, seeded))
        self._front.link.submit(Request(self._id, chain), self._events.put_nowait)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._front.link.cancel(self._id)

    async def __aiter__(self) -> AsyncIterator[Output]:
        speech = Speech(self._front.tokenizer, 0, 0, self._seed)
        while True:
            event = await self._events.get()
            if event.error is not None:
                raise from_data(event.error)
            said = speech.hear(event) if event.segment == 1 else None
            if event.final:
                yield Output(said.text if said else "", said.logprobs if said else (), speech.done)
                return
            if said is not None:
                yield Output(said.text, said.logprobs)
