"""JSON numbers between exact bounds -> byte expressions.

Written numbers are bounded in length, so none goes on for ever and each parses to a finite double:

- integers: at most 15 digits, or as many as a bound has plus one; never `-0`, never a fraction or an exponent;
- numbers without bounds: at most 15 integer digits, 15 fraction digits and a two-digit exponent;
- numbers with a bound: no exponent, at most 15 significant digits together, so that a decimal comparison with a
  bound and a validator's comparison of doubles always agree (15 digits survive the round trip).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor

from latticework.runtime.constrain.builder import EMPTY, NEVER, Builder

DIGITS = 15  # significant digits that a double keeps
_OPEN_INTEGER_DIGITS = 9  # before the point, in a fraction with a side left open


@dataclass(frozen=True, slots=True)
class Bounds:
    """low <= x <= high, with < in place of <= where the side is exclusive; None is no bound."""

    low: Fraction | None = None
    high: Fraction | None = None
    low_exclusive: bool = False
    high_exclusive: bool = False

    @property
    def is_open(self) -> bool:
        return self.low is None and self.high is None


def exact(value: int | float) -> Fraction:
    """A bound as validators compare with it. A float stands for its shortest decimal, which a text of at most
    DIGITS digits is on the same side of as the double it is read as; from 2**53 on only integers are written, which
    are compared with the double itself."""
    if isinstance(value, int) or abs(value) >= 2**53:
        return Fraction(value)
    return Fraction(Decimal(repr(value)))


def build_integer(builder: Builder, bounds: Bounds) -> int:
    """Every integer within the bounds, as far as the digits go."""
    low, high = _whole_bounds(bounds, 1)
    most = max((len(str(abs(bound))) + 1 for bound in (low, high) if bound is not None), default=0)
    furthest = 10 ** max(DIGITS, most) - 1
    return _integers(builder, -furthest if low is None else low, furthest if high is None else high)


def build_number(builder: Builder, bounds: Bounds) -> int:
    """Every number within the bounds, as far as the digits go."""
    if bounds.is_open:
        return _any_number(builder)
    integers = build_integer(builder, bounds)
    sides = [abs(side) for side in (bounds.low, bounds.high) if side is not None]
    largest = max(floor(side) for side in sides)
    if bounds.low is None or bounds.high is None:
        largest = max(largest * 10, 10**_OPEN_INTEGER_DIGITS - 1)
    places = DIGITS - len(str(largest))
    if places < 1:
        return integers
    unit = 10**places
    low, high = _whole_bounds(bounds, unit)
    furthest = (largest + 1) * unit - 1
    low = -furthest if low is None else low
    high = furthest if high is None else high
    positive = _decimals(builder, max(low, 0), high, places)
    negative = _decimals(builder, max(-high, 1), -low, places)
    return builder.either([integers, positive, builder.sequence([builder.literal(b"-"), negative])])


def _whole_bounds(bounds: Bounds, unit: int) -> tuple[int | None, int | None]:
    """The bounds of x * unit as integers, both included."""
    low = high = None
    if bounds.low is not None:
        low = floor(bounds.low * unit) + 1 if bounds.low_exclusive else ceil(bounds.low * unit)
    if bounds.high is not None:
        high = ceil(bounds.high * unit) - 1 if bounds.high_exclusive else floor(bounds.high * unit)
    return low, high


def _any_number(builder: Builder) -> int:
    digits = _digits(builder, 0, 9)
    whole = builder.either(
        [
            builder.literal(b"0"),
            builder.sequence([_digits(builder, 1, 9), builder.repeat(digits, 0, DIGITS - 1)]),
        ]
    )
    fraction = builder.sequence([builder.literal(b"."), builder.repeat(digits, 1, DIGITS)])
    sign = builder.byte_set(((0x2B, 0x2B), (0x2D, 0x2D)))
    mark = builder.byte_set(((0x45, 0x45), (0x65, 0x65)))
    exponent = builder.sequence([mark, builder.optional(sign), builder.repeat(digits, 1, 2)])
    minus = builder.optional(builder.literal(b"-"))
    return builder.sequence([minus, whole, builder.optional(fraction), builder.optional(exponent)])


# ---------------------------------------------------------------- integers


def _integers(builder: Builder, low: int, high: int) -> int:
    """low to high, both included."""
    branches = [_naturals(builder, max(low, 0), high)]
    if low < 0:
        negative = _naturals(builder, max(-high, 1), -low)
        branches.append(builder.sequence([builder.literal(b"-"), negative]))
    return builder.either(branches)


def _naturals(builder: Builder, low: int, high: int) -> int:
    """low to high without leading zeros; NEVER when high < low."""
    if high < low:
        return NEVER
    branches = []
    for length in range(len(str(low)), len(str(high)) + 1):
        first = max(low, 10 ** (length - 1) if length > 1 else 0)
        last = min(high, 10**length - 1)
        branches.append(_same_length(builder, str(first), str(last)))
    return builder.either(branches)


def _same_length(builder: Builder, low: str, high: str) -> int:
    """The digit strings from low to high, all of their one length."""
    builder.tick()
    shared = 0
    while shared < len(low) and low[shared] == high[shared]:
        shared += 1
    prefix = builder.literal(low[:shared].encode())
    if shared == len(low):
        return prefix
    a, b = int(low[shared]), int(high[shared])
    rest = len(low) - shared - 1
    branches = [
        builder.sequence([_digits(builder, a, a), _at_least(builder, low[shared + 1 :])]),
        builder.sequence([_digits(builder, b, b), _at_most(builder, high[shared + 1 :])]),
        builder.sequence([_digits(builder, a + 1, b - 1), _any_digits(builder, rest)]),
    ]
    return builder.sequence([prefix, builder.either(branches)])


def _at_least(builder: Builder, low: str) -> int:
    """Digit strings of the same length, not below `low`."""
    node = EMPTY
    for place in range(len(low) - 1, -1, -1):
        digit = int(low[place])
        above = builder.sequence([_digits(builder, digit + 1, 9), _any_digits(builder, len(low) - place - 1)])
        node = builder.either([builder.sequence([_digits(builder, digit, digit), node]), above])
    return node


def _at_most(builder: Builder, high: str) -> int:
    """Digit strings of the same length, not above `high`."""
    node = EMPTY
    for place in range(len(high) - 1, -1, -1):
        digit = int(high[place])
        below = builder.sequence([_digits(builder, 0, digit - 1), _any_digits(builder, len(high) - place - 1)])
        node = builder.either([builder.sequence([_digits(builder, digit, digit), node]), below])
    return node


# ---------------------------------------------------------------- decimals


def _decimals(builder: Builder, low: int, high: int, places: int) -> int:
    """Non-negative decimals with a point and 1 to `places` digits behind it, from low / 10**places to
    high / 10**places; NEVER when high < low."""
    if high < low:
        return NEVER
    unit = 10**places
    (first, above), (last, below) = divmod(low, unit), divmod(high, unit)
    low_tail, high_tail = f"{above:0{places}d}", f"{below:0{places}d}"
    if first == last:
        return _with_point(builder, builder.literal(str(first).encode()), _tail_between(builder, low_tail, high_tail))
    return builder.either(
        [
            _with_point(builder, builder.literal(str(first).encode()), _tail_from(builder, low_tail)),
            _with_point(builder, _naturals(builder, first + 1, last - 1), _some_digits(builder, 1, places)),
            _with_point(builder, builder.literal(str(last).encode()), _tail_to(builder, high_tail)),
        ]
    )


def _with_point(builder: Builder, whole: int, tail: int) -> int:
    return builder.sequence([whole, builder.literal(b"."), tail])


def _tail_from(builder: Builder, low: str) -> int:
    """1 to len(low) digits that, filled up with zeros, are not below `low`."""
    node = NEVER  # nothing is wanting: what was written must already be enough
    for place, digit in _from_the_end(low):
        left = len(low) - place - 1
        above = builder.sequence([_digits(builder, digit + 1, 9), _some_digits(builder, 0, left)])
        if not low[place + 1 :].strip("0"):  # only zeros remain, which need not be written
            node = _some_digits(builder, 0, left)
        node = builder.either([above, builder.sequence([_digits(builder, digit, digit), node])])
    return node


def _tail_to(builder: Builder, high: str) -> int:
    """1 to len(high) digits that, filled up with zeros, are not above `high`."""
    node = EMPTY
    for place, digit in _from_the_end(high):
        below = builder.sequence([_digits(builder, 0, digit - 1), _some_digits(builder, 0, len(high) - place - 1)])
        same = builder.sequence(
            [_digits(builder, digit, digit), node if place == len(high) - 1 else builder.optional(node)]
        )
        node = builder.either([below, same])
    return node


def _tail_between(builder: Builder, low: str, high: str) -> int:
    """1 to len(low) digits that, filled up with zeros, lie from `low` to `high`."""
    shared = 0
    while shared < len(low) and low[shared] == high[shared]:
        shared += 1
    if shared == len(low):
        return _written_short(builder, low)
    a, b = int(low[shared]), int(high[shared])
    rest = len(low) - shared - 1
    low_rest, high_rest = low[shared + 1 :], high[shared + 1 :]
    from_low = _tail_from(builder, low_rest) if rest else EMPTY
    if not low_rest.strip("0"):
        from_low = _some_digits(builder, 0, rest)
    to_high = builder.optional(_tail_to(builder, high_rest)) if rest else EMPTY
    branch = builder.either(
        [
            builder.sequence([_digits(builder, a, a), from_low]),
            builder.sequence([_digits(builder, a + 1, b - 1), _some_digits(builder, 0, rest)]),
            builder.sequence([_digits(builder, b, b), to_high]),
        ]
    )
    whole = builder.sequence([builder.literal(low[:shared].encode()), branch])
    if shared and not low[shared:].strip("0"):  # the shared part alone already reaches `low`
        whole = builder.either([whole, _written_short(builder, low[:shared])])
    return whole


def _written_short(builder: Builder, digits: str) -> int:
    """`digits` with any number of its final zeros left out, at least one digit."""
    kept = digits.rstrip("0") or "0"
    return builder.sequence(
        [builder.literal(kept.encode()), builder.repeat(builder.literal(b"0"), 0, len(digits) - len(kept))]
    )


def _from_the_end(digits: str) -> Iterator[tuple[int, int]]:
    for place in range(len(digits) - 1, -1, -1):
        yield place, int(digits[place])


# ---------------------------------------------------------------- digits


def _digits(builder: Builder, low: int, high: int) -> int:
    """One digit from low to high; NEVER when there is none."""
    return builder.byte_set(((0x30 + low, 0x30 + high),)) if low <= high else NEVER


def _any_digits(builder: Builder, count: int) -> int:
    return builder.repeat(_digits(builder, 0, 9), count, count)


def _some_digits(builder: Builder, low: int, high: int) -> int:
    return builder.repeat(_digits(builder, 0, 9), low, high)
