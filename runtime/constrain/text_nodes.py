r"""Texts -> nodes of a rule graph: as they are, in UTF-8, or as JSON strings.

A JSON string writes each character in exactly one way: as itself, or `\"`, `\\`, `\b`, `\f`, `\n`, `\r`, `\t`, or
`\u00xx` (lower case) for the other controls, as `json.dumps(ensure_ascii=False)` does. Plain parts of a text keep
their shape, so counts stay counters; intersections, complements and searches become machines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache

from latticework.runtime.constrain.builder import EMPTY, NEVER, Builder, excerpt
from latticework.runtime.constrain.character_machines import (
    MAX_STATES,
    CharacterMachine,
    TooManyStates,
    character_machine,
    distributed,
)
from latticework.runtime.constrain.excerpts import Excerpt
from latticework.runtime.constrain.formats import is_format
from latticework.runtime.constrain.ranges import LAST, intersect
from latticework.runtime.constrain.rules import MachineState, Ranges
from latticework.runtime.constrain.text_kinds import Characters, Empty, Literal, Never, Repeat, Text, Then, Union, Words
from latticework.runtime.constrain.texts import ANYTHING
from latticework.runtime.constrain.utf8 import utf8_characters

_UNITED_STATES = 400  # intersections of unions with more states than this are taken apart
_SEARCH_STATES = 200  # searches with more states than this stay expressions
_ASCII: Ranges = ((0x00, 0x7F),)
_PLAIN: Ranges = ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7F))  # ASCII that a JSON string holds as it is
_MUST_ESCAPE: Ranges = ((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C))  # controls, the quote, the backslash
_UNESCAPED = re.compile(r'[^\x00-\x1f"\\]*')
_BEYOND: Ranges = ((0x80, LAST),)


def lower_json(builder: Builder, text: Text) -> int:
    """The JSON strings of the words of `text`, quotes included. NEVER where there is none. Raises ConstraintError."""
    if text is ANYTHING or is_format(text):
        return builder.paste(_standard_string(text))
    return _json_string(builder, text)


@cache
def _standard_string(text: Text) -> Excerpt:
    return excerpt(lambda builder: _json_string(builder, text))


def _json_string(builder: Builder, text: Text) -> int:
    quote = builder.literal(b'"')
    return builder.sequence([quote, _Lowering(builder, is_json=True).node(text), quote])


def lower_plain(builder: Builder, text: Text) -> int:
    """The words of `text` in UTF-8. NEVER where there is none. Raises ConstraintError."""
    return _Lowering(builder, is_json=False).node(text)


def _json_bytes(text: str) -> bytes:
    if _UNESCAPED.fullmatch(text):
        return text.encode()
    return json.dumps(text, ensure_ascii=False)[1:-1].encode()


_ESCAPES = {point: _json_bytes(chr(point)) for low, high in _MUST_ESCAPE for point in range(low, high + 1)}


def _characters(builder: Builder, ranges: Ranges, is_json: bool) -> int:
    """The node of one character. The parts that sets share (all that is not ASCII, mostly) are made once."""
    branches = []
    if ranges[0][0] < 0x80:
        branches.append(builder.byte_set(intersect(ranges, _PLAIN if is_json else _ASCII)))
        if is_json and (escaped := intersect(ranges, _MUST_ESCAPE)):
            branches.append(builder.shared(("escaped", escaped), lambda: _escaped(builder, escaped)))
    if ranges[-1][1] >= 0x80:
        beyond = intersect(ranges, _BEYOND)
        branches.append(builder.shared(("beyond", beyond), lambda: utf8_characters(builder, beyond)))
    return branches[0] if len(branches) == 1 else builder.either(branches)


def _escaped(builder: Builder, ranges: Ranges) -> int:
    heads: dict[bytes, list[int]] = {}
    for low, high in ranges:
        for point in range(low, high + 1):
            word = _ESCAPES[point]
            heads.setdefault(word[:-1], []).append(word[-1])
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
        self.is_json = is_json
        self.encode: Callable[[str], bytes] = _json_bytes if is_json else str.encode
        self.done: dict[Text, int] = {}

    def node(self, text: Text) -> int:
        done = self.done
        work: list[tuple[Text, list[Text] | None]] = [(text, None)]
        while work:
            part, parts = work.pop()
            if part in done:
                continue
            self.builder.tick()
            if parts is not None:
                done[part] = self._combined(part, parts)
                continue
            if _is_search(part) and (found := self._searched(part)) is not None:
                done[part] = found
                continue
            parts = _parts(part)
            if parts is None:
                done[part] = self._single(part)
            else:
                work.append((part, parts))
                work += [(child, None) for child in parts if child not in done]
        return done[text]

    def _combined(self, text: Text, parts: list[Text]) -> int:
        nodes = [self.done[part] for part in parts]
        match text:
            case Then():
                return self.builder.sequence(nodes)
            case Repeat():
                return self.builder.repeat(nodes[0], text.low, text.high)
            case _:
                return self.builder.either(nodes)

    def _single(self, text: Text) -> int:
        builder = self.builder
        match text:
            case Literal():
                return builder.literal(self.encode(text.text))
            case Characters():
                return self._character(text.ranges)
            case Words():
                return builder.either([builder.literal(self.encode(word)) for word in text.words])
            case Empty():
                return EMPTY
            case Never():
                return NEVER
            case _:
                return self._determined(text)

    def _character(self, ranges: Ranges) -> int:
        return self.builder.shared(
            (self.is_json, ranges), lambda: _characters(self.builder, ranges, self.is_json)
        )  # fmt: skip

    def _determined(self, text: Text) -> int:
        """As one automaton; or, where that is too large, as one for each alternative."""
        work = [text]
        found: list[int] = []
        while work:
            part = work.pop()
            alternatives = distributed(part)
            most = MAX_STATES if alternatives is None else _UNITED_STATES
            try:
                machine = character_machine(part, self.builder.limits, self.builder.tick, most)
            except TooManyStates:
                if alternatives is None:
                    raise
                work += alternatives
            else:
                found.append(NEVER if machine is None else self._machine(machine))
        return self.builder.either(found)

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
                    nodes[mask] = self._character(machine.alphabet.characters(mask))
            states.append(MachineState(accepts, tuple((nodes[mask], target) for mask, target in moves)))
        return self.builder.machine(states, machine.low, machine.high)


def _parts(text: Text) -> list[Text] | None:
    """The texts whose nodes the node of `text` is made of; None where it is not made of any."""
    match text:
        case Then():
            parts: list[Text] = []
            rest: Text = text
            while isinstance(rest, Then) and not (parts and rest.first is ANYTHING):
                parts.append(rest.first)
                rest = rest.rest
            return [*parts, rest]
        case Union():
            return list(text.items)
        case Repeat():
            return [text.item]
        case _:
            return None


def _is_search(text: Text) -> bool:
    """Some word of it begins with any text, and then goes on."""
    if isinstance(text, Union):
        return any(map(_is_search, text.items))
    return isinstance(text, Then) and text.first is ANYTHING
