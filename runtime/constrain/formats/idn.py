"""Internationalised host names: RFC 5890 to 5893, the part that is certain.

Labels of letters and digits that need no context: of the Basic Multilingual Plane, stable under NFKC and case folding,
without combining marks, in one direction (all left to right, or letters alone from right to left). Labels of at most
11 characters when one is beyond ASCII, because their ASCII form has at most 63. What else is valid is left out;
nothing invalid is in.
"""

from __future__ import annotations

import unicodedata
from functools import cache

from latticework.runtime.constrain.formats.network import hostname
from latticework.runtime.constrain.patterns import from_python
from latticework.runtime.constrain.ranges import union
from latticework.runtime.constrain.rules import Ranges
from latticework.runtime.constrain.text_kinds import Text
from latticework.runtime.constrain.texts import both, chars, either, length, literal, repeat, seq

_JAMO = (range(0x1100, 0x1200), range(0xA960, 0xA980), range(0xD7B0, 0xD800))  # RFC 5892, section 2.9
_VALID_BY_EXCEPTION = ((0xDF, 0xDF), (0x3C2, 0x3C2), (0x3007, 0x3007))  # section 2.6, left to right
_LAST = 0xFFFF
_LONGEST = 11


def idn_hostname() -> Text:
    ascii_letters, digits = ((0x61, 0x7A),), ((0x30, 0x39),)
    rightward, leftward = _letters("L"), _letters("R", "AL")
    letter = chars((*ascii_letters, *rightward))
    inner = chars((*ascii_letters, *digits, *rightward, (0x2D, 0x2D)))
    end = chars((*ascii_letters, *digits, *rightward))
    short = both(_without_double_hyphen(), length(1, _LONGEST))
    mixed = both(seq(end, either(literal(""), seq(repeat(inner), end))), short)
    ordinary = both(seq(letter, either(literal(""), seq(repeat(inner), end))), short)
    backward = repeat(chars(leftward), 1, _LONGEST)
    bidirectional = either(ordinary, backward)  # RFC 5893, section 2: beside such a label, none begins with a digit
    dot = literal(".")

    def name(label: Text) -> Text:
        return seq(label, repeat(seq(dot, label), 0, 3))

    return either(hostname(), name(mixed), name(bidirectional))


def _without_double_hyphen() -> Text:
    return from_python(r"(?s)(?!..--).*")


@cache
def _letters(*directions: str) -> Ranges:
    """The letters beyond ASCII of these bidirectional classes that are valid without context."""
    found = union((point, point) for point, direction in _valid_letters() if direction in directions)
    return union((*found, *_VALID_BY_EXCEPTION)) if "L" in directions else found


@cache
def _valid_letters() -> list[tuple[int, str]]:
    """Each with its bidirectional class."""
    letters = filter(_is_valid_letter, map(chr, range(0x80, _LAST + 1)))
    return [(ord(letter), unicodedata.bidirectional(letter)) for letter in letters]


def _is_valid_letter(character: str) -> bool:
    if unicodedata.category(character) not in ("Ll", "Lo") or any(ord(character) in block for block in _JAMO):
        return False
    return unicodedata.is_normalized("NFKC", character) and character.casefold() == character
