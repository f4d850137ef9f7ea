"""One run on an OpenAI-compatible server: its branches, its deadline, and the thread they run on.

Everything but `append` and `close` happens on the backend's event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from latticework.lang.backends.base import Listener
from latticework.lang.backends.openai_branch import Branch
from latticework.lang.backends.openai_transcript import Transcript
from latticework.lang.errors import Cancelled, ConnectionLost, DeadlineExceeded, LatticeworkError, ProgramError
from latticework.lang.events import Event, Failed
from latticework.lang.ir import Fork, Op, Sampling

if TYPE_CHECKING:
    from latticework.lang.backends.openai import OpenAI
    from latticework.lang.backends.openai_http import Transport


class OpenAISession:
    """See `Session`. Owns its branches; ends them all with `close`, its deadline, or the backend."""

    def __init__(
        self,
        backend: OpenAI,
        sampling: Sampling,
        seed: int,
        item: int,
        listener: Listener,
        timeout: float | None,
    ) -> None:
        self.backend = backend
        self.sampling = sampling
        self.seed = seed
        self.item = item
        self.listener = listener
        self.timeout = timeout
        self.until = None if timeout is None else time.monotonic() + timeout
        self.branches: dict[int, Branch] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        self._loop = backend.running()
        self._loop.call(self._begin)

    @property
    def transport(self) -> Transport:
        return self._loop.transport

    def append(self, branch: int, first: int, ops: Sequence[Op]) -> None:
        self._loop.call(self._append, branch, first, tuple(ops))

    def close(self) -> None:
        try:
            self._loop.call(self._end, Cancelled("the run was closed before this op ended"))
        except ConnectionLost:
            return  # whoever shut the backend down has ended the run

    def lose(self, error: LatticeworkError) -> None:
        """The backend is shut down while the run is open."""
        if not self._over:
            self.listener(Failed(0, -1, error.to_data()))
            self._end(error)

    # ------------------------------------------------------------ on the loop

    def _begin(self) -> None:
        self._loop.sessions.add(self)
        self.branches[0] = Branch(self, 0, (), Transcript(self.backend.chat), {})
        self.branches[0].start()
        if self.timeout is not None:
            error = DeadlineExceeded(f"the run took longer than the {self.timeout:g} seconds it was given")
            self._timer = asyncio.get_running_loop().call_later(self.timeout, self._end, error)

    def _append(self, number: int, first: int, ops: tuple[Op, ...]) -> None:
        branch = self.branches.get(number)
        if self._over:
            return
        if branch is None:
            error = ProgramError(f"ops of branch {number} came, which does not exist")
            self.listener(Failed(number, first, error.to_data()))
            return
        for op in ops:
            if isinstance(op, Fork):
                for index, child in enumerate(op.children):
                    path = (*branch.path, branch.forks, index)
                    self.branches[child] = Branch(self, child, path, branch.transcript, {})
                branch.forks += 1
        branch.add(enumerate(ops, first))

    def _end(self, error: LatticeworkError) -> None:
        if self._over:
            return
        self._over = True
        self._loop.sessions.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        for branch in self.branches.values():
            branch.end(error.to_data())

    def emit(self, event: Event) -> None:
        self.listener(event)
