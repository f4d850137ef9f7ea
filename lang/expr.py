"""What `s += …` takes: expressions, which are short lists of ops.

`"Text: " + gen("x") + "."` is three ops. An expression is frozen and belongs to no run, so it can be built once
and appended often. This file knows nothing of states or backends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import msgspec

from latticework.lang.errors import InvalidArgument, ProgramError
from latticework.lang.ir import Gen, Op, Role, Select, Text
from latticework.lang.values import Decoder


class Piece(msgspec.Struct, frozen=True):
    """One op, and how its text becomes a value (None: the text is the value).

    parts: variables that hold a part of the text: name, and what it is of the text so far (second argument: is that
    all of it). closes: the role of the message that a Role(None) is to end."""

    op: Op
    decoder: Decoder | None = None
    parts: tuple[tuple[str, Callable[[str, bool], str]], ...] = ()
    closes: str | None = None


class Expr:
    """Ops to append. `+` joins expressions and strings.

    Putting one into an f-string raises, because it would only leave its name in the text.
    """

    __slots__ = ("pieces",)

    def __init__(self, *pieces: Piece) -> None:
        self.pieces = pieces

    def __add__(self, other: str | Expr) -> Expr:
        if not isinstance(other, str | Expr):
            return NotImplemented
        return Expr(*self.pieces, *pieces_of(other))

    def __radd__(self, other: str) -> Expr:
        if not isinstance(other, str):
            return NotImplemented
        return Expr(*pieces_of(other), *self.pieces)

    def __repr__(self) -> str:
        return "Expr(" + " + ".join(label(piece.op) for piece in self.pieces) + ")"

    def __str__(self) -> str:
        self._refuse()

    def __format__(self, spec: str) -> str:
        self._refuse()

    def _refuse(self) -> NoReturn:
        shown = next((label(piece.op) for piece in self.pieces if isinstance(piece.op, Gen | Select)), "an expression")
        raise InvalidArgument(
            f"{shown} was put into a string, where it cannot run",
            hint='write s += "before " + lw.gen("x") + " after" instead of an f-string',
        )


def pieces_of(value: str | Expr) -> tuple[Piece, ...]:
    """The ops of something appendable. Raises InvalidArgument for anything but text and expressions."""
    if isinstance(value, Expr):
        return value.pieces
    if isinstance(value, str):
        text = checked_text(str(value))  # plain: a symbol of a traced body is a str of its own kind
        return (Piece(Text(text)),) if text else ()
    raise InvalidArgument(
        f"a {type(value).__name__} cannot be appended; expected text, gen, select or a role",
        hint="turn a value into text with str(...)",
    )


def checked_text(text: str, field: str = "text") -> str:
    """`text` itself. Raises InvalidArgument where it is not Unicode that UTF-8 can carry."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgument(
                f"{field} holds a lone surrogate at character {error.start}; it has no UTF-8 form",
                field=field,
                position=error.start,
            ) from None
    return text


def message(role: str, content: str | Expr) -> Expr:
    """A whole message of a conversation. Raises ProgramError for a message inside a message."""
    pieces = pieces_of(content)
    inner = next((piece.op.role for piece in pieces if isinstance(piece.op, Role)), None)
    if inner is not None:
        raise ProgramError(f"a {inner} message cannot stand inside a {role} message")
    return Expr(Piece(Role(role)), *pieces, Piece(Role(None)))


def label(op: Op) -> str:
    """A few words that name an op in an error."""
    match op:
        case Gen(name) | Select(name):
            return f"{type(op).__name__.lower()} {name!r}" if name else f"unnamed {type(op).__name__.lower()}"
        case Role(role):
            return f"{role} message" if role else "end of message"
        case _:
            return type(op).__name__.lower()
