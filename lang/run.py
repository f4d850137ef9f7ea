"""One run of a program, as the client sees it: what was appended, what was answered, who waits.

    body's thread ── append ──▶ branch queue ── flush ──▶ outbox ──▶ session.append
    backend's thread ── event ──▶ slot ──▶ wakes whoever waits

A `Run` owns every branch and slot; `State` objects are views of it. One lock guards all of it, and it is never
held while the backend is called. This file knows no user syntax; who waits is in waits.py, what leaves in outbox.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from latticework.lang.backends.base import Backend
from latticework.lang.backends.calls import Terms
from latticework.lang.backends.opening import Opening, open_run
from latticework.lang.branch import Branch, Failure, Heard, Line, Part, Slot, Variable, place, user_line
from latticework.lang.errors import (
    Cancelled,
    ErrorData,
    ProgramError,
    RuntimeFailure,
    from_data,
)
from latticework.lang.events import Chunk, Done, Event, Failed, Rendered, Spent, Usage
from latticework.lang.expr import Piece, label
from latticework.lang.ir import (
    MAX_BRANCHES,
    MAX_OPS,
    MAX_TEXT_BYTES,
    Fork,
    Gen,
    Program,
    Role,
    Select,
    Text,
)
from latticework.lang.ir import Branch as BranchOps
from latticework.lang.outbox import Outbox
from latticework.lang.waiting import Growing, Wait, Waiting, run_through
from latticework.lang.waits import Waits


class Run:
    """A run in progress or finished. `waits` counts how often a thread had to block for an answer."""

    def __init__(self, backend: Backend | Opening, terms: Terms) -> None:
        self.terms = terms
        self.waiting = Waits(None if terms.timeout is None else time.monotonic() + terms.timeout)
        self.condition = self.waiting.condition
        self.root = Branch(0)
        self.branches = [self.root]
        self.failure: Failure | None = None  # of the whole run
        self.failures: list[Failure] = []  # of single ops, in the order they came
        self.over = False  # the body is done and everything is answered
        self.result: Any = None
        self._ops = 0
        self._text = 0
        self._spent = Usage()  # on what no op tells of
        self._unanswered = 0
        self._followers = 0
        self._left = False  # its body is over, and was told of some of the failures
        self._loaded: Callable[[], Any] | None = None  # the backend has the whole program: its answers end the run
        self._ended: list[Callable[[], None]] = []
        self.on_end: Callable[[], None] | None = None  # once, before anybody is told; what it raises fails the run
        self._ending = threading.Lock()  # who ends the run second waits for who came first
        self._outbox = Outbox(self.condition, self.fail)
        self._outbox.session = open_run(backend, terms, self._on_event)

    @property
    def deadline(self) -> float | None:
        return self.waiting.deadline

    @property
    def waits(self) -> int:
        return self.waiting.count

    # ------------------------------------------------------------ appending

    def append(self, branch: Branch, pieces: tuple[Piece, ...]) -> None:
        """Queues ops, and sends them if the branch has work to do and none under way. Never blocks."""
        line = user_line()
        with self.condition:
            for piece in pieces:
                self._append(branch, piece, line)
            if branch.asked and not branch.in_flight:
                self._queue(branch)
            self.waiting.wake()  # whoever follows the text
        self._outbox.send()

    def _append(self, branch: Branch, piece: Piece, line: Line) -> None:
        self._check_open(branch)
        op = piece.op
        self._ops += 1
        self._text += len(op.text) if isinstance(op, Text) else 0
        if self._ops > MAX_OPS or self._text > MAX_TEXT_BYTES:
            raise ProgramError(
                f"the program has grown beyond {MAX_OPS} ops or {MAX_TEXT_BYTES} characters",
                where=f"{label(op)} ({place(line)})",
            )
        if isinstance(op, Role):
            if op.role and branch.role:
                raise ProgramError(
                    f"a {op.role} message cannot stand inside a {branch.role} message", where=place(line)
                )
            if piece.closes and branch.role != piece.closes:
                opened = f"a {branch.role} message is" if branch.role else "no message is"
                raise ProgramError(
                    f"{piece.closes}_end() ends a {piece.closes} message; {opened} open", where=place(line)
                )
            branch.role = op.role
        slot = Slot(branch, piece, line)
        branch.slots.append(slot)
        if isinstance(op, Gen | Select) and op.name:
            self.bind(branch, op.name, slot)
            for name, part in piece.parts:
                self.bind(branch, name, Part(slot, part))
        if branch.failure:
            slot.failure = branch.failure
            slot.answered = True
        elif not slot.answered:
            self._unanswered += 1
            branch.asked += not isinstance(op, Role)

    def _check_open(self, branch: Branch) -> None:
        if self.failure:
            raise self.failure.exception()
        if self.over:
            raise ProgramError("the run has ended; nothing can be appended to its result")
        if branch.joined:
            raise ProgramError("this branch has been joined; append to the state that forked it")

    def bind(self, branch: Branch, name: str, variable: Variable) -> None:
        """Gives a variable of a branch its meaning from here on."""
        with self.condition:
            branch.variables[name] = variable
            branch.own[name] = None
            self.waiting.wake()

    def fork(self, branch: Branch, count: int) -> list[Branch]:
        """Starts `count` branches that continue from here."""
        with self.condition:
            first = len(self.branches)
            if first + count > MAX_BRANCHES:
                raise ProgramError(f"a run has at most {MAX_BRANCHES} branches; {first} exist and {count} were asked")
            self._append(branch, Piece(Fork(tuple(range(first, first + count)))), user_line())
            children = [Branch(first + index, branch) for index in range(count)]
            branch.children += children
            self.branches += children
            self._queue(branch)
        self._outbox.send()
        return children

    def load(self, branches: list[Branch], result: Callable[[], Any]) -> None:
        """Takes over the branches of a program that the backend runs by itself, in place of appending to the root.
        The run is over when everything is answered, and has the result that is made then."""
        with self.condition:
            self.root, self.branches = branches[0], branches
            self._loaded = result
            for branch in branches:
                branch.sent = len(branch.slots)
            self._unanswered = sum(not slot.answered for branch in branches for slot in branch.slots)

    def leave(self, result: Any) -> None:
        """The body has returned, and nobody waits here: the last answer ends the run."""
        self.flush(*self.branches)
        with self.condition:
            self._loaded = lambda: result
            self._left = True
        self.settle()

    def when_over(self, act: Callable[[], None]) -> None:
        """Calls `act` once the run is over, at once if it is: from whatever thread ends it; it must not block."""
        with self.condition:
            if not self.over:
                self._ended.append(act)
                return
        act()

    # ------------------------------------------------------------ sending

    def flush(self, *branches: Branch) -> None:
        """Sends all that is queued in these branches, and in any branch that has work to do."""
        with self.condition:
            for branch in branches:
                self._queue(branch)
            for branch in self.branches:
                if branch.asked:
                    self._queue(branch)
        self._outbox.send()

    def _queue(self, branch: Branch) -> None:
        """Moves a branch's queue to the outbox, as one message."""
        ops = tuple(slot.op for slot in branch.slots[branch.sent :])
        if not ops or branch.failure or self._outbox.is_closed:
            return
        self._outbox.put(branch.number, branch.sent, ops)
        branch.sent = len(branch.slots)
        branch.in_flight += branch.asked
        branch.asked = 0

    # ------------------------------------------------------------ events, from the backend's thread

    def _on_event(self, event: Event) -> None:
        with self.condition:
            if isinstance(event, Spent):
                self._spent += event.usage
                return
            if isinstance(event, Failed) and event.position < 0:
                self._fail(Failure(event.error))
            elif not (
                0 <= event.branch < len(self.branches) and 0 <= event.position < len(self.branches[event.branch].slots)
            ):
                self._fail(Failure(RuntimeFailure("the backend answered an op that does not exist").to_data()))
            else:
                branch = self.branches[event.branch]
                slot = branch.slots[event.position]
                self._on_slot_event(branch, slot, event)
                if branch.asked and not branch.in_flight:
                    self._queue(branch)
        self._outbox.send()
        self.settle()

    def settle(self) -> None:
        """Ends a loaded run that has its last answer. The first failure of an op is then that of the run."""
        with self.condition:
            if self._loaded is None or self._unanswered or self.over:
                return
            untold = [failure for failure in self.failures if not (self._left and failure.raised)]
            if untold:
                self._fail(untold[0])
            if self.failure is None:
                self.result = self._loaded()
        self.end()

    def _on_slot_event(self, branch: Branch, slot: Slot, event: Event) -> None:
        match event:
            case _ if slot.answered:
                return  # cancelled or failed before the answer came
            case Chunk():
                slot.text += event.text
                slot.told += event.logprobs
                if self._followers:
                    self.waiting.wake()
            case Rendered():
                slot.text = event.text
                self._answer(slot, None)
            case Done():
                slot.text = event.text
                slot.done = event
                branch.in_flight -= 1
                self._answer(slot, None)
            case Failed():
                failure = Failure(msgspec.structs.replace(event.error, where=slot.where))
                self.failures.append(failure)
                self._fail_branch(branch, event.position, failure)

    def _answer(self, slot: Slot, failure: Failure | None) -> None:
        slot.answered = True
        slot.failure = failure
        self._unanswered -= 1
        self.waiting.wake()

    def _fail_branch(self, branch: Branch, position: int, failure: Failure) -> None:
        """Fails everything from `position` on, in the branches forked after it too."""
        failing = [(branch, position)]
        while failing:
            branch, position = failing.pop()
            branch.failure = branch.failure or failure
            branch.asked = branch.in_flight = 0
            for slot in branch.slots[position:]:
                if not slot.answered:
                    self._answer(slot, failure)
            failing += [(child, 0) for child in branch.children if child.start > position]

    def fail(self, failure: Failure) -> None:
        """Ends the whole run with an error; the first one counts."""
        with self.condition:
            self._fail(failure)

    def _fail(self, failure: Failure) -> None:
        if self.over:
            return
        self.failure = self.failure or failure
        for branch in self.branches:
            self._fail_branch(branch, 0, self.failure)
        self.waiting.wake()

    # ------------------------------------------------------------ waiting

    def wait(self, ready: Callable[[], bool], timeout: float | None, what: str) -> None:
        """See `Waits.wait`."""
        self.waiting.wait(ready, timeout, what)

    async def wait_async(self, ready: Callable[[], bool], timeout: float | None, what: str) -> None:
        """See `Waits.wait_async`."""
        await self.waiting.wait_async(ready, timeout, what)

    def answering(self, slots: list[Slot], timeout: float | None, what: str) -> Waiting[None]:
        """Sends what is needed and waits until all are answered, then raises the first failure, if any."""
        pending = [slot for slot in slots if not slot.answered]
        if pending:
            self.flush(*{slot.branch.number: slot.branch for slot in pending}.values())

            def ready() -> bool:
                while pending and pending[-1].answered:
                    pending.pop()
                return not pending

            pending.reverse()
            yield Wait(ready, timeout, what)
        failures = [slot.failure for slot in slots if slot.failure]
        for failure in failures:
            failure.raised = True
        if failures:
            raise failures[0].exception()

    def being_over(self, timeout: float | None) -> Waiting[None]:
        """Waits for the end."""
        if not self.over:
            yield Wait(lambda: self.over, timeout, "the run")

    def hearing(self, slot: Slot, timeout: float | None) -> Growing[Heard]:
        """What one op says, as it says it; the last piece has its Done, if it has one. Raises its failure."""
        text = tokens = 0

        def more() -> bool:
            return slot.answered or len(slot.text) > text or len(slot.told) > tokens

        if not slot.answered:
            self.flush(slot.branch)
        answered = False
        while not answered:
            with self.condition:
                self._followers += 1
            try:
                yield Wait(more, timeout, label(slot.op))
            finally:
                with self.condition:
                    self._followers -= 1
            with self.condition:
                if slot.failure:
                    raise slot.failure.exception()
                answered, done = slot.answered, slot.done if slot.answered else None
                told = tuple(slot.told) if done is None else done.logprobs
                more_told = told[tokens:] if isinstance(told, tuple) else ()  # a traced op's nobody knows
                heard = Heard(slot, slot.text[text:], more_told, tokens, done)
            text += len(heard.text)
            tokens += len(heard.logprobs)
            yield heard

    # ------------------------------------------------------------ ending

    def finish(self) -> None:
        """The body has returned: sends and awaits everything, and raises the first failure it was not told of."""
        run_through(self, self.finishing())

    def finishing(self) -> Waiting[None]:
        self.flush(*self.branches)
        yield Wait(lambda: not self._unanswered, None, "the run")
        self.raise_failure()
        for failure in self.failures:
            if not failure.raised:
                raise failure.exception()

    def cancel(self) -> None:
        """Ends the run: whatever is unanswered fails with Cancelled. Does nothing once it is over."""
        self.fail(Failure(Cancelled("the run was cancelled").to_data()))
        self.close()
        self.settle()

    def abort(self, error: BaseException) -> None:
        """The body or a wait has raised: everything else ends, and readers get the same error."""
        self.fail(Failure(ErrorData(type(error).__name__, str(error)), cause=error))
        self.close()

    def close(self) -> None:
        """Gives back what the backend holds. Idempotent."""
        self._outbox.close()

    def end(self) -> None:
        """Nothing more will happen."""
        self.close()
        with self._ending:
            last, self.on_end = self.on_end, None
            if last is not None:
                try:
                    last()
                except Exception as error:
                    self.fail(Failure(RuntimeFailure(f"the run was not recorded: {error}").to_data()))
        with self.condition:
            self.over = True
            self.waiting.wake()
            ended, self._ended = self._ended, []
        for act in ended:
            act()

    def raise_failure(self) -> None:
        """Raises what the whole run failed with, if it did."""
        if self.failure is not None:
            raise self.failure.exception()

    # ------------------------------------------------------------ looking back

    def error(self) -> BaseException | None:
        """What made the run fail, so far as is known."""
        with self.condition:
            failure = self.failure or (self.failures[0] if self.failures else None)
        if failure is None:
            return None
        return failure.cause or from_data(failure.data)

    def usage(self) -> Usage:
        """Tokens of all that is answered, and of text that was computed for forks."""
        with self.condition:
            done = [slot.done for branch in self.branches for slot in branch.slots if slot.done]
            return sum((event.usage for event in done), self._spent)

    def program(self) -> Program:
        """The ops appended so far; branches are numbered in the order they were forked."""
        with self.condition:
            return Program(tuple(BranchOps(tuple(slot.op for slot in branch.slots)) for branch in self.branches))
