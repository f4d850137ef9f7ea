r"""Lark's grammar syntax -> a syntax tree, with lark as the parser.

The grammar below is lark's own (`lark/load_grammar.py`), written for lark's public interface, with patterns that cannot
backtrack for ever. Here a grammar is text and nothing more; what its rules mean is in `lark_grammar.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import lark
from lark import Token, Tree

from latticework.lang.errors import GrammarError
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.grammar import grammar_error

FIELD = "lark"

_SYNTAX = r"""
start: _item+
_item: rule | term | ignore | import | declare | override | extend | _NL

rule: [RULE_MODIFIERS] RULE [template_params] [priority] _COLON expansions _NL
term: TERMINAL [priority] _COLON expansions _NL
template_params: _LBRACE RULE (_COMMA RULE)* _RBRACE
priority: _DOT NUMBER
override: _OVERRIDE (rule | term)
extend: _EXTEND (rule | term)
ignore: _IGNORE expansions _NL
declare: _DECLARE (RULE | TERMINAL)+ _NL
import: _IMPORT path _NL
      | _IMPORT path _LPAR names _RPAR _NL
      | _IMPORT path _TO (RULE | TERMINAL) _NL
path: relative? (RULE | TERMINAL) (_DOT (RULE | TERMINAL))*
relative: _DOT
names: (RULE | TERMINAL) (_COMMA (RULE | TERMINAL))*

expansions: _alias ((_OR | _NL_OR) _alias)*
_alias: expansion | alias
alias: expansion _TO RULE
expansion: _expr*
_expr: _atom | repeat
repeat: _atom OP | _atom TILDE NUMBER | _atom TILDE NUMBER _DOTDOT NUMBER
_atom: _LPAR expansions _RPAR | maybe | _value
maybe: _LBRA expansions _RBRA
_value: terminal | nonterminal | literal | range | template_usage
terminal: TERMINAL
nonterminal: RULE
literal: REGEXP | STRING
range: STRING _DOTDOT STRING
template_usage: RULE _LBRACE _value (_COMMA _value)* _RBRACE

_LPAR: "("
_RPAR: ")"
_LBRA: "["
_RBRA: "]"
_LBRACE: "{"
_RBRACE: "}"
OP: /[+*]|[?](?![a-z_])/
_COLON: ":"
_COMMA: ","
_OR: "|"
_DOT: /\.(?!\.)/
_DOTDOT: ".."
TILDE: "~"
RULE_MODIFIERS: /(!|![?]?|[?]!?)(?=[_a-z])/
RULE: /_?[a-z][_a-z0-9]*/
TERMINAL: /_?[A-Z][_A-Z0-9]*/
STRING: /"(\\[^\n]|[^"\\\n])*"i?/
REGEXP: /\/(?!\/)(\\[^\n]|[^\/\\])*\/[imslux]*/
_NL: /\r?\n\s*/
_NL_OR: /\r?\n\s*\|/
WS: /[ \t]+/
COMMENT: /\s*\/\/[^\n]*|\s*#[^\n]*/
BACKSLASH: /\\[ ]*\n/
_TO: "->"
_IGNORE: "%ignore"
_OVERRIDE: "%override"
_DECLARE: "%declare"
_EXTEND: "%extend"
_IMPORT: "%import"
NUMBER: /[+-]?\d+/

%ignore WS
%ignore COMMENT
%ignore BACKSLASH
"""
_SHOWN = {
    "RULE": "a rule's name", "TERMINAL": "a terminal's name", "STRING": "a string", "REGEXP": "a regular expression",
    "NUMBER": "a number", "OP": "an operator", "TILDE": "~", "RULE_MODIFIERS": "! or ?", "_NL": "a new line",
    "_NL_OR": "|", "_OR": "|", "_LPAR": "(", "_RPAR": ")", "_LBRA": "[", "_RBRA": "]", "_LBRACE": "{", "_RBRACE": "}",
    "_COLON": ":", "_COMMA": ",", "_DOT": ".", "_DOTDOT": "..", "_TO": "->", "_IGNORE": "%ignore",
    "_OVERRIDE": "%override", "_DECLARE": "%declare", "_EXTEND": "%extend", "_IMPORT": "%import",
    "$END": "the end of the grammar",
}  # fmt: skip


@cache
def _parser() -> lark.Lark:
    return lark.Lark(_SYNTAX, parser="lalr", lexer="basic", maybe_placeholders=True)


def parse_lark(text: str, limits: Limits, tick: Callable[[], None]) -> Tree[Any]:
    """The statements of a grammar as a tree; tokens know their positions. tick: called for every token; may raise to
    stop. Raises GrammarError."""
    depth = 0
    try:
        interactive = _parser().parse_interactive(text + "\n")
        for token in interactive.iter_parse():
            tick()
            if token.type in ("_LPAR", "_LBRA"):
                depth += 1
                if depth > limits.depth:
                    _fail(text, token.start_pos, f"groups nest too deep; the limit `depth` is {limits.depth}")
            elif token.type in ("_RPAR", "_RBRA"):
                depth -= 1
        found = interactive.feed_eof()
    except lark.exceptions.UnexpectedCharacters as error:
        place = error.pos_in_stream or 0
        _fail(text, place, f"unexpected {text[place : place + 1]!r}")
    except lark.exceptions.UnexpectedToken as error:
        token = error.token
        got = repr(str(token)) if str(token).strip() else _SHOWN.get(token.type, "end of line")
        place = token.start_pos if token.start_pos is not None and token.type != "$END" else len(text)
        _fail(text, place, f"unexpected {got}", _expected(error.expected))
    assert isinstance(found, Tree)
    return found


def _expected(kinds: Iterable[str]) -> str:
    shown = sorted({_SHOWN.get(kind, kind) for kind in kinds})
    return f"expected one of: {'  '.join(shown)}"


def _fail(text: str, position: int | None, message: str, hint: str | None = None) -> None:
    raise grammar_error(text, position or 0, message, FIELD, hint)


def position(part: Tree[Any] | Token) -> int:
    """Where a part of the tree begins."""
    work: list[Any] = [part]
    while work:
        part = work.pop()
        if isinstance(part, Token):
            return part.start_pos or 0
        if isinstance(part, Tree):
            work += reversed(part.children)
    return 0


__all__ = ["FIELD", "GrammarError", "parse_lark", "position"]
