"""Every exception Latticework raises, as one tree.

    LatticeworkError
    ├── InvalidArgument (ValueError)      what the caller gave cannot be used
    │   ├── ConstraintError               a constraint that cannot be enforced
    │   │   ├── RegexError                position and caret
    │   │   ├── SchemaError               JSON pointer
    │   │   ├── GrammarError              line, column and caret
    │   │   └── BudgetTooSmall            max_tokens below the shortest completion
    │   └── PromptTooLong
    ├── ModelError
    │   ├── ModelNotFound
    │   ├── UnsupportedModel
    │   └── BrokenModel                   weights or tokenizer that cannot be read
    ├── ProgramError
    │   ├── UnknownVariable (KeyError)
    │   ├── InvalidValue (ValueError)     generated text that is not of the type asked for
    │   ├── NeedsValue                    a body that cannot be traced: it asks for a value
    │   ├── LimitExceeded                 more tokens than the run was given
    │   ├── Cancelled
    │   └── DeadlineExceeded (TimeoutError)
    ├── RuntimeFailure
    │   ├── EngineDied
    │   ├── ConnectionLost (ConnectionError)
    │   ├── Busy                          a bounded queue is full; retry later
    │   │   └── QuotaExceeded             the caller's own share of it is; retry later
    │   └── AddressInUse
    └── Unsupported                       this backend or build cannot do that

This file knows how an error looks and crosses a wire as plain data. It does not know who raises it.
"""

from __future__ import annotations

import msgspec

__all__ = [
    "AddressInUse",
    "BrokenModel",
    "BudgetTooSmall",
    "Busy",
    "Cancelled",
    "ConnectionLost",
    "ConstraintError",
    "DeadlineExceeded",
    "EngineDied",
    "ErrorData",
    "GrammarError",
    "InvalidArgument",
    "InvalidValue",
    "LatticeworkError",
    "LimitExceeded",
    "ModelError",
    "ModelNotFound",
    "NeedsValue",
    "ProgramError",
    "PromptTooLong",
    "QuotaExceeded",
    "RegexError",
    "RuntimeFailure",
    "SchemaError",
    "UnknownVariable",
    "Unsupported",
    "UnsupportedModel",
    "from_data",
    "point_at",
]


class ErrorData(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """An error as data: what crosses the link. `type` is a class name of the tree above."""

    type: str
    message: str
    hint: str | None = None
    field: str | None = None
    position: int | None = None
    pointer: str | None = None
    where: str | None = None


class LatticeworkError(Exception):
    """Says what was got, what was expected, and a hint.

    field: name of the argument at fault. position: character offset in a pattern or grammar.
    pointer: JSON pointer into a schema. where: the op and the user's source line it came from.
    """

    retryable = False

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        field: str | None = None,
        position: int | None = None,
        pointer: str | None = None,
        where: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.field = field
        self.position = position
        self.pointer = pointer
        self.where = where

    def __str__(self) -> str:
        text = self.message
        if self.where:
            text += f"\n  at: {self.where}"
        if self.hint:
            text += f"\n  hint: {self.hint}"
        return text

    def to_data(self) -> ErrorData:
        """The error as plain data, for a wire or a log. A private subclass goes as the one of the tree it is."""
        kind = next(kind for kind in type(self).__mro__ if kind.__module__ == __name__)
        return ErrorData(kind.__name__, self.message, self.hint, self.field, self.position, self.pointer, self.where)


class InvalidArgument(LatticeworkError, ValueError):
    """An argument that cannot be used; `field` names it."""


class ConstraintError(InvalidArgument):
    """A constraint that cannot be compiled or enforced."""


class RegexError(ConstraintError):
    """An invalid or unsupported pattern; `position` is the character at fault."""


class SchemaError(ConstraintError):
    """An invalid or unsupported JSON Schema; `pointer` is the keyword at fault."""


class GrammarError(ConstraintError):
    """An invalid or unsupported grammar; `position` is the character at fault, the message has its line and column."""


class BudgetTooSmall(ConstraintError):
    """max_tokens is below the shortest text the constraint allows."""


class PromptTooLong(InvalidArgument):
    """The prompt and its shortest output do not fit the model's context or the KV pool."""


class ModelError(LatticeworkError):
    """A model that cannot be served."""


class ModelNotFound(ModelError):
    """No such model on this machine; the hint says how to get it."""


class UnsupportedModel(ModelError):
    """The architecture or number format is not supported; the message lists those that are."""


class BrokenModel(ModelError):
    """A model file that is damaged, truncated or inconsistent."""


class ProgramError(LatticeworkError):
    """A program could not go on."""


class UnknownVariable(ProgramError, KeyError):
    """A variable that no op of this branch produces."""

    __str__ = LatticeworkError.__str__


class InvalidValue(ProgramError, ValueError):
    """Generated text that does not decode as the type its gen asked for; the message quotes it."""


class NeedsValue(ProgramError):
    """A body that is being traced asks for a value that only a run has; `field` names the variable or argument."""


class LimitExceeded(ProgramError):
    """The run has used up the tokens it was given."""


class Cancelled(ProgramError):
    """The program or request was cancelled."""


class DeadlineExceeded(ProgramError, TimeoutError):
    """A wait or a program took longer than it was given."""


class RuntimeFailure(LatticeworkError):
    """The runtime, not the program, is at fault."""

    retryable = True


class EngineDied(RuntimeFailure):
    """The engine process ended while the request was open."""


class ConnectionLost(RuntimeFailure, ConnectionError):
    """The runtime cannot be reached."""


class Busy(RuntimeFailure):
    """A bounded queue is full."""


class QuotaExceeded(Busy):
    """A tenant or client has as much open as one may have."""


class AddressInUse(RuntimeFailure):
    """Another process holds the port or the socket path."""

    retryable = False


class Unsupported(LatticeworkError):
    """What this backend, model or build cannot do. Raised before any work starts."""


def _tree(root: type[LatticeworkError]) -> dict[str, type[LatticeworkError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


_CLASSES = _tree(LatticeworkError)


def from_data(data: ErrorData) -> LatticeworkError:
    """The exception that `data` describes; an unknown type becomes a RuntimeFailure that says so."""
    kind = _CLASSES.get(data.type)
    message = data.message if kind else f"{data.type}: {data.message}"
    return (kind or RuntimeFailure)(
        message,
        hint=data.hint,
        field=data.field,
        position=data.position,
        pointer=data.pointer,
        where=data.where,
    )


def point_at(source: str, position: int, width: int = 60) -> str:
    """Two lines: the part of `source` around `position`, and a caret under it."""
    start = max(0, position - width // 2)
    shown = source[start : start + width].translate({ord("\n"): "⏎", ord("\t"): " ", ord("\r"): " "})
    head = "…" if start else ""
    tail = "…" if start + width < len(source) else ""
    return f"{head}{shown}{tail}\n{' ' * (len(head) + position - start)}^"
