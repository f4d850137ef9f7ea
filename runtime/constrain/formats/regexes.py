r"""Regular expressions: ECMA-262, chapter 22.2, the part that is certainly valid, with the `u` flag and without.

Groups nest at most `_DEPTH` deep; ranges in classes are those of digits, or begin or end an alphabet; backreferences,
names and lookbehind are left out. What is in is valid in Python's `re` too.
"""

from __future__ import annotations

from string import digits

from latticework.runtime.constrain.patterns import from_python
from latticework.runtime.constrain.text_kinds import EMPTY, Text
from latticework.runtime.constrain.texts import either, literal, repeat, seq

_DEPTH = 3


def regex() -> Text:
    escape = from_python(
        r"\\(?:[dDwWsSfnrtv^$\\.*+?()\[\]{}|/]|x[0-9A-Fa-f]{2}|u(?:[0-9A-Ca-cE-Fe-f][0-9A-Fa-f]|[Dd][0-7])[0-9A-Fa-f]{2})"
    )
    atom = either(from_python(r"[^\\^$.*+?()\[\]{}|\n\r\u2028\u2029]|\."), escape, _character_class(escape))
    assertion = from_python(r"\^|\$|\\b|\\B")
    expression = EMPTY
    for _ in range(_DEPTH + 1):
        group = _group(expression, "(", "(?:") if expression is not EMPTY else None
        ahead = _group(expression, "(?=", "(?!") if expression is not EMPTY else None
        repeated = either(atom, group) if group else atom
        term = either(seq(repeated, _quantifier()), assertion, *([ahead] if ahead else []))
        branch = repeat(term)
        expression = seq(branch, repeat(seq(literal("|"), branch)))
    return expression


def _group(inner: Text, *openings: str) -> Text:
    return seq(either(*map(literal, openings)), inner, literal(")"))


def _character_class(escape: Text) -> Text:
    ranges = [from_python(f"{low}-[{low}-9]") for low in digits]
    for first, last in ("AZ", "az"):
        ranges += (from_python(f"{first}-[{first}-{last}]"), from_python(f"[{first}-{last}]-{last}"))
    item = either(from_python(r"[^\\\[\]^&~|\-\n\r\u2028\u2029]"), escape, *ranges)
    return seq(literal("["), from_python(r"\^?-?"), repeat(item, 1), from_python(r"-?\]"))


def _quantifier() -> Text:
    ordered = "|".join(f"{low},[{low}-9]" for low in range(10))
    counted = from_python(rf"\{{(?:[0-9]+,?|[0-9],[1-9][0-9]|{ordered})\}}")
    return either(EMPTY, seq(either(from_python(r"[*+?]"), counted), from_python(r"\??")))
