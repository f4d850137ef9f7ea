"""JSON strings -> byte expressions.

Any content that JSON allows: characters as UTF-8 or as escapes, an escape counting as the character it stands for.
Surrogate escapes come only in pairs, which count as one character.
"""

from __future__ import annotations

from latticework.runtime.constrain.builder import Builder
from latticework.runtime.constrain.ranges import ANY, subtract
from latticework.runtime.constrain.utf8 import utf8_characters

_MUST_ESCAPE = ((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C))  # controls, the quote, the backslash
_PLAIN = subtract(ANY, _MUST_ESCAPE)
_LETTER_ESCAPES = b'"/\\bfnrt'


def build_string(builder: Builder, low: int, high: int | None) -> int:
    """A JSON string of `low` to `high` characters (code points), quotes included."""
    quote = builder.literal(b'"')
    return builder.sequence([quote, builder.repeat(_character(builder), low, high), quote])


def _character(builder: Builder) -> int:
    """One character between the quotes, plain or escaped."""
    return builder.either(
        [utf8_characters(builder, _PLAIN), builder.sequence([builder.literal(b"\\"), _escape(builder)])]
    )


def _escape(builder: Builder) -> int:
    letters = builder.either([builder.literal(bytes([letter])) for letter in _LETTER_ESCAPES])
    low_surrogate = builder.sequence([builder.literal(b"\\u"), _units(builder, 0xDC, 0xDF)])
    pair = builder.sequence([_units(builder, 0xD8, 0xDB), low_surrogate])
    unit = builder.either([_units(builder, 0x00, 0xD7), _units(builder, 0xE0, 0xFF), pair])
    return builder.either([letters, builder.sequence([builder.literal(b"u"), unit])])


def _units(builder: Builder, first: int, last: int) -> int:
    """Four hexadecimal digits whose first two are a byte from `first` to `last`."""
    branches = []
    for high in range(first >> 4, (last >> 4) + 1):
        bottom = first & 15 if high == first >> 4 else 0
        top = last & 15 if high == last >> 4 else 15
        branches.append(builder.sequence([_hex(builder, high, high), _hex(builder, bottom, top)]))
    two = builder.repeat(_hex(builder, 0, 15), 2, 2)
    return builder.sequence([builder.either(branches), two])


def _hex(builder: Builder, first: int, last: int) -> int:
    characters = {c for digit in range(first, last + 1) for c in (f"{digit:x}", f"{digit:X}")}
    return builder.byte_set(tuple(sorted((ord(c), ord(c)) for c in characters)))
