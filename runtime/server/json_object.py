"""`response_format: json_object`: any JSON object, as a regular expression.

JSON nests without end and a regular expression does not, so nesting is bounded: an object whose values are
scalars, or arrays and objects down to DEPTH levels in all. Whitespace is compact, as everywhere.
"""

from __future__ import annotations

from functools import cache

from latticework.lang.ir import Regex

DEPTH = 3

_HEX = "[0-9a-fA-F]"
_UNIT = rf"(?:[0-9a-ce-fA-CE-F]{_HEX}{{3}}|[dD][0-7]{_HEX}{{2}})"  # no half of a surrogate pair
_STRING = rf'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u{_UNIT}))*"'
_NUMBER = r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?(?:[eE][+-]?[0-9]{1,2})?"
_SCALAR = rf"{_STRING}|{_NUMBER}|true|false|null"


@cache
def json_object() -> Regex:
    """Objects nested at most DEPTH deep."""
    return Regex(_object(DEPTH))


def _object(depth: int) -> str:
    member = rf"{_STRING}:(?:{_value(depth - 1)})"
    return rf"\{{(?:{member}(?:,{member})*)?\}}"


def _value(depth: int) -> str:
    if depth == 0:
        return _SCALAR
    item = rf"(?:{_value(depth - 1)})"
    return rf"{_SCALAR}|{_object(depth)}|\[(?:{item}(?:,{item})*)?\]"
