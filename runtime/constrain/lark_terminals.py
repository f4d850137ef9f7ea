r"""Lark's terminals -> the texts that each matches.

A terminal of lark is a Python regular expression, tried where the terminal may stand; what it matches there is the
one match that `re` prefers. As a set of texts that is: all its words; where alternatives overlap, those of a later
one that no earlier one would cut short; after a lazy repeat, those that have no shorter word in front. (That it takes
as much as it can besides is a matter of what follows it: `longest.py`.)

Refused, with position: anchors, word boundaries and lookarounds, since what they see is not inside the terminal;
lazy repeats with something of variable length behind them; terminals that match the empty text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any, NoReturn

from lark import Token, Transformer_NonRecursive, Tree
from lark.exceptions import VisitError

from latticework.lang.errors import RegexError
from latticework.runtime.constrain.algebra import (
    EMPTY,
    NEVER,
    Text,
    both,
    chars,
    either,
    is_never,
    length,
    negate,
    repeat,
    seq,
)
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.grammar import grammar_error
from latticework.runtime.constrain.lark_patterns import branches_of, is_lazy_pattern, last_group, without_blanks
from latticework.runtime.constrain.lark_syntax import FIELD, parse_lark, position
from latticework.runtime.constrain.pattern import parse_pattern
from latticework.runtime.constrain.rules import MAX_COUNT

# What `common.ESCAPED_STRING` matches, without the lookbehind that it is written with.
_OWN_COMMON = r'ESCAPED_STRING: /"([^"\\\n]|\\[^\n])*"/'
_ESCAPED_INNER = "_STRING_ESC_INNER"  # matches up to the quote behind it; means nothing alone
_ESCAPES = {"n": "\n", "f": "\f", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_BACKSLASH = chars(((0x5C, 0x5C),))
_NO_NEW_LINE = chars(((0, 9), (11, 0x10FFFF)))


@dataclass(slots=True)
class Definition:
    """A terminal as it is written. scope: the terminals that its text may name. source: the text it stands in."""

    tree: Tree[Any]
    scope: Mapping[str, Definition]
    source: str
    priority: int = 0
    place: int = 0  # of its priority, or of its name


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a terminal. preferred: those of its words that are matched where the terminal ends with it. is_lazy: it
    ends at the first place where it can. varies: it takes as much as it can."""

    text: Text
    preferred: Text
    is_lazy: bool = False
    varies: bool = False
    width: tuple[float, int, int] = (0, 0, 0)  # lark tries wide alternatives first
    size: int = 1  # how much it takes to write it down
    is_open: bool = False  # a pattern with alternatives outside of all groups


@cache
def common_terminals() -> dict[str, Definition]:
    """The terminals of `%import common`, by name: those that come with lark."""
    scope: dict[str, Definition] = {}
    for source in ((files("lark") / "grammars" / "common.lark").read_text("utf-8"), _OWN_COMMON):
        for statement in parse_lark(source, Limits(), lambda: None).children:
            assert isinstance(statement, Tree)
            name, _, tree = statement.children
            assert isinstance(tree, Tree)
            scope[str(name)] = Definition(tree, scope, source)
    return scope


