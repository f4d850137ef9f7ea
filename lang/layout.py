"""What a compiled program keeps of its body besides the IR: whose line an op is, what variables mean, the result.

A template is a value with blanks for what only a run knows. A call fills them with its own slots. This file knows
no trace and no backend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from latticework.lang.branch import Composed, Gathered, Line, Local, Slot, Variable
from latticework.lang.check import Place
from latticework.lang.values import Decoder


class Source(msgspec.Struct, frozen=True):
    """Where an op comes from: the user's line, and how its text becomes a value."""

    line: Line
    decoder: Decoder | None = None


class FromArgument(msgspec.Struct, frozen=True):
    """The text of an argument."""

    name: str


class FromOp(msgspec.Struct, frozen=True):
    """The text of an op's output."""

    place: Place
    sample: int = 0


class Blank(msgspec.Struct, frozen=True):
    """Text with blanks."""

    parts: tuple[str | FromArgument | FromOp, ...]


class OpVariable(msgspec.Struct, frozen=True):
    """A variable that an op gives its value."""

    place: Place


class ListVariable(msgspec.Struct, frozen=True):
    """A variable that a join made."""

    parts: tuple[VariableTemplate, ...]


class TextVariable(msgspec.Struct, frozen=True):
    """A variable that the body set to text with values in it."""

    blank: Blank


VariableTemplate: TypeAlias = OpVariable | ListVariable | TextVariable | Local


class Layout(msgspec.Struct, frozen=True):
    """sources: one for each op. variables: what each branch knows at its end. result: what the body returned, with a
    Blank wherever it holds text of the run."""

    sources: tuple[tuple[Source, ...], ...]
    variables: tuple[Mapping[str, VariableTemplate], ...]
    own: tuple[tuple[str, ...], ...]
    result: Any = None

    def moved(self, origins: Sequence[Sequence[int]]) -> Layout:
        """The layout of a program whose ops are in other places. origins: for every op of each branch, the position of
        the op that it was or is a part of; an op with a name is never lost."""
        places = {
            (branch, old): (branch, new)
            for branch, positions in enumerate(origins)
            for new, old in enumerate(positions)
        }
        move = places.__getitem__
        return Layout(
            tuple(tuple(own[old] for old in positions) for own, positions in zip(self.sources, origins, strict=True)),
            tuple({name: _moved(part, move) for name, part in known.items()} for known in self.variables),
            self.own,
            _moved_result(self.result, move),
        )


def _moved(template: VariableTemplate, move: Callable[[Place], Place]) -> VariableTemplate:
    match template:
        case OpVariable(place):
            return OpVariable(move(place))
        case ListVariable(parts):
            return ListVariable(tuple(_moved(part, move) for part in parts))
        case TextVariable(blank):
            return TextVariable(_moved_blank(blank, move))
        case _:
            return template


def _moved_blank(blank: Blank, move: Callable[[Place], Place]) -> Blank:
    return Blank(
        tuple(FromOp(move(part.place), part.sample) if isinstance(part, FromOp) else part for part in blank.parts)
    )


def _moved_result(result: Any, move: Callable[[Place], Place]) -> Any:
    return each_blank(result, lambda blank: _moved_blank(blank, move))


def each_blank(value: Any, replace: Callable[[Blank], Any]) -> Any:
    """A result with every Blank in it replaced."""
    match value:
        case Blank():
            return replace(value)
        case list():
            return [each_blank(part, replace) for part in value]
        case tuple() if type(value) is tuple:
            return tuple(each_blank(part, replace) for part in value)
        case dict():
            return {key: each_blank(part, replace) for key, part in value.items()}
        case _:
            return value


class Filling:
    """Fills templates with the arguments and slots of one call."""

    def __init__(self, arguments: Mapping[str, str], slots: Mapping[Place, Slot]) -> None:
        self.arguments = arguments
        self.slots = slots

    def variable(self, template: VariableTemplate) -> Variable:
        match template:
            case OpVariable(place):
                return self.slots[place]
            case ListVariable(parts):
                return Gathered(tuple(self.variable(part) for part in parts))
            case TextVariable(blank):
                return self.composed(blank)
            case _:
                return template

    def composed(self, blank: Blank) -> Composed:
        return Composed(tuple(map(self._part, blank.parts)))

    def _part(self, part: str | FromArgument | FromOp) -> str | tuple[Slot, int]:
        match part:
            case FromArgument(name):
                return self.arguments[name]
            case FromOp(place, sample):
                return self.slots[place], sample
            case _:
                return part
