"""What a run is made of: branches of slots, and why a slot failed.

A slot is one op and what is known of its outcome. These are plain records without a lock: the `Run` that owns
them guards them all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from latticework.lang.errors import ErrorData, from_data
from latticework.lang.events import Done, TokenLogprob
from latticework.lang.expr import Piece, label
from latticework.lang.ir import Gen, Ref, Role, Select, Text

Line: TypeAlias = tuple[str, int]
"""File and line of the user's source."""


class Failure:
    """Why an op failed, shared by everything that fails with it. `raised`: the program has been told."""

    def __init__(self, data: ErrorData, cause: BaseException | None = None) -> None:
        self.data = data
        self.cause = cause
        self.raised = False

    def exception(self) -> BaseException:
        """What to raise now: fresh each time, so that tracebacks do not pile up."""
        self.raised = True
        return self.cause or from_data(self.data)


class Slot:
    """One op of a branch. `text` and the tokens `told` grow until `answered`; then `done` or `failure` is set, where
    there is one."""

    __slots__ = ("answered", "branch", "closes", "decoder", "done", "failure", "line", "op", "parts", "text", "told")

    def __init__(self, branch: Branch, piece: Piece, line: Line) -> None:
        self.branch = branch
        self.op = piece.op
        self.decoder = piece.decoder
        self.parts = piece.parts
        self.closes = piece.closes
        self.told: list[TokenLogprob] = []
        self.line = line
        self.text = piece.op.text if isinstance(piece.op, Text) else ""
        self.answered = not isinstance(piece.op, Gen | Select | Role | Ref)
        self.done: Done | None = None
        self.failure: Failure | None = None

    @property
    def where(self) -> str:
        """The op and the user's line that appended it."""
        return f"{label(self.op)} ({place(self.line)})"


class Local(msgspec.Struct, frozen=True):
    """A variable that the program set itself."""

    value: Any


class Gathered(msgspec.Struct, frozen=True):
    """A variable that a join made: one entry for each child that has it, in the children's order."""

    parts: tuple[Variable, ...]


class Composed(msgspec.Struct, frozen=True):
    """A variable that a compiled program sets to text with values in it: an op's is (slot, which of its outputs)."""

    parts: tuple[str | tuple[Slot, int], ...]

    def text(self) -> str:
        """Once all of its slots are answered."""
        return "".join(part if isinstance(part, str) else _output(*part) for part in self.parts)


def _output(slot: Slot, sample: int) -> str:
    assert slot.done is not None, "a variable's op ends with a Done"
    return slot.done.samples[sample].text if slot.done.samples else slot.done.text


class Part(msgspec.Struct, frozen=True):
    """A variable that is a part of what an op says: of() takes the text so far, and whether that is all of it."""

    slot: Slot
    of: Callable[[str, bool], str]

    def done(self, done: Done) -> Done:
        """How it came about: the op's Done, with this part of its text."""
        return msgspec.structs.replace(done, text=self.of(done.text, True))


class Span(msgspec.Struct, frozen=True):
    """A variable that holds all that was appended between two points of a branch."""

    slots: tuple[Slot, ...]

    def text(self) -> str:
        return "".join(slot.text for slot in self.slots)


class Heard(msgspec.Struct, frozen=True):
    """More of what an op says; slot None: a value that the program has set. logprobs: of more of its tokens, of which
    `before` were told before. done: it has said all."""

    slot: Slot | None
    text: str
    logprobs: tuple[TokenLogprob, ...]
    before: int
    done: Done | None


Variable: TypeAlias = Slot | Local | Gathered | Composed | Part | Span


class Branch:
    """A straight-line block of ops under way. `start`: its parent's length when it was forked; `depth`: ops above."""

    def __init__(self, number: int, parent: Branch | None = None) -> None:
        self.number = number
        self.parent = parent
        self.start = len(parent.slots) if parent else 0
        self.depth: int = parent.depth + self.start if parent else 0
        self.children: list[Branch] = []
        self.slots: list[Slot] = []
        self.sent = 0  # slots[sent:] are queued
        self.asked = 0  # Gen and Select among the queued
        self.in_flight = 0  # Gen and Select sent and not answered
        self.variables: dict[str, Variable] = dict(parent.variables) if parent else {}
        self.own: dict[str, None] = {}  # names set in this branch, in order
        self.role: str | None = parent.role if parent else None
        self.failure: Failure | None = parent.failure if parent else None
        self.joined = False

    def history(self) -> list[Slot]:
        """Every op the text of this branch is made of, the parents' first."""
        blocks = [self.slots]
        branch = self
        while branch.parent:
            blocks.append(branch.parent.slots[: branch.start])
            branch = branch.parent
        return [slot for block in reversed(blocks) for slot in block]


def user_line() -> Line:
    """The innermost line outside the language's own code that is being run."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("latticework.lang."):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def place(line: Line) -> str:
    """The line as an error shows it."""
    return f"{line[0]}:{line[1]}"
