"""A run of a program in the front: one task per branch, executing ops as they arrive.

The ops of a stored program are all there from the start; those of an interpreted one come as its body appends them.
This file knows no sockets: a run is given a callback for its events. What a branch does is in `branch.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from latticework.lang.errors import (
    Cancelled,
    DeadlineExceeded,
    LatticeworkError,
    LimitExceeded,
    ProgramError,
)
from latticework.lang.events import Event, Failed, Usage
from latticework.lang.ir import (
    MAX_BRANCHES,
    MAX_FORK_DEPTH,
    MAX_OPS,
    MAX_TEXT_BYTES,
    Fork,
    Op,
    Sampling,
)
from latticework.runtime.programs.branch import BranchTask
from latticework.runtime.programs.front import Front
from latticework.runtime.programs.stored import Stored
from latticework.runtime.programs.turns import Turns
from latticework.runtime.programs.values import Values

Emit = Callable[[Event], None]


class Run:
    """One program in progress. Owns its branches; `close` ends them and releases everything.

    tenant, priority: see `Request`. timeout: seconds after which all that is not answered fails with DeadlineExceeded.
    max_total_tokens: output tokens after which it fails with LimitExceeded. chunks: text is told as it grows.
    """

    def __init__(
        self,
        front: Front,
        sampling: Sampling,
        seed: int,
        item: int,
        emit: Emit,
        tenant: str = "",
        timeout: float | None = None,
        *,
        priority: int = 0,
        max_total_tokens: int | None = None,
        chunks: bool = True,
    ) -> None:
        self.front = front
        self.sampling = sampling
        self.seed = seed
        self.item = item
        self.emit = emit
        self.tenant = tenant
        self.priority = priority
        self.chunks = chunks
        self.usage = Usage()
        self.ops = 0
        self.stored: Stored | None = None
        self.values: Values | None = None
        self._tokens_left = max_total_tokens
        self._characters = 0
        self._over = False
        self.branches = {0: BranchTask(self, 0, None, ())}
        self.branches[0].begin(None, Turns(front))
        self._expiring: asyncio.Task[None] | None = None
        self._timer = None
        if timeout is not None:
            self._timer = asyncio.get_running_loop().call_later(timeout, self._expire, timeout)

    async def execute(self, stored: Stored, arguments: Mapping[str, str]) -> None:
        """Runs a stored program to its end, in place of ops that are appended."""
        if self._over:  # it was closed before it began
            return
        self.stored, self.values = stored, Values(stored.program, arguments)
        for index, block in enumerate(stored.program.branches):
            self.append(index, 0, block.ops)
            self.branches[index].seal(stored.needed[index])
        for branch in list(self.branches.values()):
            await branch.over.wait()

    def append(self, branch: int, first: int, ops: tuple[Op, ...]) -> None:
        """More ops of a branch. What cannot be is reported as a Failed of the first op."""
        task = self.branches.get(branch)
        if task is None or task.expected != first:
            error = ProgramError(f"ops {first}… of branch {branch} came out of order, or the branch does not exist")
            self.emit(Failed(branch, first, error.to_data()))
            return
        for op in ops:
            if isinstance(op, Fork):
                self._fork(task, op)
            task.add(op)
            self.ops += 1
            if self.ops > MAX_OPS:
                task.fail(ProgramError(f"the run has more than {MAX_OPS} ops").to_data())

    def _fork(self, parent: BranchTask, op: Fork) -> None:
        """Children exist from here on, so that their ops can arrive before the parent comes to the fork."""
        if len(set(op.children)) < len(op.children) or any(child in self.branches for child in op.children):
            parent.fail(ProgramError(f"a fork starts branches that exist already: {op.children}").to_data())
        elif len(self.branches) + len(op.children) > MAX_BRANCHES:
            parent.fail(ProgramError(f"the run has more than {MAX_BRANCHES} branches").to_data())
        elif len(parent.path) >= 2 * MAX_FORK_DEPTH:
            parent.fail(ProgramError(f"the run forks more than {MAX_FORK_DEPTH} deep").to_data())
        for index, child in enumerate(op.children):
            if child not in self.branches:
                self.branches[child] = BranchTask(self, child, parent, (*parent.path, parent.forks, index))
        parent.forks += 1

    def count_text(self, characters: int) -> None:
        """Raises ProgramError where arguments and variables have made the program's text too long."""
        self._characters += characters
        if self._characters > MAX_TEXT_BYTES:
            raise ProgramError(f"the run has more than {MAX_TEXT_BYTES} characters of text")

    def spend(self, tokens: int) -> bool:
        """Counts output tokens. False where there are more than were given: the run ends, and says no more."""
        if self._tokens_left is None:
            return True
        self._tokens_left -= tokens
        if self._tokens_left >= 0:
            return True
        if self._expiring is None:
            error = LimitExceeded(
                "the run has drawn more tokens than max_total_tokens", field="max_total_tokens", hint="give it more"
            )
            self._expiring = asyncio.create_task(self._end(error))
        return False

    async def close(self) -> None:
        """Cancels what runs. Every op without an answer gets Failed(Cancelled)."""
        if self._timer is not None:
            self._timer.cancel()
        if self._expiring is not None:
            await self._expiring
        await self._end(Cancelled("the run was closed before this op ended"))

    def _expire(self, seconds: float) -> None:
        error = DeadlineExceeded(f"the run took longer than the {seconds:g} seconds it was given")
        if self._expiring is None:
            self._expiring = asyncio.create_task(self._end(error))

    async def _end(self, error: LatticeworkError) -> None:
        """Cancels every branch, in the engine too, and gives its lease back."""
        tasks = [branch.task for branch in self.branches.values() if branch.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._over = True
        for branch in self.branches.values():
            branch.fail(error.to_data())
            branch.let_go()
            branch.over.set()