class Terminals:
    """The texts of the terminals of one grammar. tick: called at every step; may raise to stop."""

    def __init__(self, source: str, scope: Mapping[str, Definition], limits: Limits, tick: Callable[[], None]) -> None:
        self.source = source
        self.scope = scope
        self.limits = limits
        self.tick = tick
        self._known: dict[int, Piece] = {}  # by the identity of the definition

    def named(self, name: Token) -> Text:
        """The words of a terminal. Raises GrammarError."""
        definition = self._find(name, self.scope)
        self._define(definition, name)
        return self._checked(self._known[id(definition)].preferred, name)

    def written(self, tree: Tree[Any]) -> Text:
        """The words of a terminal written out where it is used."""
        definition = Definition(tree, self.scope, self.source)
        self._define(definition, tree)
        return self._checked(self._known.pop(id(definition)).preferred, tree)

    def piece_of(self, name: Token, scope: Mapping[str, Definition]) -> Piece:
        """What a terminal comes to that was made before those that name it."""
        return self._known[id(self._find(name, scope))]

    def known(self, definition: Definition) -> Text | None:
        """The words of a terminal that was asked for before."""
        piece = self._known.get(id(definition))
        return piece.preferred if piece is not None else None

    def _checked(self, text: Text, place: Tree[Any] | Token) -> Text:
        if text.nullable:
            self._fail("the terminal matches the empty text", place, "make it optional where it is used")
        return text

    # ------------------------------------------------------------ definitions

    def _find(self, name: Token, scope: Mapping[str, Definition]) -> Definition:
        found = scope.get(str(name))
        if found is None:
            self._fail(f"the terminal {name} is not defined", name)
        return found

    def _define(self, wanted: Definition, place: Tree[Any] | Token) -> None:
        """Those that a terminal names come before it."""
        work: list[tuple[Definition, Tree[Any] | Token]] = [(wanted, place)]
        open_ones: set[int] = set()
        while work:
            definition, name = work[-1]
            key = id(definition)
            if key in self._known:
                work.pop()
                continue
            named = [tree.children[0] for tree in definition.tree.find_data("terminal")]
            missing = [
                (found, token)
                for token in named
                if isinstance(token, Token) and not self.is_inner(token, definition)
                if id(found := self._find(token, definition.scope)) not in self._known
            ]
            if not missing:
                self._known[key] = self._whole(definition)
                work.pop()
                continue
            if key in open_ones:
                self._fail(f"the terminal {name} is part of itself", name, "only rules may recur")
            open_ones.add(key)
            work += missing

    def is_inner(self, name: Token, definition: Definition) -> bool:
        """Whether a terminal that a definition names is lark's `_STRING_ESC_INNER`."""
        return str(name) == _ESCAPED_INNER and definition.scope.get(_ESCAPED_INNER) is common_terminals()[str(name)]

    def _whole(self, definition: Definition) -> Piece:
        """A terminal's alternatives in the order that lark tries them."""
        try:
            branches = _Pieces(self, definition).transform(definition.tree)
        except VisitError as error:
            raise error.orig_exc from None
        return self.alternatives(sorted(branches, key=lambda piece: piece.width))

    def alternatives(self, branches: list[Piece]) -> Piece:
        """Alternatives that are tried in this order."""
        if len(branches) == 1:
            return branches[0]
        preferred: Text = NEVER
        for piece in branches:
            preferred = either(preferred, self._not_behind(piece.preferred, preferred))
        text = either(*(piece.text for piece in branches))
        is_lazy = any(piece.is_lazy for piece in branches)
        varies = any(piece.varies for piece in branches) or (not is_lazy and text.shortest != text.longest)
        size = sum(piece.size for piece in branches)
        return Piece(text, preferred, is_lazy, varies, min(piece.width for piece in branches), size)

    def shortest_words(self, text: Text) -> Text:
        """The words that no shorter word begins."""
        return self._not_behind(text, text)

    def _not_behind(self, text: Text, others: Text) -> Text:
        """The words of `text` that do not begin with a shorter word of `others`."""
        if others is NEVER or (text.longest is not None and text.longest <= others.shortest):
            return text
        longer = seq(others, length(1))
        if is_never(both(text, longer), self.limits, self.tick):
            return text
        return both(text, negate(longer))

    def piece(self, literal: Token) -> Piece:
        """A string or regular expression."""
        value = str(literal)
        end = value.rfind(value[0])
        inner, flags = value[1:end], value[end + 1 :]
        pattern = self._unescaped(inner, literal)
        if not pattern:
            self._fail("a terminal matches some text; this one is empty", literal)
        if value[0] == '"':
            pattern = re.escape(pattern.replace("\\\\", "\\"))
        elif "\n" in inner and "x" not in flags:
            self._fail("a regular expression with a new line needs the flag x", literal)
        if "l" in flags:
            self._fail("the flag l is not supported", literal)
        if "x" in flags:
            pattern = without_blanks(pattern)
        set_flags = "".join(sorted(set(flags) & {"i", "s"}))
        return self._pattern(pattern, f"(?{set_flags}:" if set_flags else "(?:", literal)

    def _pattern(self, pattern: str, opening: str, literal: Token) -> Piece:
        """opening: what a group with the flags in force begins with."""
        found: list[Piece] = []
        for branch in branches_of(pattern):
            text = self._text(f"{opening}{branch})" if opening != "(?:" else branch, literal)
            is_lazy = is_lazy_pattern(branch)
            if is_lazy is None:
                hint = 'for "…" write "[^"]*", not ".*?"'
                self._fail("after a lazy repeat everything has one length", literal, hint)
            preferred = self.shortest_words(text) if is_lazy else self._greedy(branch, opening, text, literal)
            varies = not is_lazy and text.shortest != text.longest
            found.append(Piece(text, preferred, is_lazy, varies, _width(text, len(branch)), len(branch)))
        whole = self.alternatives(found)
        is_open = len(found) > 1 and opening == "(?:"
        return replace(whole, width=_width(whole.text, len(pattern)), is_open=is_open)

    def _greedy(self, branch: str, opening: str, text: Text, literal: Token) -> Text:
        """What a branch prefers, as far as it ends with a group of alternatives."""
        if "|" not in branch:
            return text
        last = last_group(branch)
        if last is None:
            return text
        before, inner, low, high = last
        start = self._text(f"{opening}{before})", literal) if before else EMPTY
        return seq(start, repeat(self._pattern(inner, opening, literal).preferred, low, high))

    def _text(self, pattern: str, literal: Token) -> Text:
        try:
            tree = parse_pattern(pattern, self.limits, self.tick)
        except RegexError as error:
            self._fail(error.message.splitlines()[0], literal, error.hint)
        if not isinstance(tree, Text):
            self._fail("a terminal has no anchors, word boundaries or lookarounds", literal)
        return tree

    def _unescaped(self, text: str, literal: Token) -> str:
        r"""What lark takes a literal to say: `\n \f \t \r \x \u \U` are the characters, all other escapes are kept."""
        doubled = re.sub(r"\\(.)", lambda m: _doubled(m[1]), text, flags=re.DOTALL)
        doubled = doubled.replace('\\"', '"').replace("'", "\\'")
        found: list[str] = []
        at = 0
        while at < len(doubled):
            if doubled[at] != "\\":
                found.append(doubled[at])
                at += 1
                continue
            letter = doubled[at + 1 : at + 2]
            if letter in _HEX_DIGITS:
                digits = doubled[at + 2 : at + 2 + _HEX_DIGITS[letter]]
                if len(digits) < _HEX_DIGITS[letter] or not re.fullmatch("[0-9a-fA-F]+", digits):
                    self._fail(f"expected {_HEX_DIGITS[letter]} hexadecimal digits after \\{letter}", literal)
                if int(digits, 16) > 0x10FFFF:
                    self._fail("a code point is at most U+10FFFF", literal)
                found.append(chr(int(digits, 16)))
                at += 2 + len(digits)
            else:
                found.append(_ESCAPES.get(letter, "\\" + letter))
                at += 2
        return "".join(found)

    def range_end(self, token: Token) -> str:
        """The character at one end of a range."""
        text = self._unescaped(str(token)[1:].rstrip("i")[:-1], token).replace("\\\\", "\\")
        if len(text) != 1:
            self._fail("a range goes from one character to another", token)
        return text

    def _fail(self, message: str, place: Tree[Any] | Token, hint: str | None = None) -> NoReturn:
        raise grammar_error(self.source, position(place), message, FIELD, hint)


