r"""Regular expressions in Python's syntax -> a tree.

What is accepted means what `re` means on str: literals, escapes, `.`, classes, groups, alternation, greedy and lazy
repeats (the same language), the anchors `^`, `$`, `\A`, `\Z`, the boundaries `\b` and `\B`, lookahead, and the flags
i, s, u. Lookbehind, backreferences, possessive repeats, atomic groups and the flags a, L, m, x are refused with their
position. The parser does not recurse; it knows nothing of bytes or of automata.
"""

from __future__ import annotations

from collections.abc import Callable

from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.pattern_parser import PatternParser
from latticework.runtime.constrain.pattern_tree import Boundary, End, Group, Start, Tree
from latticework.runtime.constrain.ranges import (
    NOT_NEWLINE,
    character_class,
    complement,
    fold_case,
    union,
)
from latticework.runtime.constrain.rules import MAX_COUNT, Ranges
from latticework.runtime.constrain.texts import chars

_SIMPLE_ESCAPES = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_ASSERTIONS: dict[str, Tree] = {
    "A": Start(), "Z": End(), "b": Boundary(negated=False), "B": Boundary(negated=True, not_empty=True)
}  # fmt: skip
_START, _END = Start(), End(or_newline=True)
_REFUSED_GROUPS = {
    "<=": "lookbehind",
    "<!": "lookbehind",
    ">": "atomic groups",
    "(": "conditional groups",
    "P=": "backreferences",
}
_OCTAL = "01234567"


def parse_pattern(pattern: str, limits: Limits, tick: Callable[[], None]) -> Tree:
    """The syntax tree of `pattern`. tick: called at every step; may raise to stop. Raises RegexError with position
    and caret."""
    return _Parser(pattern, limits).parse(tick)


