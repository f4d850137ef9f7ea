r"""GBNF grammars, as llama.cpp and xgrammar write them -> rules.

    root ::= "[" item ("," item)* "]"   # a comment
    item ::= [0-9]{1,3} | "\"" [^"\n]* "\""

Rules, alternatives, groups, strings, character classes, `.` (any character), `* + ? {m} {m,} {m,n}`, comments and the
escapes of both. A rule goes on until the next `name ::=`. Refused with position: lookahead, tokens by id, macros.
Every character counts: there are no terminals and nothing is skipped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NoReturn

from latticework.lang.errors import ConstraintError
from latticework.lang.ir import Gbnf
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.builder import NEVER, Builder
from latticework.runtime.constrain.grammar import build_rules, grammar_error
from latticework.runtime.constrain.ranges import ANY, complement, union
from latticework.runtime.constrain.rules import MAX_COUNT
from latticework.runtime.constrain.utf8 import utf8_characters

_TOKEN = re.compile(
    r"""
      (?P<blank>(?:\s|\#[^\n]*)+)
    | (?P<name>[A-Za-z_][A-Za-z0-9_.-]*)
    | (?P<string>"(?:[^"\\\n]|\\.)*")
    | (?P<set>\[\^?(?:[^\]\\\n]|\\.)*\])
    | (?P<repeat>\{\s*(?P<low>[0-9]*)\s*(?P<comma>,?)\s*(?P<high>[0-9]*)\s*\})
    | (?P<defines>::=)
    | (?P<sign>[()|*+?.])
    """,
    re.VERBOSE,
)
_DEFINES = re.compile(r"(?:\s|#[^\n]*)*::=")
_SIMPLE_ESCAPES = {
    "n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "0": "\0", "e": "\x1b",
    **{character: character for character in "\"'\\[]^-?/.|(){}*+$"},
}  # fmt: skip
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_REPEATS = {"*": (0, None), "+": (1, None), "?": (0, 1)}


def build_gbnf(builder: Builder, constraint: Gbnf, limits: Limits) -> int:
    """The node of the grammar's texts; NEVER where it has none. Raises GrammarError."""
    return _Parser(builder, constraint.grammar, limits).parse(constraint.start)


@dataclass(slots=True)
class _Group:
    """An open group: what it holds so far."""

    position: int
    branches: list[int] = field(default_factory=list)
    items: list[int] = field(default_factory=list)


