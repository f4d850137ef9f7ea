r"""Texts -> nodes of a rule graph: as they are, in UTF-8, or as JSON strings.

A JSON string writes each character in exactly one way: as itself, or `\"`, `\\`, `\b`, `\f`, `\n`, `\r`, `\t`, or
`\u00xx` (lower case) for the other controls, as `json.dumps(ensure_ascii=False)` does. Plain parts of a text keep
their shape, so counts stay counters; intersections, complements and searches become machines.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from latticework.runtime.constrain.builder import EMPTY, NEVER, Builder
from latticework.runtime.constrain.character_machines import CharacterMachine, TooManyStates, character_machine
from latticework.runtime.constrain.ranges import LAST, intersect
from latticework.runtime.constrain.rules import MachineState, Ranges
from latticework.runtime.constrain.texts import (
    ANYTHING,
    Characters,
    Empty,
    Literal,
    Never,
    Repeat,
    Text,
    Then,
    Union,
    Words,
)
from latticework.runtime.constrain.utf8 import utf8_characters

_SEARCH_STATES = 200  # searches with more states than this stay expressions
_ASCII: Ranges = ((0x00, 0x7F),)
_PLAIN: Ranges = ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7F))  # ASCII that a JSON string holds as it is
_MUST_ESCAPE: Ranges = ((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C))  # controls, the quote, the backslash
_BEYOND: Ranges = ((0x80, LAST),)


def lower_json(builder: Builder, text: Text) -> int:
    """The JSON strings of the words of `text`, quotes included. NEVER where there is none. Raises ConstraintError."""
    quote = builder.literal(b'"')
    return builder.sequence([quote, _Lowering(builder, is_json=True).node(text), quote])


def lower_plain(builder: Builder, text: Text) -> int:
    """The words of `text` in UTF-8. NEVER where there is none. Raises ConstraintError."""
    return _Lowering(builder, is_json=False).node(text)


def _json_bytes(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False)[1:-1].encode()


class _Characters:
    """The nodes of single characters. The parts that sets share (all that is not ASCII, mostly) are made once."""

    def __init__(self, builder: Builder, *, is_json: bool) -> None:
        self._builder = builder
        self._plain = _PLAIN if is_json else _ASCII
        self._is_json = is_json
        self._parts: dict[Ranges, int] = {}
        self._escapes: dict[Ranges, int] = {}

    def node(self, ranges: Ranges) -> int:
        branches = []
        if ranges[0][0] < 0x80:
            branches.append(self._builder.byte_set(intersect(ranges, self._plain)))
            if self._is_json and (escaped := intersect(ranges, _MUST_ESCAPE)):
                if escaped not in self._escapes:
                    self._escapes[escaped] = self._escaped(escaped)
                branches.append(self._escapes[escaped])
        if ranges[-1][1] >= 0x80:
            beyond = intersect(ranges, _BEYOND)
            if beyond not in self._parts:
                self._parts[beyond] = utf8_characters(self._builder, beyond)
            branches.append(self._parts[beyond])
        return branches[0] if len(branches) == 1 else self._builder.either(branches)

    def _escaped(self, ranges: Ranges) -> int:
        heads: dict[bytes, list[int]] = {}
        for low, high in ranges:
            for point in range(low, high + 1):
                word = _json_bytes(chr(point))
                heads.setdefault(word[:-1], []).append(word[-1])
        builder = self._builder
        return builder.either(
            [
                builder.sequence([builder.literal(head), builder.byte_set(tuple((b, b) for b in sorted(lasts)))])
                for head, lasts in heads.items()
            ]
        )


class _Lowering:
    """Bottom up with an explicit stack: a text may be deeper than Python's own stack."""

    def __init__(self, builder: Builder, *, is_json: bool) -> None:
        self.builder = builder
        self.characters = _Characters(builder, is_json=is_json)
        self.encode: Callable[[str], bytes] = _json_bytes if is_json else str.encode
        self.done: dict[Text, int] = {}

    def node(self, text: Text) -> int:
        work = [text]
        done = self.done
        while work:
            part = work[-1]
            if part in done:
                work.pop()
                continue
            self.builder.tick()
            if _is_search(part):
                found = self._searched(part)
                if found is not None:
                    done[part] = found
                    continue
            missing = [child for child in _children(part) if child not in done]
            if missing:
                work += missing
                continue
            done[part] = self._lowered(part)
            work.pop()
        return done[text]

    def _lowered(self, text: Text) -> int:
        builder, done = self.builder, self.done
        match text:
            case Literal():
                return builder.literal(self.encode(text.text))
            case Characters():
                return self.characters.node(text.ranges)
            case Words():
                return builder.either([builder.literal(self.encode(word)) for word in text.words])
            case Then():
                return builder.sequence([done[part] for part in _children(text)])
            case Union():
                return builder.either([done[part] for part in text.items])
            case Repeat():
                return builder.repeat(done[text.item], text.low, text.high)
            case Empty():
                return EMPTY
            case Never():
                return NEVER
            case _:
                machine = character_machine(text, builder.limits, builder.tick)
                return NEVER if machine is None else self._machine(machine)

    def _searched(self, text: Text) -> int | None:
        """A search as an automaton, if it is small: it then has one place where an expression has many."""
        try:
            machine = character_machine(text, self.builder.limits, self.builder.tick, _SEARCH_STATES)
        except TooManyStates:
            return None
        return NEVER if machine is None else self._machine(machine)

    def _machine(self, machine: CharacterMachine) -> int:
        nodes: dict[int, int] = {}
        states: list[MachineState] = []
        for accepts, moves in zip(machine.accepts, machine.moves, strict=True):
            for mask, _ in moves:
                if mask not in nodes:
                    nodes[mask] = self.characters.node(machine.alphabet.characters(mask))
            states.append(MachineState(accepts, tuple((nodes[mask], target) for mask, target in moves)))
        return self.builder.machine(states, machine.low, machine.high)


def _children(text: Text) -> list[Text]:
    """The texts whose nodes the node of `text` is made of."""
    match text:
        case Then():
            parts: list[Text] = []
            rest: Text = text
            while isinstance(rest, Then) and not (parts and _is_search(rest)):
                parts.append(rest.first)
                rest = rest.rest
            return [*parts, rest]
        case Union():
            return list(text.items)
        case Repeat():
            return [text.item]
        case _:
            return []


def _is_search(text: Text) -> bool:
    """Some word of it begins with any text, and then goes on."""
    if isinstance(text, Union):
        return any(map(_is_search, text.items))
    return isinstance(text, Then) and text.first is ANYTHING
