"""What the syntaxes of patterns have in common: the loop over constructs, groups, repeats, errors.

A dialect says what its anchors, its dot, its escapes, classes, group kinds and bounds mean. The parser does not
recurse: open groups are a list.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NoReturn

from latticework.lang.errors import RegexError, point_at
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.pattern_tree import Group, Tree
from latticework.runtime.constrain.ranges import ANY, fold_case
from latticework.runtime.constrain.rules import Ranges
from latticework.runtime.constrain.texts import chars

_REPEATS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


class PatternParser(ABC):
    """One pattern on its way to a tree. begins, ends: what ^ and $ are. one_line: the characters of a dot."""

    begins: ClassVar[Tree]
    ends: ClassVar[Tree]
    one_line: ClassVar[Ranges]

    def __init__(self, pattern: str, limits: Limits) -> None:
        self.pattern = pattern
        self.limits = limits
        self.position = 0
        self.groups = [Group(0, frozenset())]

    def parse(self, tick: Callable[[], None]) -> Tree:
        """The tree. tick: called at every step; may raise to stop. Raises RegexError with position and caret."""
        size = len(self.pattern.encode("utf-8", "surrogatepass"))
        if size > self.limits.pattern_bytes:
            raise RegexError(
                f"the pattern has {size} bytes; the limit `pattern_bytes` is {self.limits.pattern_bytes}",
                field="regex",
            )
        self._leading_flags()
        while self.position < len(self.pattern):
            tick()
            self._step()
        if len(self.groups) > 1:
            self._fail("missing ), unterminated group", self.groups[-1].position)
        return self.groups[0].close()

    def _step(self) -> None:
        start = self.position
        group = self.groups[-1]
        character = self.pattern[start]
        self.position += 1
        match character:
            case "(":
                self._open(start)
            case ")":
                self._close(start)
            case "|":
                group.end_branch()
            case "[":
                group.add(chars(self._class(start)))
            case ".":
                group.add(chars(ANY if "s" in group.flags else self.one_line))
            case "*" | "+" | "?":
                self._repeat(start, *_REPEATS[character])
            case "{":
                bounds = self._bounds(start)
                if bounds is None:
                    group.add_letter("{")
                else:
                    self._repeat(start, *bounds)
            case "^":
                group.add(self.begins, repeatable=False)
            case "$":
                group.add(self.ends, repeatable=False)
            case "\\":
                self._escape(start)
            case _:
                self._letter(character)

    def _letter(self, character: str) -> None:
        group = self.groups[-1]
        if "i" in group.flags:
            point = ord(character)
            ranges = fold_case(((point, point),))
            if len(ranges) > 1 or ranges[0][0] != ranges[0][1]:
                group.add(chars(ranges))
                return
        group.add_letter(character)

    def _close(self, start: int) -> None:
        if len(self.groups) == 1:
            self._fail("unbalanced parenthesis", start)
        item = self.groups.pop().close()
        self.groups[-1].add(item)

    def _repeat(self, start: int, low: int, high: int | None) -> None:
        group = self.groups[-1]
        if group.is_empty:
            self._fail("nothing to repeat", start)
        if not group.repeatable:
            self._fail("multiple repeat, or a repeated anchor or boundary", start)
        if self.pattern.startswith("+", self.position):
            self._refuse("possessive repeats", start)
        if self.pattern.startswith("?", self.position):  # lazy: the same language
            self.position += 1
        group.repeat_last(low, high, start)

    def _too_deep(self, start: int) -> None:
        """Raises where one more group would nest deeper than the limit."""
        if len(self.groups) > self.limits.depth:
            self._fail(f"groups nest too deep; the limit `depth` is {self.limits.depth}", start)

    # ------------------------------------------------------------ what a dialect says

    @abstractmethod
    def _leading_flags(self) -> None:
        """Reads flags for the whole pattern."""

    @abstractmethod
    def _open(self, start: int) -> None:
        """Opens the group whose parenthesis is at `start`."""

    @abstractmethod
    def _bounds(self, start: int) -> tuple[int, int | None] | None:
        """The bounds after a `{`, or None when it is a literal brace."""

    @abstractmethod
    def _escape(self, start: int) -> None:
        """Adds what the backslash at `start` begins."""

    @abstractmethod
    def _class(self, start: int) -> Ranges:
        """The characters of the set whose bracket is at `start`."""

    # ------------------------------------------------------------ errors

    def _refuse(self, what: str, position: int, hint: str | None = None) -> NoReturn:
        self._fail(f"{what}: not supported in a constraint", position, hint)

    def _fail(self, message: str, position: int, hint: str | None = None) -> NoReturn:
        raise RegexError(
            f"{message} (position {position})\n{point_at(self.pattern, position)}",
            hint=hint,
            field="regex",
            position=position,
        )
