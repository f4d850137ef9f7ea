"""Runs a program on a backend that takes ops one by one: the front's work, done in the client.

    program ── ops up to a value that is not known yet ──▶ session.append
            ◀── Done of that value ────────────────────── its text goes on as Text

Ops keep their places: an Arg, a Ref or a Set is sent as Text, empty where nothing is appended. Nothing blocks: what
can go on goes on in the backend's thread, when an answer has come.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from latticework.lang.backends.base import Backend, Listener, Session
from latticework.lang.backends.calls import Encoded, Terms
from latticework.lang.backends.opening import open_run
from latticework.lang.check import Place, linked
from latticework.lang.errors import LatticeworkError, Unsupported
from latticework.lang.events import Done, Event, Failed, Rendered
from latticework.lang.ir import Arg, Fork, Join, Op, Program, Ref, Set, Text
from latticework.lang.passes import op_at


def call_stepwise(
    backend: Backend, program: Encoded, arguments: Mapping[str, str], terms: Terms, listener: Listener
) -> Session:
    """Starts a run of the whole program, as `Calling.call` does. Raises what `open_run` raises."""
    return _Stepwise(backend, program.program, arguments, terms, listener)


class _Stepwise:
    """A Session. `_sent` counts the ops of each branch that are on their way; one thread at a time sends."""

    def __init__(
        self, backend: Backend, program: Program, arguments: Mapping[str, str], terms: Terms, listener: Listener
    ) -> None:
        self._program = linked(program)
        self._arguments = arguments
        self._listener = listener
        self._lock = threading.RLock()
        self._outputs: dict[Place, Done] = {}
        self._sent = [0] * len(program.branches)
        self._started = {0}
        self._failed: set[int] = set()
        self._sending = False
        self._again = False
        self._closed = False
        self._session = open_run(backend, terms, self._hear)
        self._advance()

    def append(self, branch: int, first: int, ops: object) -> None:
        raise Unsupported("nothing can be appended to a compiled run")

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._session.close()

    # ------------------------------------------------------------ sending

    def _advance(self) -> None:
        """Sends whatever can be. Called from answers inside of itself, it only notes that there is more."""
        with self._lock:
            self._again = True
            if self._sending:
                return
            self._sending = True
        while True:
            with self._lock:
                batch = self._next() if not self._closed else None
                if batch is None:
                    if not self._again:
                        self._sending = False
                        return
                    self._again = False
                    continue
            branch, first, ops, told = batch
            for event in told:
                self._listener(event)
            try:
                self._session.append(branch, first, ops)
            except LatticeworkError as error:
                self.close()
                self._listener(Failed(0, -1, error.to_data()))

    def _next(self) -> tuple[int, int, tuple[Op, ...], list[Event]] | None:
        """The next ops of the first branch that can go on, and what is to be told of them."""
        for branch in sorted(self._started):
            first, ops = self._sent[branch], self._program.branches[branch].ops
            if branch in self._failed or first == len(ops):
                continue
            ready: list[Op] = []
            told: list[Event] = []
            for position, op in enumerate(ops[first:], first):
                plain = self._plain(op)
                if plain is None or (isinstance(op, Join) and not all(map(self._is_sent, op.children))):
                    break
                if isinstance(op, Ref):
                    assert isinstance(plain, Text)
                    told.append(Rendered(branch, position, plain.text))
                if isinstance(op, Fork):
                    self._started.update(op.children)
                ready.append(plain)
            if ready:
                self._sent[branch] += len(ready)
                return branch, first, tuple(ready), told
        return None

    def _is_sent(self, branch: int) -> bool:
        """Nothing more of it will go out. A join ends its branches, so it comes after all that they have."""
        return branch in self._failed or self._sent[branch] == len(self._program.branches[branch].ops)

    def _plain(self, op: Op) -> Op | None:
        """The op as an interpreted run has it; None while a value is missing."""
        match op:
            case Arg() | Ref():
                text = self._text(op)
                return None if text is None else Text(text)
            case Set():
                return Text("")
            case _:
                return op

    def _text(self, piece: Text | Arg | Ref) -> str | None:
        match piece:
            case Text(text):
                return text
            case Arg(name):
                return self._arguments[name]
            case Ref(_, place, sample):
                source = op_at(self._program, place)
                if isinstance(source, Set):
                    parts = [self._text(part) for part in source.value]
                    return None if None in parts else "".join(part for part in parts if part is not None)
                assert place is not None, "the program is linked"
                done = self._outputs.get(place)
                if done is None:
                    return None
                return done.samples[sample].text if done.samples else done.text

    # ------------------------------------------------------------ hearing

    def _hear(self, event: Event) -> None:
        with self._lock:
            if self._closed and not isinstance(event, Failed):
                return
            if isinstance(event, Done):
                self._outputs[event.branch, event.position] = event
            elif isinstance(event, Failed) and event.position < 0:
                self._closed = True
        self._listener(event)
        if isinstance(event, Failed) and event.position >= 0:
            self._fail(event)
        if isinstance(event, Failed | Done):
            self._advance()

    def _fail(self, event: Failed) -> None:
        """A branch goes no further, nor do those it would have forked, nor those that need what it would have said."""
        told: list[Failed] = []
        failing = [(event.branch, event.position)]
        missing: set[Place] = set()
        with self._lock:
            while failing:
                branch, position = failing.pop()
                if branch in self._failed:
                    continue
                self._failed.add(branch)
                ops = self._program.branches[branch].ops
                missing.update((branch, later) for later in range(position, len(ops)))
                failing += [(child, 0) for op in ops[position:] if isinstance(op, Fork) for child in op.children]
                needing = self._first_needing(missing)
                failing += needing
                told += [Failed(*place, event.error) for place in needing]
        for failed in told:
            self._listener(failed)

    def _first_needing(self, missing: set[Place]) -> list[Place]:
        """In each branch that goes on, the first op that needs what is missing."""
        found: list[Place] = []
        for index, branch in enumerate(self._program.branches):
            if index not in self._failed:
                unsent = range(self._sent[index], len(branch.ops))
                found += [(index, at) for at in unsent if self._needs(branch.ops[at], missing)][:1]
        return found

    def _needs(self, op: Op, missing: set[Place]) -> bool:
        if not isinstance(op, Ref):
            return False
        source = op_at(self._program, op.op)
        if isinstance(source, Set):
            return any(self._needs(part, missing) for part in source.value)
        return op.op in missing and op.op not in self._outputs
