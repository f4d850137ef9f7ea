"""Programs that clients have registered: decoded, checked and planned once, then called by hash.

What can be done before the first call is: constraints begin to compile as soon as a program is there. Registered
programs live in a bounded store; one that was forgotten is registered again. This file knows no run.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from latticework.lang.check import Place, linked
from latticework.lang.errors import LatticeworkError, ProgramError
from latticework.lang.ir import Constraint, Gen, Program, Regex, content_hash
from latticework.lang.passes import constant_prefix, constraints, fork_order, last_needed
from latticework.runtime.constrain.pool import CompilePool

STORE_BYTES = 128 << 20  # of the programs' messages
EARLY_CONSTRAINTS = 32  # compiled when the program is read; more wait until an op needs them
LARGE_PROGRAM = 64 << 10  # bytes; reading more happens in a thread, so that nobody waits for it


@dataclass(frozen=True, slots=True)
class Stored:
    """A registered program and what was found out about it. program: linked. needed, order, prefix: see `passes`."""

    program: Program
    size: int
    needed: tuple[int, ...]
    order: dict[Place, tuple[int, ...]]
    prefix: int

    @classmethod
    def read(cls, data: bytes) -> Stored:
        """Raises ProgramError."""
        program = linked(Program.from_msgpack(data))
        return cls(program, len(data), last_needed(program), fork_order(program), constant_prefix(program))


class Programs:
    """Owner of all registered programs, by tenant and hash: nobody sees whether another has one."""

    def __init__(self, pool: CompilePool, store_bytes: int = STORE_BYTES) -> None:
        self._pool = pool
        self._store_bytes = store_bytes
        self._programs: OrderedDict[tuple[str, str], asyncio.Task[Stored]] = OrderedDict()
        self._sizes: dict[tuple[str, str], int] = {}
        self._compiling: set[asyncio.Task[None]] = set()

    def register(self, tenant: str, name: str, data: bytes) -> asyncio.Task[Stored]:
        """Begins to read a program whose hash is `name`. The task raises ProgramError; then it is not kept."""
        key = tenant, name
        if key in self._programs:
            return self._programs[key]
        task = asyncio.create_task(self._read(name, data))
        self._programs[key] = task
        self._sizes[key] = len(data)
        while sum(self._sizes.values()) > self._store_bytes and len(self._programs) > 1:
            self._forget(next(iter(self._programs)))
        task.add_done_callback(lambda done: self._forget(key) if done.cancelled() or done.exception() else None)
        return task

    def _forget(self, key: tuple[str, str]) -> None:
        self._programs.pop(key, None)
        self._sizes.pop(key, None)

    def find(self, tenant: str, name: str) -> asyncio.Task[Stored] | None:
        """The program of that hash, or None where nobody has registered it, or it was forgotten."""
        found = self._programs.get((tenant, name))
        if found is not None:
            self._programs.move_to_end((tenant, name))
        return found

    async def _read(self, name: str, data: bytes) -> Stored:
        stored = await asyncio.to_thread(Stored.read, data) if len(data) > LARGE_PROGRAM else Stored.read(data)
        if content_hash(data) != name:
            raise ProgramError("the program is not the one that its hash names")
        for constraint in _all_constraints(stored.program)[:EARLY_CONSTRAINTS]:
            task = asyncio.create_task(self._compile(constraint))
            self._compiling.add(task)
            task.add_done_callback(self._compiling.discard)
        return stored

    async def _compile(self, constraint: Constraint) -> None:
        try:
            await self._pool.compile(constraint)
        except LatticeworkError:
            return  # the op that has it says so, in every call


def _all_constraints(program: Program) -> list[Constraint]:
    """Those of gens, then those by which they stop."""
    found: dict[Constraint, None] = dict.fromkeys(constraints(program))
    for branch in program.branches:
        for op in branch.ops:
            if isinstance(op, Gen):
                found.update(dict.fromkeys(map(Regex, op.sampling.stop_regex)))
    return list(found)
