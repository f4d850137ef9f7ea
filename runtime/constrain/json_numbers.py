"""Sets of JSON numbers -> byte expressions.

Written numbers are bounded in length, so none goes on for ever and each parses to a finite double:

- integers: at most 60 digits, or as many as a bound has plus one; never `-0`;
- with a point: at most 17 digits before it and 21 behind it, which is what a double can need;
- with an exponent: as Python writes doubles (`1.5e+300`, `1e-07`), and where there is no bound any of two digits.

Numbers with a point or an exponent are read as doubles. Rounding keeps order, so a text that is not below the decimal
of a double is not below that double: bounds are doubles first, exclusive ones the next double, and then exact decimals.
Multiples and their opposite are in `json_multiples.py`.
"""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from functools import cache
from math import ceil, floor

from latticework.runtime.constrain.builder import NEVER, Builder, excerpt
from latticework.runtime.constrain.excerpts import Excerpt
from latticework.runtime.constrain.json_decimals import decimals, digits, naturals, some_digits
from latticework.runtime.constrain.json_multiples import build_multiples
from latticework.runtime.constrain.json_number_sets import WHOLE, Numbers

_USUAL_BOUNDS = (None, 0, 1)  # numbers from here on without an end are built once a process
DIGITS = 60  # of an integer without bounds
PLACES = 21  # behind the point
_WHOLE_DIGITS = 17  # before the point
_SCIENTIFIC = 10**16  # from here on doubles are written with an exponent
_LARGEST_EXPONENT, _SMALLEST_EXPONENT = 307, -323
_SMALL_EXPONENT = -5  # from here downward too


def build_numbers(builder: Builder, numbers: Numbers, *, has_whole_floats: bool, is_single: bool) -> int:
    """The texts of `numbers`. has_whole_floats: 1 may be written 1.0. is_single: each number in one way alone."""
    is_usual = numbers.low in _USUAL_BOUNDS and numbers.high is None
    if is_usual and not numbers.others and numbers.multiples in (frozenset(), frozenset((WHOLE,))):
        return builder.paste(_usual_numbers(numbers, has_whole_floats, is_single))
    return _build(builder, numbers, has_whole_floats, is_single)


@cache
def _usual_numbers(numbers: Numbers, has_whole_floats: bool, is_single: bool) -> Excerpt:
    return excerpt(lambda builder: _build(builder, numbers, has_whole_floats, is_single))


def _build(builder: Builder, numbers: Numbers, has_whole_floats: bool, is_single: bool) -> int:
    has_whole_floats = has_whole_floats and not numbers.is_plain and not is_single
    if numbers.is_point and numbers.low is not None:
        return _point(builder, numbers.low, has_whole_floats, is_single) if numbers.has(numbers.low) else NEVER
    is_whole = numbers.multiples == {WHOLE}
    is_bounded = numbers.low is not None or numbers.high is not None
    if numbers.others or not (is_whole or not numbers.multiples) or (is_single and is_bounded and not is_whole):
        return build_multiples(builder, numbers, has_whole_floats=has_whole_floats, is_single=is_single)
    whole = _integers(builder, numbers)
    if is_whole:
        if has_whole_floats:
            whole = builder.sequence([whole, builder.optional(builder.literal(b".0"))])
            whole = builder.either([whole, _scientific(builder, numbers, is_whole=True)])
        return whole
    if is_single:
        fraction = builder.sequence([builder.literal(b"."), some_digits(builder, 0, PLACES - 1), digits(builder, 1, 9)])
        minus = builder.optional(builder.literal(b"-"))
        small = naturals(builder, 0, 10**_WHOLE_DIGITS - 1)
        return builder.either([whole, builder.sequence([minus, small, fraction])])
    if not is_bounded:
        return _any_number(builder)
    return builder.either([whole, *_fractions(builder, numbers), _scientific(builder, numbers, is_whole=False)])


def _point(builder: Builder, value: Fraction, has_whole_floats: bool, is_single: bool) -> int:
    texts: dict[str, None] = {}
    if value.denominator == 1:
        texts[str(value.numerator)] = None
        if has_whole_floats and abs(value) < _SCIENTIFIC:
            texts[f"{value.numerator}.0"] = None
    else:
        texts[f"{Decimal(value.numerator) / Decimal(value.denominator):f}"] = None
    is_written = value.denominator != 1 or has_whole_floats
    if is_written and not is_single and abs(value) < 10**300 and Fraction(Decimal(repr(float(value)))) == value:
        texts[repr(float(value))] = None
    return builder.either([builder.literal(text.encode()) for text in texts])


def _any_number(builder: Builder) -> int:
    digit = digits(builder, 0, 9)
    large = builder.sequence([digits(builder, 1, 9), builder.repeat(digit, 0, DIGITS - 1)])
    whole = builder.either([builder.literal(b"0"), large])
    fraction = builder.sequence([builder.literal(b"."), builder.repeat(digit, 1, 2 * PLACES)])
    sign = builder.optional(builder.byte_set(((0x2B, 0x2B), (0x2D, 0x2D))))
    mark = builder.byte_set(((0x45, 0x45), (0x65, 0x65)))
    exponent = builder.sequence([mark, sign, builder.repeat(digit, 1, 2)])
    minus = builder.optional(builder.literal(b"-"))
    short = builder.sequence([whole, builder.optional(fraction), builder.optional(exponent)])
    hundreds = builder.sequence([mark, sign, naturals(builder, 100, _LARGEST_EXPONENT)])
    long = builder.sequence([digits(builder, 1, 9), builder.optional(fraction), hundreds])
    return builder.sequence([minus, builder.either([short, long])])


