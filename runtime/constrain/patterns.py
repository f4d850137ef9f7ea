"""A pattern -> the text of what it matches."""

from __future__ import annotations

from collections.abc import Callable

from latticework.runtime.constrain.assertions import ASCII_WORD, Assertions
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.ecma import parse_ecma
from latticework.runtime.constrain.pattern import parse_pattern
from latticework.runtime.constrain.ranges import character_class
from latticework.runtime.constrain.rules import Ranges
from latticework.runtime.constrain.text_kinds import Text


def from_pattern(
    pattern: str, mode: str = "ecma", limits: Limits | None = None, tick: Callable[[], None] | None = None
) -> Text:
    """The strings in which `pattern` finds a match anywhere, as JSON Schema's `pattern` has it. mode: the syntax and
    semantics, "ecma" (ECMA-262) or "python". tick: called at every step; may raise to stop. Raises RegexError with
    position and caret."""
    tick = tick or _no_tick
    parse = parse_ecma if mode == "ecma" else parse_pattern
    tree = parse(pattern, limits or Limits(), tick)
    return Assertions(pattern, ASCII_WORD if mode == "ecma" else _word(pattern), tick).anywhere(tree)


def from_python(pattern: str, limits: Limits | None = None, tick: Callable[[], None] | None = None) -> Text:
    """The strings that `re.fullmatch(pattern, string)` accepts. tick, errors: as `from_pattern`."""
    tick = tick or _no_tick
    tree = parse_pattern(pattern, limits or Limits(), tick)
    if isinstance(tree, Text):
        return tree
    return Assertions(pattern, _word(pattern), tick).whole(tree)


def _word(pattern: str) -> Ranges:
    """The characters of words in Python, if the pattern may ask for them: they are many."""
    return character_class("w") if "\\b" in pattern.lower() else ASCII_WORD


def _no_tick() -> None:
    pass


__all__ = ["from_pattern", "from_python"]
