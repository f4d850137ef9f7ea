"""Sets of numbers: unions of intervals, each of which may hold only multiples, or only what is no multiple.

Exact in fractions. How a number is written is not known here, but for `is_plain`.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from math import ceil, floor, gcd, lcm

import msgspec

WHOLE = Fraction(1)


def exact(value: int | float) -> Fraction:
    """A bound as validators compare with it. A float stands for its shortest decimal, which a text is on the same
    side of as the double it is read as, or equal to; from 2**53 on it stands for the double itself, because integers
    are compared with that."""
    if isinstance(value, int) or abs(value) >= 2**53:
        return Fraction(value)
    return Fraction(Decimal(repr(value)))


class Numbers(msgspec.Struct, frozen=True):
    """The numbers from `low` to `high` that are multiples of all `multiples` and of none of `others`; None is no
    bound. is_plain: written without a point (draft 4 tells 1 from 1.0)."""

    low: Fraction | None = None
    high: Fraction | None = None
    low_exclusive: bool = False
    high_exclusive: bool = False
    multiples: frozenset[Fraction] = frozenset()
    others: frozenset[Fraction] = frozenset()
    is_plain: bool = False

    @property
    def is_whole(self) -> bool:
        return any(multiple.denominator == 1 for multiple in self.multiples)

    @property
    def step(self) -> Fraction | None:
        """The least number that is a multiple of all `multiples`."""
        if not self.multiples:
            return None
        numerators = lcm(*(multiple.numerator for multiple in self.multiples))
        return Fraction(numerators, gcd(*(multiple.denominator for multiple in self.multiples)))

    @property
    def is_point(self) -> bool:
        """One number alone."""
        return self.low is not None and self.low == self.high

    def has(self, value: Fraction) -> bool:
        if self.low is not None and (value < self.low or (value == self.low and self.low_exclusive)):
            return False
        if self.high is not None and (value > self.high or (value == self.high and self.high_exclusive)):
            return False
        return all((value / step).denominator == 1 for step in self.multiples) and not any(
            (value / step).denominator == 1 for step in self.others
        )


ALL_NUMBERS: tuple[Numbers, ...] = (Numbers(),)


def point(value: Fraction) -> tuple[Numbers, ...]:
    return (Numbers(value, value),)


def all_but(value: Fraction) -> tuple[Numbers, ...]:
    return (Numbers(high=value, high_exclusive=True), Numbers(low=value, low_exclusive=True))


def meet_numbers(a: tuple[Numbers, ...], b: tuple[Numbers, ...]) -> tuple[Numbers, ...]:
    """What is in both."""
    if a is ALL_NUMBERS or b is ALL_NUMBERS:
        return b if a is ALL_NUMBERS else a
    found: dict[Numbers, None] = {}
    for one in a:
        for other in b:
            numbers = _meet(one, other)
            if not is_never(numbers):
                found[numbers] = None
    return tuple(found)


def join_numbers(a: tuple[Numbers, ...], b: tuple[Numbers, ...]) -> tuple[Numbers, ...]:
    """What is in either."""
    if a is ALL_NUMBERS or b is ALL_NUMBERS:
        return ALL_NUMBERS
    return tuple(dict.fromkeys((*a, *b))) if a and b else a or b


def _meet(a: Numbers, b: Numbers) -> Numbers:
    low, low_exclusive = a.low, a.low_exclusive
    if b.low is not None and (low is None or b.low >= low):
        low_exclusive = b.low_exclusive or (low_exclusive and b.low == low)
        low = b.low
    high, high_exclusive = a.high, a.high_exclusive
    if b.high is not None and (high is None or b.high <= high):
        high_exclusive = b.high_exclusive or (high_exclusive and b.high == high)
        high = b.high
    multiples, others = a.multiples | b.multiples, a.others | b.others
    return Numbers(low, high, low_exclusive, high_exclusive, multiples, others, a.is_plain or b.is_plain)


def is_never(numbers: Numbers) -> bool:
    """Whether surely no number is left."""
    step = numbers.step
    if step is not None and any((step / other).denominator == 1 for other in numbers.others):
        return True
    low, high = numbers.low, numbers.high
    if low is None or high is None:
        return False
    if low == high:
        return not numbers.has(low)
    if step is None:
        return low > high
    first = floor(low / step) + 1 if numbers.low_exclusive else ceil(low / step)
    last = ceil(high / step) - 1 if numbers.high_exclusive else floor(high / step)
    return first > last
