"""Text that stands for a value which only a run has: what a body gets while it is traced.

    f"Q: {question}"  ──▶  "Q: " + marker  ──▶  Text("Q: "), Arg("question")

A `Symbol` is a str whose characters are a marker: formatting, joining and adding keep it whole, so it is found again
in whatever text the body appends. A marker holds secret characters, drawn for each trace, among all the characters
that programs replace, cut at or change the case of: text made from a marker by anything but putting it somewhere is
known as such. Everything that asks a Symbol for its value raises NeedsValue.
"""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Callable, Mapping
from numbers import Number
from typing import Any, NoReturn, TypeAlias

import msgspec

from latticework.lang.branch import Line, Slot, place, user_line
from latticework.lang.errors import NeedsValue

_PRIVATE = range(0xF0000, 0xFFFFE)  # a plane of characters without a meaning
_CHUNK = 8


class Argument(msgspec.Struct, frozen=True):
    """An argument of the program."""

    name: str


class Output(msgspec.Struct, frozen=True):
    """A text that a run makes. what: how an error calls it; name: of the variable, None where there is none."""

    slot: Slot
    sample: int
    name: str | None
    what: str


Meaning: TypeAlias = Argument | Output


class Symbols:
    """The symbols of one trace, and the way back from text to them."""

    def __init__(self) -> None:
        secret = "".join(chr(secrets.choice(_PRIVATE)) for _ in range(2))
        noise = list(string.printable)
        secrets.SystemRandom().shuffle(noise)
        chunks = ["".join(noise[at : at + _CHUNK]) for at in range(0, len(noise), _CHUNK)]
        self._word = secrets.token_hex(16)  # stays the same where the others are written as escapes
        self._frame = " \n" + secret + self._word + secret.join(chunks)
        self._secret = secret
        self._close = secret + "\n "
        self._meanings: list[Meaning] = []
        self._marker = re.compile(re.escape(self._frame) + r"(\d{6})" + re.escape(self._close))

    def symbol(self, meaning: Meaning) -> Symbol:
        """Text that stands for it."""
        self._meanings.append(meaning)
        name = meaning.name if isinstance(meaning, Argument) else meaning.what
        what = f"argument {name!r}" if isinstance(meaning, Argument) else name
        return Symbol(f"{self._frame}{len(self._meanings) - 1:06}{self._close}", what, meaning.name)

    def parts(self, text: str, line: Line) -> list[str | Meaning]:
        """What `text` was made of, empty texts left out. Raises NeedsValue where a symbol was changed in it."""
        pieces = self._marker.split(text)  # text, number, text, number, …, text
        found: list[str | Meaning] = []
        for index, piece in enumerate(pieces):
            if index % 2:
                found.append(self._meanings[int(piece)])
            elif self.is_in(piece):
                raise NeedsValue(
                    "text with a value in it was cut or changed, which needs the value",
                    where=place(line),
                    hint="put the value into text as it is; f.run(…) runs any body",
                )
            elif piece:
                found.append(piece)
        return found

    def is_in(self, text: str) -> bool:
        """Whether any part of a symbol is."""
        return any(letter in text for letter in self._secret) or self._word in text.lower()

    def is_inside(self, value: object) -> bool:
        """Whether a symbol is anywhere in a value of plain containers."""
        if isinstance(value, str):
            return self.is_in(str.__str__(value))
        if isinstance(value, Mapping):
            return any(self.is_inside(part) for pair in value.items() for part in pair)
        if isinstance(value, list | tuple | set | frozenset):
            return any(map(self.is_inside, value))
        return False


def refuse(what: str, name: str | None = None) -> NoReturn:
    raise NeedsValue(
        f"{what} has no value while the program is traced",
        field=name,
        where=place(user_line()),
        hint="a body that decides on values is run with f.run(…); one that is compiled may only put them into text",
    )


class Symbol(str):
    """See above. what: how an error calls it. name: of the variable or argument."""

    __slots__ = ("name", "what")
    what: str
    name: str | None

    def __new__(cls, marker: str, what: str, name: str | None) -> Symbol:
        symbol = super().__new__(cls, marker)
        symbol.what = what
        symbol.name = name
        return symbol

    def __str__(self) -> str:
        return "".join((self, ""))  # a plain str of the same characters

    def __format__(self, spec: str) -> str:
        if spec:
            refuse(f"{self.what}, formatted with {spec!r},", self.name)
        return str(self)

    def __add__(self, other: object) -> Any:
        if isinstance(other, Number):
            refuse(self.what, self.name)
        return str(self) + other if isinstance(other, str) else NotImplemented

    def __radd__(self, other: object) -> Any:
        if isinstance(other, Number):
            refuse(self.what, self.name)
        return other + str(self) if isinstance(other, str) else NotImplemented

    def __rmod__(self, other: object) -> Any:
        return other % (str(self),) if isinstance(other, str) else NotImplemented


def _refusing(method: str) -> Callable[..., NoReturn]:
    def refused(self: Symbol, *args: object, **kwargs: object) -> NoReturn:
        refuse(self.what, self.name)

    refused.__name__ = method
    return refused


_KEPT = frozenset(
    "__new__ __init__ __str__ __format__ __add__ __radd__ __rmod__ __class__ __getattribute__ __setattr__ __delattr__"
    " __doc__ __init_subclass__ __subclasshook__ __sizeof__ __slots__ __dir__".split()
)
_NUMBERS = "__bool__ __int__ __float__ __complex__ __index__ __bytes__ __round__ __neg__ __sub__ __truediv__"
for _method in {*dir(str), *_NUMBERS.split()} - _KEPT:
    setattr(Symbol, _method, _refusing(_method))


class Unknown:
    """What else only a run knows: how an output came about. Whatever is asked of it raises NeedsValue."""

    def __init__(self, what: str, name: str | None) -> None:
        object.__setattr__(self, "_Unknown__what", (what, name))

    def __getattribute__(self, name: str) -> Any:
        if name in ("__class__", "__dict__"):
            return object.__getattribute__(self, name)
        refuse(*object.__getattribute__(self, "_Unknown__what"))


def _refusing_unknown(self: Unknown, *args: object) -> NoReturn:
    refuse(*object.__getattribute__(self, "_Unknown__what"))


_ASKED = "__bool__ __len__ __iter__ __getitem__ __contains__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__ __hash__"
_ASKED += " __add__ __radd__ __sub__ __rsub__ __str__ __repr__ __format__ __int__ __float__ __index__"
for _method in _ASKED.split():
    setattr(Unknown, _method, _refusing_unknown)
