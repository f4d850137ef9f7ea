r"""Regular expressions in ECMA-262's syntax -> a tree.

The semantics are those of the `u` flag, as JSON Schema advises: characters are code points; `\d` and `\w` are ASCII,
`\s` and `.` as ECMA-262 has them; `\p{…}` knows general categories. The syntax is the wider one that schemas are
written in: needless escapes of punctuation, lone `]`, `{` and `}`, `\A` and `\Z`, `(?P<name>…)`, `(?i)` in front.
Lookbehind, backreferences and what has two meanings (`\a`, `a++`) are refused with their position. The parser does not
recurse.
"""

from __future__ import annotations

from collections.abc import Callable

from latticework.runtime.constrain.assertions import ASCII_WORD
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.pattern_parser import PatternParser
from latticework.runtime.constrain.pattern_tree import Boundary, End, Group, Start, Tree
from latticework.runtime.constrain.properties import property_set
from latticework.runtime.constrain.ranges import ANY, complement, fold_case, subtract, union
from latticework.runtime.constrain.rules import MAX_COUNT, Ranges
from latticework.runtime.constrain.texts import chars

_DIGIT: Ranges = ((0x30, 0x39),)
_SPACE: Ranges = (  # WhiteSpace and LineTerminator
    (0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F),
    (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
)  # fmt: skip
_NO_LINE_END: Ranges = subtract(ANY, ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)))
_CLASSES: dict[str, Ranges] = {"d": _DIGIT, "s": _SPACE, "w": ASCII_WORD}
_CLASSES |= {letter.upper(): complement(ranges) for letter, ranges in _CLASSES.items()}
_CONTROLS = {"f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_START, _END = Start(), End()
_ASSERTIONS: dict[str, Tree] = {
    "b": Boundary(negated=False), "B": Boundary(negated=True), "A": _START, "Z": _END, "z": _END
}  # fmt: skip
_REFUSED_GROUPS = {"?<=": "lookbehind", "?<!": "lookbehind", "?>": "atomic groups", "?(": "conditional groups"}
_HEXADECIMAL = frozenset("0123456789abcdefABCDEF")


def parse_ecma(pattern: str, limits: Limits, tick: Callable[[], None]) -> Tree:
    """The tree of `pattern`. tick: called at every step; may raise to stop. Raises RegexError with position and
    caret."""
    return _Parser(pattern, limits).parse(tick)


class _Parser(PatternParser):
    begins = _START
    ends = _END
    one_line = _NO_LINE_END

    # ------------------------------------------------------------ groups

    def _leading_flags(self) -> None:
        for flags in ("(?i)", "(?s)", "(?u)", "(?is)", "(?si)"):
            if self.pattern.startswith(flags):
                self.groups[0].flags = frozenset(flags[2:-1])
                self.position = len(flags)

    def _open(self, start: int) -> None:
        self._too_deep(start)
        flags = self.groups[-1].flags
        is_ahead = negated = False
        if self.pattern.startswith("?", self.position):
            following = self.pattern[self.position + 1 : self.position + 2]
            if following == ":":
                self.position += 2
            elif following and following in "=!":
                is_ahead, negated = True, following == "!"
                self.position += 2
            else:
                flags = self._group_kind(start, flags)
        self.groups.append(Group(start, flags, is_ahead, negated))

    def _group_kind(self, start: int, flags: frozenset[str]) -> frozenset[str]:
        for opening, what in _REFUSED_GROUPS.items():
            if self.pattern.startswith(opening, self.position):
                self._refuse(what, start)
        if self.pattern.startswith(("?<", "?P<"), self.position):
            begin = self.pattern.index("<", self.position) + 1
            end = self.pattern.find(">", begin)
            if end < 0 or not self.pattern[begin:end].replace("$", "_").isidentifier():
                self._fail("bad group name", start, "a name is written (?<name>…)")
            self.position = end + 1
            return flags
        if self.pattern.startswith("?P=", self.position):
            self._refuse("backreferences", start)
        end = self.pattern.find(":", self.position)
        on, _, off = self.pattern[self.position + 1 : max(end, 0)].partition("-")
        if end < 0 or not (on or off) or not set(on + off) <= set("is"):
            self._fail("unknown group extension", start)
        self.position = end + 1
        return (flags | set(on)) - set(off)

    # ------------------------------------------------------------ repeats

    def _bounds(self, start: int) -> tuple[int, int | None] | None:
        """The bounds after a `{`, or None when it is a literal brace."""
        end = self.pattern.find("}", self.position, self.position + 32)
        low, comma, high = self.pattern[self.position : end].partition(",") if end >= 0 else ("", "", "")
        if not (low.isascii() and low.isdigit()) or (high and not (high.isascii() and high.isdigit())):
            if end >= 0 and not low and comma and high.isascii() and high.isdigit():
                self._fail("a repetition without its least number", start, "write {0," + high + "}")
            return None
        least = int(low)
        most = int(high) if high else (None if comma else least)
        if max(least, most or 0) > MAX_COUNT:
            self._fail("the repetition number is too large", start)
        if most is not None and most < least:
            self._fail("min repeat greater than max repeat", start)
        self.position = end + 1
        return least, most

    # ------------------------------------------------------------ escapes and classes

    def _escape(self, start: int) -> None:
        character = self.pattern[self.position : self.position + 1]
        group = self.groups[-1]
        if character in _ASSERTIONS:
            self.position += 1
            group.add(_ASSERTIONS[character], repeatable=False)
        elif character and character in "123456789k":
            self._refuse("backreferences", start)
        else:
            found = self._escaped(start)
            if isinstance(found, str):
                self._letter(found)
            else:
                group.add(chars(found))

    def _escaped(self, start: int) -> str | Ranges:
        """The character or class after a backslash; `position` is just behind the backslash."""
        if self.position >= len(self.pattern):
            self._fail("a backslash at the end of the pattern", start)
        character = self.pattern[self.position]
        self.position += 1
        if character in _CLASSES:
            return self._folded(_CLASSES[character])
        if character in _CONTROLS:
            return _CONTROLS[character]
        match character:
            case "u":
                return self._unicode(start)
            case "x":
                return self._hexadecimal(start, 2)
            case "c":
                letter = self.pattern[self.position : self.position + 1]
                if not (letter.isascii() and letter.isalpha()):
                    self._fail("incomplete escape; expected a letter after \\c", start)
                self.position += 1
                return chr(ord(letter) % 32)
            case "0":
                if self.pattern[self.position : self.position + 1].isdigit():
                    self._refuse("octal escapes", start)
                return "\0"
            case "p" | "P":
                return self._property(start, negated=character == "P")
        if character.isalnum():
            self._fail(f"unknown escape \\{character}", start)
        return character

    def _hexadecimal(self, start: int, digits: int) -> str:
        text = self.pattern[self.position : self.position + digits]
        if len(text) < digits or not _HEXADECIMAL.issuperset(text):
            self._fail(f"incomplete escape; expected {digits} hexadecimal digits", start)
        self.position += digits
        return chr(int(text, 16))

    def _unicode(self, start: int) -> str:
        if not self.pattern.startswith("{", self.position):
            first = self._hexadecimal(start, 4)
            at = self.position
            if "\ud800" <= first <= "\udbff" and self.pattern.startswith("\\u", at):
                self.position += 2
                if not self.pattern.startswith("{", self.position):
                    second = self._hexadecimal(at, 4)
                    if "\udc00" <= second <= "\udfff":
                        return chr(0x10000 + (ord(first) - 0xD800 << 10) + (ord(second) - 0xDC00))
                self.position = at
            return first
        end = self.pattern.find("}", self.position)
        text = self.pattern[self.position + 1 : max(end, 0)]
        if end < 0 or not text or not _HEXADECIMAL.issuperset(text) or len(text) > 8 or int(text, 16) > 0x10FFFF:
            self._fail("a code point is written \\u{…}, with at most 10FFFF", start)
        self.position = end + 1
        return chr(int(text, 16))

    def _property(self, start: int, *, negated: bool) -> Ranges:
        end = self.pattern.find("}", self.position)
        if not self.pattern.startswith("{", self.position) or end < 0:
            self._fail("a property is written \\p{…}", start)
        name = self.pattern[self.position + 1 : end]
        found = property_set(name)
        if found is None:
            self._refuse(
                f"the property {name!r}", start, "general categories such as L, Lu, Nd or Punctuation are known"
            )
        self.position = end + 1
        return complement(self._folded(found)) if negated else self._folded(found)

    def _folded(self, ranges: Ranges) -> Ranges:
        return fold_case(ranges) if "i" in self.groups[-1].flags else ranges

    def _class(self, start: int) -> Ranges:
        negated = self.pattern.startswith("^", self.position)
        if negated:
            self.position += 1
        ranges: list[tuple[int, int]] = []
        while not self.pattern.startswith("]", self.position):
            if self.position >= len(self.pattern):
                self._fail("unterminated character set", start)
            ranges += self._class_item(start)
        self.position += 1
        found = self._folded(union(ranges))
        return complement(found) if negated else found

    def _class_item(self, start: int) -> Ranges:
        at = self.position
        low = self._class_member(start)
        is_range = self.pattern.startswith("-", self.position) and not self.pattern.startswith("-]", self.position)
        if not is_range or self.position + 1 >= len(self.pattern):
            return low if isinstance(low, tuple) else ((ord(low), ord(low)),)
        dash = self.position
        self.position += 1
        high = self._class_member(start)
        if isinstance(low, tuple) or isinstance(high, tuple):  # [\w-x]: the hyphen is one of the characters
            self.position = dash
            return low if isinstance(low, tuple) else ((ord(low), ord(low)),)
        if ord(high) < ord(low):
            self._fail("bad character range", at)
        return ((ord(low), ord(high)),)

    def _class_member(self, start: int) -> str | Ranges:
        at = self.position
        if at >= len(self.pattern):
            self._fail("unterminated character set", start)
        self.position += 1
        if self.pattern[at] != "\\":
            return self.pattern[at]
        following = self.pattern[self.position : self.position + 1]
        if following == "b":
            self.position += 1
            return "\b"
        if following and following in "123456789":
            self._refuse("octal escapes", at)
        return self._escaped(at)
