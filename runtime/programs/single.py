"""A run of one gen after a raw prompt: what offline use sends instead of a program.

Has the shape of a `Run`, so that whoever serves runs closes and counts it like one. This file knows no sockets.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from latticework.lang.errors import Cancelled, LatticeworkError, ProgramError, RuntimeFailure
from latticework.lang.events import Done, Event, Failed, Usage
from latticework.lang.ir import Gen, Op
from latticework.runtime.link.messages import Conversation, Prompt
from latticework.runtime.programs.deadline import Deadline
from latticework.runtime.programs.front import Front
from latticework.runtime.request import TextSegment

log = logging.getLogger(__name__)


class SingleRun:
    """One generation in progress. Emits exactly one event: the Done of its gen, or a Failed.

    tenant: see `Request`. timeout: seconds after which it fails with DeadlineExceeded.
    """

    def __init__(
        self,
        front: Front,
        prompt: Prompt,
        gen: Gen,
        emit: Callable[[Event], None],
        tenant: str = "",
        timeout: float | None = None,
    ) -> None:
        self.usage = Usage()
        self._front = front
        self._emit = emit
        self._tenant = tenant
        self._deadline = Deadline(timeout)
        self._max_tokens = gen.sampling.max_tokens
        self._truncated = 0  # tokens left out of the prompt
        self._answered = False
        self._task = asyncio.create_task(self._work(prompt, gen))

    def append(self, branch: int, first: int, ops: tuple[Op, ...]) -> None:
        """Refused: there is nothing to append to."""
        self._answer(Failed(branch, first, ProgramError("a run of one gen takes no ops").to_data()))

    async def close(self) -> None:
        """Cancels what runs."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._answer(Failed(0, 0, Cancelled("the run was closed before its gen ended").to_data()))

    async def _work(self, prompt: Prompt, gen: Gen) -> None:
        try:
            segment = await self._deadline.bound(asyncio.to_thread(self._encode, prompt))
            async with self._front.generate([segment], gen, deadline=self._deadline, tenant=self._tenant) as generation:
                async for _ in generation:
                    pass  # what comes in pieces is told as one
            (done,) = generation.results
            self.usage = done.usage
            self._answer(done)
        except LatticeworkError as error:
            self._answer(Failed(0, 0, error.to_data()))
        except Exception as error:  # ours: it fails this run, with its name, and nothing else
            log.exception("a run of one gen failed")
            message = f"internal error: {type(error).__name__}: {error}"
            self._answer(Failed(0, 0, RuntimeFailure(message).to_data()))

    def _encode(self, prompt: Prompt) -> TextSegment:
        if isinstance(prompt, Conversation):
            messages = [msgspec.structs.asdict(message) for message in prompt.messages]
            if prompt.truncate == "error":
                return self._front.chat_prompt(messages)
            segment, self._truncated = self._front.truncated_chat_prompt(messages, self._max_tokens)
            return segment
        return self._front.text_prompt(prompt)

    def _answer(self, event: Event) -> None:
        if not self._answered:
            self._answered = True
            if self._truncated and isinstance(event, Done):
                usage = msgspec.structs.replace(event.usage, truncated=self._truncated)
                event = msgspec.structs.replace(event, usage=usage)
            self._emit(event)