class _Parser:
    def __init__(self, builder: Builder, text: str, limits: Limits) -> None:
        self.builder = builder
        self.text = text
        self.limits = limits
        self.rules: dict[str, int] = {}
        self.called: dict[str, int] = {}  # name -> where it is first called
        self.bodies: dict[int, int] = {}
        self.groups: list[_Group] = []

    def parse(self, start: str) -> int:
        size = len(self.text.encode("utf-8", "surrogatepass"))
        if size > self.limits.pattern_bytes:
            raise ConstraintError(
                f"the grammar has {size} bytes; the limit `pattern_bytes` is {self.limits.pattern_bytes}", field="gbnf"
            )
        current: int | None = None
        position = 0
        while position < len(self.text):
            self.builder.tick()
            token = _TOKEN.match(self.text, position)
            if token is None:
                self._fail_at(position)
            if token.lastgroup == "name" and (defines := _DEFINES.match(self.text, token.end())):
                self._finish_rule(current)
                current = self._begin_rule(token[0], position)
                position = defines.end()
                continue
            if current is None and token.lastgroup != "blank":
                self._fail("expected a rule", position, 'a rule is written name ::= "text"')
            self._token(token)
            position = token.end()
        self._finish_rule(current)
        for name, place in self.called.items():
            if self._rule(name) not in self.bodies:
                self._fail(f"the rule {name} is not defined", place)
        if start not in self.rules or self.rules[start] not in self.bodies:
            known = ", ".join(list(self.rules)[:8]) or "none"
            self._fail(f"the grammar has no rule {start}", 0, f"its rules are: {known}; start= names another")
        return build_rules(self.builder, self.bodies, self.rules[start])

    # ------------------------------------------------------------ rules

    def _rule(self, name: str) -> int:
        if name not in self.rules:
            self.rules[name] = self.builder.rule()
        return self.rules[name]

    def _begin_rule(self, name: str, position: int) -> int:
        rule = self._rule(name)
        if rule in self.bodies:
            self._fail(f"the rule {name} is defined twice", position)
        self.bodies[rule] = NEVER
        self.groups = [_Group(position)]
        return rule

    def _finish_rule(self, rule: int | None) -> None:
        if rule is None:
            return
        if len(self.groups) > 1:
            self._fail("missing ), unterminated group", self.groups[-1].position)
        self.bodies[rule] = self._close()

    def _close(self) -> int:
        group = self.groups.pop()
        group.branches.append(self.builder.sequence(group.items))
        return self.builder.either(group.branches)

    # ------------------------------------------------------------ one token

    def _token(self, token: re.Match[str]) -> None:
        builder, start = self.builder, token.start()
        match token.lastgroup, token[0]:
            case "name", name:
                self.called.setdefault(name, start)
                self._add(builder.call(self._rule(name)))
            case "string", text:
                self._add(builder.sequence([self._character(point) for point in self._points(text[1:-1], start + 1)]))
            case "set", text:
                self._add(self._set(text, start))
            case "repeat", _:
                self._repeat(*self._bounds(token), start)
            case "defines", _:
                self._fail("expected the name of a rule before ::=", start)
            case "sign", ".":
                self._add(utf8_characters(builder, ANY))
            case "sign", "(":
                if len(self.groups) > self.limits.depth:
                    self._fail(f"groups nest too deep; the limit `depth` is {self.limits.depth}", start)
                if self.text.startswith(("(=", "(!"), start):
                    self._fail("lookahead is not supported", start)
                self.groups.append(_Group(start))
            case "sign", ")":
                if len(self.groups) == 1:
                    self._fail("unbalanced parenthesis", start)
                self._add(self._close())
            case "sign", "|":
                group = self.groups[-1]
                group.branches.append(builder.sequence(group.items))
                group.items = []
            case "sign", sign:
                self._repeat(*_REPEATS[sign], start)

    def _add(self, node: int) -> None:
        self.groups[-1].items.append(node)

    def _character(self, point: int) -> int:
        return utf8_characters(self.builder, ((point, point),))

    def _repeat(self, low: int, high: int | None, position: int) -> None:
        items = self.groups[-1].items
        if not items:
            self._fail("nothing to repeat", position)
        items.append(self.builder.repeat(items.pop(), low, high))

    def _bounds(self, token: re.Match[str]) -> tuple[int, int | None]:
        low, comma, high = token["low"], token["comma"], token["high"]
        if not low and not high:
            self._fail("expected a number", token.start(), "bounds are written {2}, {2,} or {2,5}")
        least = int(low[:12] or 0)
        most = int(high[:12]) if high else None if comma else least
        if max(least, most or 0) > MAX_COUNT:
            self._fail("the repetition number is too large", token.start())
        if most is not None and most < least:
            self._fail("min repeat greater than max repeat", token.start())
        return least, most

    # ------------------------------------------------------------ characters

    def _points(self, text: str, position: int) -> list[int]:
        """The code points of a string, which begins at `position`."""
        points = []
        at = 0
        while at < len(text):
            point, at = self._point(text, at, position)
            points.append(point)
        return points

    def _point(self, text: str, at: int, position: int) -> tuple[int, int]:
        """The code point at `at`, and where the next begins."""
        if text[at] != "\\":
            return ord(text[at]), at + 1
        letter = text[at + 1]
        if letter in _HEX_DIGITS:
            digits = text[at + 2 : at + 2 + _HEX_DIGITS[letter]]
            if len(digits) < _HEX_DIGITS[letter] or not re.fullmatch("[0-9a-fA-F]+", digits):
                self._fail(f"expected {_HEX_DIGITS[letter]} hexadecimal digits", position + at)
            if int(digits, 16) > 0x10FFFF:
                self._fail("a code point is at most U+10FFFF", position + at)
            return int(digits, 16), at + 2 + len(digits)
        if letter not in _SIMPLE_ESCAPES:
            self._fail(f"unknown escape \\{letter}", position + at)
        return ord(_SIMPLE_ESCAPES[letter]), at + 2

    def _set(self, text: str, start: int) -> int:
        is_negated = text.startswith("[^")
        inner = text[1 + is_negated : -1]
        position = start + 1 + is_negated
        ranges: list[tuple[int, int]] = []
        at = 0
        while at < len(inner):
            self.builder.tick()
            begin = at
            low, at = self._point(inner, at, position)
            high = low
            if inner[at : at + 1] == "-" and at + 1 < len(inner):
                high, at = self._point(inner, at + 1, position)
                if high < low:
                    self._fail("the range is reversed", position + begin)
            ranges.append((low, high))
        if not ranges and not is_negated:
            self._fail("the character class is empty", start)
        found = union(ranges)
        return utf8_characters(self.builder, complement(found) if is_negated else found)

    # ------------------------------------------------------------ errors

    def _fail_at(self, position: int) -> NoReturn:
        character = self.text[position]
        messages = {
            '"': "unterminated string",
            "[": "unterminated character class",
            "{": "expected bounds: {2}, {2,} or {2,5}",
            "<": "tokens by id are not supported",
            "!": "tokens by id are not supported",
        }
        self._fail(messages.get(character, f"unexpected {character!r}"), position)

    def _fail(self, message: str, position: int, hint: str | None = None) -> NoReturn:
        raise grammar_error(self.text, position, message, "gbnf", hint)
