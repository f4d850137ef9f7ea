"""Sets of code points as sorted, disjoint, inclusive ranges, and the character classes of Python's `re`.

Everything here works on ranges; the few scans over all of Unicode (`\\w`, letter case) happen once per process, at
first use. This file knows nothing of patterns or bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from latticework.runtime.constrain.rules import Ranges

LAST = 0x10FFFF
SURROGATES: Ranges = ((0xD800, 0xDFFF),)


def union(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The ranges sorted, with those that touch merged."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            if high > merged[-1][1]:
                merged[-1] = (merged[-1][0], high)
        else:
            merged.append((low, high))
    return tuple(merged)


def complement(ranges: Ranges) -> Ranges:
    """Every code point not in `ranges`, surrogates included."""
    gaps: list[tuple[int, int]] = []
    start = 0
    for low, high in ranges:
        if low > start:
            gaps.append((start, low - 1))
        start = high + 1
    if start <= LAST:
        gaps.append((start, LAST))
    return tuple(gaps)


def intersect(left: Ranges, right: Ranges) -> Ranges:
    """The code points in both."""
    found: list[tuple[int, int]] = []
    i = j = 0
    while i < len(left) and j < len(right):
        low, high = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if low <= high:
            found.append((low, high))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return tuple(found)


def subtract(left: Ranges, right: Ranges) -> Ranges:
    return intersect(left, complement(right))


ANY: Ranges = complement(SURROGATES)
NOT_NEWLINE: Ranges = subtract(ANY, ((0x0A, 0x0A),))


@cache
def character_class(letter: str) -> Ranges:
    r"""The code points of `\d`, `\w` or `\s`, and of their capitals, as Python's `re` has them on str."""
    if letter.isupper():
        return complement(character_class(letter.lower()))
    runs = re.finditer(rf"\{letter}+", _every_character())
    return tuple((match.start(), match.end() - 1) for match in runs)


@cache
def _every_character() -> str:
    return "".join(map(chr, range(LAST + 1)))


def fold_case(ranges: Ranges) -> Ranges:
    """`ranges` and every code point that `re.IGNORECASE` holds equal to one of them."""
    variants = _case_variants()
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        points = variants.get(ranges[0][0], (ranges[0][0],))
        return union((point, point) for point in points)
    found = list(ranges)
    index = 0
    for point, others in variants.items():
        while index < len(ranges) and ranges[index][1] < point:
            index += 1
        if index == len(ranges):
            break
        if ranges[index][0] <= point:
            found += [(other, other) for other in others]
    return union(found)


@cache
def _case_variants() -> dict[int, tuple[int, ...]]:
    """Code point -> all that `re` matches to it when case is ignored: those with the same simple lower case, or
    whose lower cases have the same upper case. Sorted by code point."""
    groups: dict[str, set[int]] = {}
    for point in range(LAST + 1):
        character = chr(point)
        lower = character.lower()
        if lower == character == character.upper():
            continue
        if len(lower) > 1:  # U+0130 is the only one; its simple lower case is its first character
            lower = lower[0]
        groups.setdefault(lower.upper(), set()).update((point, ord(lower)))
    found = {point: tuple(sorted(group)) for group in groups.values() if len(group) > 1 for point in group}
    return dict(sorted(found.items()))
