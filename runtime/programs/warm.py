"""The text that all calls of a stored program begin with, computed and held while somebody wants it.

Calls do not continue from it: each finds it in the prefix cache, token by token, so it changes nothing but what has
to be computed. This file knows no sockets.
"""

from __future__ import annotations

import asyncio
import contextlib

from latticework.lang.errors import LatticeworkError
from latticework.lang.events import Usage
from latticework.lang.ir import Op, Role, Text
from latticework.runtime.programs.front import Front
from latticework.runtime.programs.generation import RESTART_PATIENCE
from latticework.runtime.programs.hold import Hold
from latticework.runtime.programs.stored import Stored
from latticework.runtime.programs.turns import Turns
from latticework.runtime.request import Request, TextSegment, TokenEvent


class WarmRun:
    """Has the shape of a `Run`, so that whoever serves runs closes and counts it like one. Owner of one lease."""

    def __init__(self, front: Front, program: asyncio.Task[Stored], tenant: str = "") -> None:
        self.usage = Usage()
        self._front = front
        self._tenant = tenant
        self._hold: Hold | None = None
        self._request: int | None = None
        self._task = asyncio.create_task(self._work(program))

    def append(self, branch: int, first: int, ops: tuple[Op, ...]) -> None:
        """There is nothing to append to."""

    async def close(self) -> None:
        """Gives the text back."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._request is not None:
            self._front.link.cancel(self._request)
        if self._hold is not None:
            self._hold.drop()
            self._hold = None

    async def _work(self, program: asyncio.Task[Stored]) -> None:
        with contextlib.suppress(LatticeworkError):  # whatever it is, the calls meet it too, and have someone to tell
            stored = await asyncio.shield(program)
            text = self._text(stored)
            if text is None:
                return
            link = self._front.link
            await link.available(RESTART_PATIENCE)
            self._hold = Hold(link)
            self._request = link.number()
            request = Request(self._request, (text,), hold_lease=self._hold.id, tenant=self._tenant)
            link.submit(request, {}, self._hear)

    def _hear(self, event: TokenEvent) -> None:
        if event.final:
            self._request = None
            self.usage = event.usage or Usage()

    def _text(self, stored: Stored) -> TextSegment | None:
        turns = Turns(self._front)
        pieces: list[tuple[str, bool]] = []
        for op in stored.program.branches[0].ops[: stored.prefix]:
            if isinstance(op, Text) and op.text:
                pieces.append((op.text, False))
            elif isinstance(op, Role):
                pieces.append((turns.marker(op.role), True))
        return self._front.text_run(pieces, at_start=True) if pieces else None
