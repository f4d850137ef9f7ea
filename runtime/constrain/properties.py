r"""`\p{…}` of ECMA-262: the general categories, as Python's Unicode database has them, `ASCII`, `Any` and `Assigned`.

Scripts and the other binary properties are not in that database; they are unknown here.
"""

from __future__ import annotations

import sys
import unicodedata
from functools import cache
from itertools import pairwise

import numpy as np

from latticework.runtime.constrain.ranges import complement, union
from latticework.runtime.constrain.rules import Ranges

# PropertyValueAliases.txt, gc: short name, long names
_NAMES = """
L Letter; Lu Uppercase_Letter; Ll Lowercase_Letter; Lt Titlecase_Letter; LC Cased_Letter; Lm Modifier_Letter;
Lo Other_Letter; M Mark Combining_Mark; Mn Nonspacing_Mark; Mc Spacing_Mark; Me Enclosing_Mark; N Number;
Nd Decimal_Number digit; Nl Letter_Number; No Other_Number; P Punctuation punct; Pc Connector_Punctuation;
Pd Dash_Punctuation; Ps Open_Punctuation; Pe Close_Punctuation; Pi Initial_Punctuation; Pf Final_Punctuation;
Po Other_Punctuation; S Symbol; Sm Math_Symbol; Sc Currency_Symbol; Sk Modifier_Symbol; So Other_Symbol; Z Separator;
Zs Space_Separator; Zl Line_Separator; Zp Paragraph_Separator; C Other; Cc Control cntrl; Cf Format; Cs Surrogate;
Co Private_Use; Cn Unassigned
"""
_SHORT = {name: names.split()[0] for names in _NAMES.split(";") for name in names.split()}
_PREFIXES = ("General_Category=", "gc=")


def property_set(name: str) -> Ranges | None:
    """The code points of `\\p{name}`; None where the name is not known."""
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            short = _SHORT.get(name.removeprefix(prefix))
            return None if short is None else _category(short)
    if name in _SHORT:
        return _category(_SHORT[name])
    match name:
        case "ASCII":
            return ((0, 0x7F),)
        case "Any":
            return ((0, sys.maxunicode),)
        case "Assigned":
            return complement(_category("Cn"))
        case _:
            return None


@cache
def _category(short: str) -> Ranges:
    if short == "LC":
        return union((*_category("Lu"), *_category("Ll"), *_category("Lt")))
    if len(short) == 1:
        members = {name for name in _SHORT.values() if len(name) == 2 and name[0] == short and name != "LC"}
        return union(part for name in members for part in _category(name))
    return _two_letter_categories().get(short, ())


@cache
def _two_letter_categories() -> dict[str, Ranges]:
    """All of them at once: what takes long is to ask for each code point."""
    text = "".join(map(unicodedata.category, map(chr, range(sys.maxunicode + 1))))
    codes = np.frombuffer(text.encode(), np.uint16)
    starts = [0, *(np.flatnonzero(codes[1:] != codes[:-1]) + 1).tolist()]
    found: dict[str, list[tuple[int, int]]] = {}
    for start, end in pairwise([*starts, len(codes)]):
        found.setdefault(text[2 * start : 2 * start + 2], []).append((start, end - 1))
    return {name: tuple(ranges) for name, ranges in found.items()}