class _Parser(PatternParser):
    begins = _START
    ends = _END
    one_line = NOT_NEWLINE

    # ------------------------------------------------------------ groups and flags

    def _leading_flags(self) -> None:
        while self.pattern.startswith("(?", self.position):
            end = self.position + 2
            while end < len(self.pattern) and self.pattern[end].isalpha():
                end += 1
            if end == self.position + 2 or end >= len(self.pattern) or self.pattern[end] != ")":
                return
            if self.pattern[self.position + 2] == "P":
                return
            flags = self._flags(self.position + 2, end)
            self.groups[0].flags |= flags
            self.position = end + 1

    def _flags(self, start: int, end: int) -> frozenset[str]:
        for offset in range(start, end):
            flag = self.pattern[offset]
            if flag in "aLmx":
                self._refuse(f"the flag {flag}", offset)
            if flag not in "isu":
                self._fail(f"unknown flag {flag!r}", offset, "the supported flags are i, s and u")
        return frozenset(self.pattern[start:end])

    def _open(self, start: int) -> None:
        self._too_deep(start)
        flags = self.groups[-1].flags
        is_ahead = self.pattern.startswith(("?=", "?!"), self.position)
        negated = self.pattern.startswith("?!", self.position)
        if is_ahead:
            self.position += 2
        elif self.pattern.startswith("?", self.position):
            self.position += 1
            flags = self._group_kind(start, flags)
        self.groups.append(Group(start, flags, is_ahead, negated))

    def _group_kind(self, start: int, flags: frozenset[str]) -> frozenset[str]:
        rest = self.pattern[self.position : self.position + 2]
        for opening, what in _REFUSED_GROUPS.items():
            if rest.startswith(opening):
                self._refuse(what, start)
        if rest.startswith(":"):
            self.position += 1
            return flags
        if rest == "P<":
            self._group_name(start)
            return flags
        if rest.startswith("#"):
            self._refuse("comments", start)
        end = self.position
        while end < len(self.pattern) and (self.pattern[end].isalpha() or self.pattern[end] == "-"):
            end += 1
        if end == self.position or end >= len(self.pattern) or self.pattern[end] not in ":)":
            self._fail("unknown group extension", start)
        if self.pattern[end] == ")":
            self._fail("flags for the whole pattern stand at its start", start)
        on, minus, off = self.pattern[self.position : end].partition("-")
        if minus and not off:
            self._fail("missing flag", end)
        added = self._flags(self.position, self.position + len(on))
        removed = self._flags(end - len(off), end)
        self.position = end + 1
        return (flags | added) - removed

    def _group_name(self, start: int) -> None:
        end = self.pattern.find(">", self.position)
        name = self.pattern[self.position + 2 : end]
        if end < 0 or not name.isidentifier():
            self._fail("bad group name", start, "a name is written (?P<name>…)")
        self.position = end + 1

    # ------------------------------------------------------------ repeats

    def _bounds(self, start: int) -> tuple[int, int | None] | None:
        """The bounds after a `{`, or None when it is a literal brace."""
        end = self.pattern.find("}", self.position, self.position + 32)
        low, comma, high = self.pattern[self.position : end].partition(",") if end >= 0 else ("", "", "")
        for part in (low, high):
            if part and not (part.isascii() and part.isdigit()):
                return None
        if end < 0 or not (low or comma):
            return None
        if not low and not high:
            return None if not comma else self._take_bounds(start, end, 0, None)
        least = int(low or 0)
        most = int(high) if high else (None if comma else least)
        return self._take_bounds(start, end, least, most)

    def _take_bounds(self, start: int, end: int, low: int, high: int | None) -> tuple[int, int | None]:
        if max(low, high or 0) > MAX_COUNT:
            self._fail("the repetition number is too large", start)
        if high is not None and high < low:
            self._fail("min repeat greater than max repeat", start)
        self.position = end + 1
        return low, high

    # ------------------------------------------------------------ escapes and classes

    def _escape(self, start: int) -> None:
        if self.position >= len(self.pattern):
            self._fail("bad escape (end of pattern)", start)
        character = self.pattern[self.position]
        group = self.groups[-1]
        if character in _ASSERTIONS:
            self.position += 1
            group.add(_ASSERTIONS[character], repeatable=False)
        elif character == "N":
            self._refuse("character names", start)
        else:
            found = self._escaped(start, in_class=False)
            if isinstance(found, str):
                self._letter(found)
            else:
                group.add(chars(found))

    def _escaped(self, start: int, *, in_class: bool) -> str | Ranges:
        """The character or class after a backslash; `position` is just behind the backslash."""
        if self.position >= len(self.pattern):
            self._fail("bad escape (end of pattern)", start)
        character = self.pattern[self.position]
        self.position += 1
        if character in "dwsDWS":
            return character_class(character)
        if character in _SIMPLE_ESCAPES:
            return _SIMPLE_ESCAPES[character]
        if character in _HEX_DIGITS:
            return self._hexadecimal(start, _HEX_DIGITS[character])
        if in_class and character == "b":
            return "\b"
        if character in "0123456789":
            return self._octal(start, character, in_class)
        if character.isascii() and character.isalpha():
            self._fail(f"bad escape \\{character}", start)
        return character

    def _hexadecimal(self, start: int, digits: int) -> str:
        text = self.pattern[self.position : self.position + digits]
        if len(text) < digits or any(c not in "0123456789abcdefABCDEF" for c in text):
            self._fail(f"incomplete escape; expected {digits} hexadecimal digits", start)
        point = int(text, 16)
        if point > 0x10FFFF:
            self._fail("a code point is at most U+10FFFF", start)
        self.position += digits
        return chr(point)

    def _octal(self, start: int, first: str, in_class: bool) -> str:
        more = 0
        while more < 2 and self.pattern[self.position + more : self.position + more + 1] in tuple(_OCTAL):
            more += 1
        digits = first + self.pattern[self.position : self.position + more]
        is_octal = first == "0" or (first in _OCTAL and (in_class or len(digits) == 3))
        if not is_octal:
            if in_class:
                self._fail(f"bad escape \\{first}", start)
            self._refuse("backreferences", start)
        if int(digits, 8) > 0o377:
            self._fail("an octal escape is at most \\377", start)
        self.position += more
        return chr(int(digits, 8))

    def _class(self, start: int) -> Ranges:
        negated = self.pattern.startswith("^", self.position)
        if negated:
            self.position += 1
        ranges: list[tuple[int, int]] = []
        first = True
        while True:
            if self.position >= len(self.pattern):
                self._fail("unterminated character set", start)
            if self.pattern[self.position] == "]" and not first:
                self.position += 1
                break
            first = False
            ranges += self._class_item(start)
        found = union(ranges)
        if "i" in self.groups[-1].flags:
            found = fold_case(found)
        return complement(found) if negated else found

    def _class_item(self, start: int) -> Ranges:
        at = self.position
        low = self._class_member(start)
        following = self.pattern[self.position : self.position + 2]
        if not following.startswith("-") or following == "-]":
            return low if isinstance(low, tuple) else ((ord(low), ord(low)),)
        if len(following) < 2:
            self._fail("unterminated character set", start)
        self.position += 1
        high = self._class_member(start)
        if isinstance(low, tuple) or isinstance(high, tuple) or ord(high) < ord(low):
            self._fail("bad character range", at)
        return ((ord(low), ord(high)),)

    def _class_member(self, start: int) -> str | Ranges:
        at = self.position
        if at >= len(self.pattern):
            self._fail("unterminated character set", start)
        self.position += 1
        if self.pattern[at] == "\\":
            return self._escaped(at, in_class=True)
        return self.pattern[at]
