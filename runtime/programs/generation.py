"""Prompts answered by one gen: what HTTP and offline use ask of a front.

Any number of prompts, any number of outputs for each; one deadline and one outcome for all of them.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec

from latticework.lang.errors import DeadlineExceeded
from latticework.lang.events import Done, TokenLogprob, Usage
from latticework.lang.ir import Gen, Sampling
from latticework.lang.samples import as_one, kept
from latticework.runtime.programs.deadline import Deadline
from latticework.runtime.programs.samples import Said, Samples, Terms
from latticework.runtime.request import TextSegment

if TYPE_CHECKING:
    from latticework.runtime.programs.front import Front

RESTART_PATIENCE = 30.0  # seconds that a new request waits for an engine that is restarting
ENGINE_GRACE = 1.0  # seconds after its deadline in which the engine is to end a request


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of one output. index: prompt * n + the output's place among those of its prompt. `done` is set on the
    output's last piece; usage, on the last piece of all, is that of everything drawn."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    done: Done | None = None
    index: int = 0
    usage: Usage | None = None


class Generation:
    """One gen after each of some prompts: an async context manager and iterator; leaving it cancels.

    Iterating yields `Output`s as they come, those of a ranked gen when its prompt's are all there, and raises
    LatticeworkErrors. `results`: one Done per prompt, once the iteration is over.
    """

    def __init__(
        self,
        front: Front,
        prompts: Sequence[TextSegment],
        gen: Gen,
        deadline: Deadline,
        priority: int = 0,
        tenant: str = "",
    ) -> None:
        self.results: list[Done] = []
        self._front = front
        self._prompts = prompts
        self._gen = gen
        self._deadline = deadline
        self._priority = priority
        self._tenant = tenant
        self._samples: list[Samples] = []
        self._told: asyncio.Queue[tuple[int, Said]] = asyncio.Queue()

    async def __aenter__(self) -> Generation:
        """Compiles the constraint and submits. Raises ConstraintError, or DeadlineExceeded."""
        rules: dict[str, bytes] = {}
        began = time.monotonic()
        segment = await self._deadline.bound(self._front.gen_segment(self._gen, self._gen.sampling, rules))
        self._compiling = Usage(compile_seconds=time.monotonic() - began) if rules else Usage()
        await self._deadline.bound(self._front.link.available(RESTART_PATIENCE))
        link = self._front.link
        for number, prompt in enumerate(self._prompts):
            terms = Terms(
                group=link.number() if self._gen.sampling.candidates > 1 else None,
                tenant=self._tenant,
                priority=self._priority,
                deadline=self._deadline.at,
            )
            seeded = msgspec.structs.replace(segment, sampling=self._seeded(segment.sampling))
            tell = partial(self._tell, number)
            self._samples.append(Samples(link, self._front.tokenizer, prompt, seeded, rules, terms, tell))
        for samples in self._samples:
            samples.start()
        return self

    def _seeded(self, sampling: Sampling) -> Sampling:
        if sampling.seed is not None:
            return sampling
        return msgspec.structs.replace(sampling, seed=secrets.randbits(63))

    def _tell(self, number: int, said: Said) -> None:
        self._told.put_nowait((number, said))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for samples in self._samples:
            samples.close()

    # ------------------------------------------------------------ what is said

    async def __aiter__(self) -> AsyncIterator[Output]:
        sampling = self._gen.sampling
        missing = [sampling.candidates] * len(self._samples)  # outputs of each prompt that go on
        while any(missing):
            number, said = await self._next()
            if said.error is not None:
                raise self._deadline.error() if isinstance(said.error, DeadlineExceeded) else said.error
            missing[number] -= said.done is not None
            usage = None if any(missing) else self._usage()
            if not sampling.ranked:
                yield self._piece(number, said, usage)
            elif not missing[number] and said.done is not None:
                for output in self._ranked(number, usage):
                    yield output
        self.results = [self._whole(samples) for samples in self._samples]

    def _piece(self, number: int, said: Said, usage: Usage | None) -> Output:
        done = said.done
        if done is not None:
            done = msgspec.structs.replace(done, usage=done.usage + self._compiling)
        index = number * self._gen.sampling.n + said.sample
        if said.chunk is None:
            return Output("", (), done, index, usage)
        return Output(said.chunk.text, said.chunk.logprobs, done, index, usage)

    def _ranked(self, number: int, usage: Usage | None) -> Iterator[Output]:
        sampling, drawn = self._gen.sampling, self._samples[number].drawn
        for place, sample in enumerate(kept(drawn, sampling)):
            done = msgspec.structs.replace(drawn[sample], prompt_logprobs=drawn[0].prompt_logprobs)
            logprobs = () if sampling.logprobs is None else done.logprobs
            is_last = place == sampling.n - 1
            yield Output(done.text, logprobs, done, number * sampling.n + place, usage if is_last else None)

    def _whole(self, samples: Samples) -> Done:
        done = as_one(samples.drawn, self._gen.sampling)
        return msgspec.structs.replace(done, usage=done.usage + self._compiling)

    def _usage(self) -> Usage:
        """Of every prompt and of all that was drawn; the constraint was compiled once."""
        return sum((self._whole(samples).usage - self._compiling for samples in self._samples), self._compiling)

    async def _next(self) -> tuple[int, Said]:
        """What is said next, and of which prompt. The engine ends a request at its deadline; one that says nothing for
        another while has stopped."""
        if self._deadline.at is None:
            return await self._told.get()
        patience = self._deadline.at + ENGINE_GRACE - time.monotonic()
        try:
            return await asyncio.wait_for(self._told.get(), max(0.0, patience))
        except asyncio.TimeoutError:
            raise self._deadline.error() from None