# ---------------------------------------------------------------- integers


def _integers(builder: Builder, numbers: Numbers) -> int:
    low, high = numbers.low, numbers.high
    first = last = None
    if low is not None:
        first = floor(low) + 1 if numbers.low_exclusive else ceil(low)
    if high is not None:
        last = ceil(high) - 1 if numbers.high_exclusive else floor(high)
    most = max((len(str(abs(bound))) + 1 for bound in (first, last) if bound is not None), default=0)
    furthest = 10 ** max(DIGITS, most) - 1
    first, last = -furthest if first is None else first, furthest if last is None else last
    branches = [naturals(builder, max(first, 0), last)]
    if first < 0:
        negative = naturals(builder, max(-last, 1), -first)
        branches.append(builder.sequence([builder.literal(b"-"), negative]))
    return builder.either(branches)


# ---------------------------------------------------------------- doubles


def _float_bounds(numbers: Numbers) -> tuple[Fraction | None, Fraction | None]:
    """The bounds of texts that are read as doubles, both included."""
    low = high = None
    if numbers.low is not None:
        low = _decimal(_double_from(numbers.low, numbers.low_exclusive))
    if numbers.high is not None:
        high = -_decimal(_double_from(-numbers.high, numbers.high_exclusive))
    return low, high


def _double_from(value: Fraction, is_exclusive: bool) -> float:
    """The least double that is not below `value`, or above it."""
    double = float(value)
    nearest = Fraction(Decimal(repr(double))) if abs(value) < 2**53 else Fraction(double)
    return math.nextafter(double, math.inf) if nearest < value or (is_exclusive and nearest == value) else double


def _decimal(double: float) -> Fraction:
    return Fraction(Decimal(repr(double)))


def _fractions(builder: Builder, numbers: Numbers) -> list[int]:
    """Numbers with a point."""
    low, high = _float_bounds(numbers)
    unit = 10**PLACES
    furthest = 10**_WHOLE_DIGITS * unit - 1
    first = -furthest if low is None else max(ceil(low * unit), -furthest)
    last = furthest if high is None else min(floor(high * unit), furthest)
    found = [decimals(builder, max(first, 0), last, PLACES)] if last >= 0 else []
    if first < 0:
        negative = decimals(builder, max(-last, 1), -first, PLACES)
        found.append(builder.sequence([builder.literal(b"-"), negative]))
    if first <= 0 <= last:
        found.append(builder.literal(b"-0.0"))
    return found


def _scientific(builder: Builder, numbers: Numbers, *, is_whole: bool) -> int:
    """Doubles with an exponent, as Python writes them. is_whole: only those that are surely whole."""
    low, high = _float_bounds(numbers)
    positive = _magnitudes(builder, low, high, is_whole)
    negative = _magnitudes(builder, None if high is None else -high, None if low is None else -low, is_whole)
    return builder.either([positive, builder.sequence([builder.literal(b"-"), negative])])


def _magnitudes(builder: Builder, low: Fraction | None, high: Fraction | None, is_whole: bool) -> int:
    """Positive numbers from `low` to `high`, with exponents that are far from 0."""
    low = None if low is None or low <= 0 else low
    if high is not None and high <= 0:
        return NEVER
    branches: list[int] = []
    ranges = [(16, _LARGEST_EXPONENT)] if is_whole else [(_SMALLEST_EXPONENT, _SMALL_EXPONENT), (16, _LARGEST_EXPONENT)]
    bottom = None if low is None else _exponent(low)
    top = None if high is None else _exponent(high)
    for first, last in ranges:
        inner_first = first if bottom is None else max(first, bottom + 1)
        inner_last = last if top is None else min(last, top - 1)
        if inner_first <= inner_last:
            branches.append(
                builder.sequence([_mantissas(builder, None, None), _exponents(builder, inner_first, inner_last)])
            )
        for edge in {edge for edge in (bottom, top) if edge is not None and first <= edge <= last}:
            scale = Fraction(10) ** edge
            from_low = low / scale if low is not None and edge == bottom else None
            to_high = high / scale if high is not None and edge == top else None
            branches.append(builder.sequence([_mantissas(builder, from_low, to_high), _exponents(builder, edge, edge)]))
    return builder.either(branches)


def _exponent(value: Fraction) -> int:
    guess = len(str(value.numerator)) - len(str(value.denominator))
    return guess if Fraction(10) ** guess <= value else guess - 1


def _mantissas(builder: Builder, low: Fraction | None, high: Fraction | None) -> int:
    """From `low` to `high`, by default all that are at least 1 and below 10."""
    unit = 10**PLACES
    if low is None and high is None:
        fraction = builder.sequence([builder.literal(b"."), some_digits(builder, 1, PLACES)])
        return builder.sequence([digits(builder, 1, 9), builder.optional(fraction)])
    first = unit if low is None else ceil(low * unit)
    last = 10 * unit - 1 if high is None else floor(high * unit)
    whole = naturals(builder, -(-first // unit), last // unit)
    return builder.either([whole, decimals(builder, first, last, PLACES)])


def _exponents(builder: Builder, first: int, last: int) -> int:
    """At least two digits after the sign."""
    sign, low, high = (b"e+", first, last) if first > 0 else (b"e-", -last, -first)
    zero = builder.literal(b"0")
    single = builder.sequence([zero, naturals(builder, low, min(high, 9))]) if low < 10 else NEVER
    rest = naturals(builder, max(low, 10), high)
    return builder.sequence([builder.literal(sign), builder.either([single, rest])])
