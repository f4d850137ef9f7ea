"""The ways to run a workload: compiled, interpreted, raw calls to our own server, and raw calls to another.

Each runs all items at once, or one after the other, and says what that used. Knows no clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.programs.base import Data, Workload
from benchmarks.programs.caller import HttpCaller, client
from benchmarks.programs.ideal import Answer
from latticework.lang.backends.base import Listener, Session
from latticework.lang.backends.calls import Encoded, Terms
from latticework.lang.backends.runtime import Connection
from latticework.lang.check import Place
from latticework.lang.compiled import CompiledProgram
from latticework.lang.events import Done, Event, Usage
from latticework.lang.ir import Sampling
from latticework.lang.state import State

SEED = 1  # everything is greedy; a seed has to be told


@dataclass(frozen=True)
class Used:
    """usage: of all items. waits: the most that one item blocked; 0 where that is not counted."""

    usage: Usage
    waits: int = 0


class Side(Protocol):
    """One way. `at_once` is what is timed, `in_turn` what is counted."""

    name: str

    def at_once(self) -> Used: ...

    def in_turn(self) -> Used: ...


class Listening:
    """A connection that keeps what each program it executes was answered."""

    def __init__(self, connection: Connection) -> None:
        self.name = connection.name
        self._connection = connection
        self.answers: list[dict[Place, Answer]] = []  # a dict a call, in the order of the calls

    def call(self, program: Encoded, arguments: Mapping[str, str], terms: Terms, listener: Listener) -> Session:
        found: dict[Place, Answer] = {}
        self.answers.append(found)

        def listen(event: Event) -> None:
            if isinstance(event, Done):
                found[event.branch, event.position] = Answer(event.text, event.usage.output)
            listener(event)

        return self._connection.call(program, arguments, terms, listen)

    def warm(self, program: Encoded) -> Session:
        return self._connection.warm(program)

    def open(
        self, sampling: Sampling, seed: int, item: int, listener: Listener, timeout: float | None = None
    ) -> Session:
        return self._connection.open(sampling, seed, item, listener, timeout)

    def shutdown(self) -> None:
        """The connection is the caller's."""


class Compiled:
    """answers: of the last `in_turn`, a dict an item."""

    name = "compiled"

    def __init__(self, workload: Workload, data: Data, connection: Connection) -> None:
        self.program: CompiledProgram = workload.program.compile(**data.constants)
        self.items = data.items
        self.answers: list[dict[Place, Answer]] = []
        self._connection = connection

    def at_once(self) -> Used:
        return used(self.program.run_batch(self.items, backend=self._connection, temperature=0, seed=SEED))

    def in_turn(self) -> Used:
        backend = Listening(self._connection)
        states = [self.program.run(**item, backend=backend, temperature=0, seed=SEED) for item in self.items]
        self.answers = backend.answers
        return used(states)


class Interpreted:
    name = "interpreted"

    def __init__(self, workload: Workload, data: Data, connection: Connection) -> None:
        self._program = workload.program
        self._items = [{**data.constants, **item} for item in data.items]
        self._connection = connection

    def at_once(self) -> Used:
        return used(self._program.run_batch(self._items, backend=self._connection, temperature=0, seed=SEED))

    def in_turn(self) -> Used:
        run = self._program.run
        return used([run(**item, backend=self._connection, temperature=0, seed=SEED) for item in self._items])


class Raw:
    """name: "raw" for our own server, "other" for another."""

    def __init__(self, name: str, workload: Workload, data: Data, base_url: str, model: str) -> None:
        self.name = name
        self._workload = workload
        self._items = [{**data.constants, **item} for item in data.items]
        self._base_url = base_url
        self._model = model

    def at_once(self) -> Used:
        return asyncio.run(self._run(at_once=True))

    def in_turn(self) -> Used:
        return asyncio.run(self._run(at_once=False))

    async def _run(self, at_once: bool) -> Used:
        async with client(self._base_url) as http:
            call = HttpCaller(http, self._model)
            if at_once:
                await asyncio.gather(*(self._workload.raw(call, **item) for item in self._items))
            else:
                for item in self._items:
                    await self._workload.raw(call, **item)
            return Used(call.usage)


def used(states: Sequence[State]) -> Used:
    usage = sum((state.usage() for state in states), Usage())
    return Used(usage, max(state.waits for state in states))