class _Pieces(Transformer_NonRecursive[Any, Any]):
    """Bottom up, a list of alternatives for every part of a definition."""

    def __init__(self, terminals: Terminals, definition: Definition) -> None:
        super().__init__(visit_tokens=False)
        self.terminals = terminals
        self.definition = definition

    def expansions(self, branches: list[Any]) -> list[Piece]:
        return [piece for branch in branches for piece in branch]

    def expansion(self, items: list[Any]) -> list[Piece]:
        if len(items) <= 1:
            return self._after_inner(items)[0] if items else [Piece(EMPTY, EMPTY)]
        pieces: list[Piece] = []
        for item in self._after_inner(items):
            piece = self._joined(item)
            if piece.is_open:  # lark would join the texts of the patterns: /a|b/ "c" is /a|bc/ to it
                self._fail("a pattern with alternatives is part of a longer terminal; write /(a|b)/, not /a|b/")
            if piece.varies and any(before.is_lazy for before in pieces):
                self._fail("after a lazy repeat everything has one length")
            pieces.append(piece)
        size = sum(piece.size for piece in pieces)
        if size > self.terminals.limits.states:
            self._fail(f"the terminal is too large; the limit `states` is {self.terminals.limits.states}")
        text = seq(*(piece.text for piece in pieces))
        if any(piece.is_lazy for piece in pieces):
            return [Piece(text, self.terminals.shortest_words(text), True, False, _width(text, 0), size)]
        preferred = seq(*(piece.text for piece in pieces[:-1]), pieces[-1].preferred)
        return [Piece(text, preferred, False, any(piece.varies for piece in pieces), _width(text, 0), size)]

    def alias(self, items: list[Any]) -> NoReturn:
        raise grammar_error(self._source, items[1].start_pos or 0, "a terminal has no alias", FIELD)

    def maybe(self, items: list[Any]) -> list[Piece]:
        return self._repeated(items[0], 0, 1)

    def repeat(self, items: list[Any]) -> list[Piece]:
        low, high = bounds_of(items, self._source)
        return self._repeated(items[0], low, high)

    def terminal(self, items: list[Token]) -> list[Any]:
        if self.terminals.is_inner(items[0], self.definition):
            return [items[0]]
        return [self.terminals.piece_of(items[0], self.definition.scope)]

    def literal(self, items: list[Token]) -> list[Piece]:
        return [self.terminals.piece(items[0])]

    def range(self, items: list[Token]) -> list[Piece]:
        low, high = map(self.terminals.range_end, items)
        if high < low:
            raise grammar_error(self._source, items[0].start_pos or 0, "the range is reversed", FIELD)
        text = chars(((ord(low), ord(high)),))
        return [Piece(text, text, width=_width(text, 5))]

    def nonterminal(self, items: list[Token]) -> NoReturn:
        raise grammar_error(self._source, items[0].start_pos or 0, "a terminal names terminals only", FIELD)

    template_usage = nonterminal

    # ------------------------------------------------------------ parts

    @property
    def _source(self) -> str:
        return self.definition.source

    def _joined(self, branches: list[Piece]) -> Piece:
        """Alternatives inside of a sequence or a repeat."""
        found = self.terminals.alternatives(sorted(branches, key=lambda piece: piece.width))
        if found.is_lazy and found.varies:
            self._fail("lazy repeats do not stand beside other alternatives inside of a terminal")
        return found

    def _repeated(self, branches: list[Piece], low: int, high: int | None) -> list[Piece]:
        piece = self._joined(branches)
        if piece.is_lazy and (low, high) != (1, 1):
            self._fail("a lazy repeat is not repeated")
        text = repeat(piece.text, low, high)
        preferred = repeat(piece.preferred, low, high)
        return [Piece(text, preferred, False, text.shortest != text.longest, _width(text, 0), piece.size)]

    def _after_inner(self, items: list[Any]) -> list[list[Piece]]:
        """The items; `_STRING_ESC_INNER` is what may stand before the quote that follows it."""
        found: list[list[Piece]] = []
        for at, item in enumerate(items):
            if not isinstance(item[0], Token):
                found.append(item)
                continue
            following = items[at + 1] if at + 1 < len(items) else []
            quote = following[0].text if len(following) == 1 and isinstance(following[0], Piece) else NEVER
            if quote is NEVER or (quote.shortest, quote.longest) != (1, 1):
                self._fail(f"{_ESCAPED_INNER} stands before the quote that ends it")
            other = both(_NO_NEW_LINE, negate(either(quote, _BACKSLASH)))
            inner = repeat(either(other, seq(_BACKSLASH, _NO_NEW_LINE)))
            found.append([Piece(inner, inner)])
        return found

    def _fail(self, message: str) -> NoReturn:
        raise grammar_error(self._source, position(self.definition.tree), message, FIELD)


def bounds_of(items: list[Any], source: str) -> tuple[int, int | None]:
    """The counts of a `repeat`: item, operator or `~`, numbers."""
    operator = items[1]
    if operator.type == "OP":
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[str(operator)]
    low, high = int(items[2][:12]), int(items[-1][:12])
    if low < 0 or high < low or high > MAX_COUNT:
        raise grammar_error(source, items[2].start_pos or 0, f"bad bounds {low}..{high}", FIELD)
    return low, high


def _width(text: Text, size: int) -> tuple[float, int, int]:
    longest = float("inf") if text.longest is None else text.longest
    return -longest, -text.shortest, -size


def _doubled(letter: str) -> str:
    if letter == "\\":
        return "\\\\\\\\"
    return "\\" + letter if letter in "Uuxnftr" else "\\\\" + letter


__all__ = ["Definition", "Terminals", "bounds_of", "common_terminals"]
