"""Ranges of code points -> byte expressions in UTF-8.

The expression is deterministic and shares equal tails, so a class of 700 ranges stays small. Surrogates have no
UTF-8 form and are left out.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

from latticework.runtime.constrain.builder import NEVER, Builder, excerpt
from latticework.runtime.constrain.excerpts import Excerpt
from latticework.runtime.constrain.ranges import SURROGATES, intersect, subtract
from latticework.runtime.constrain.rules import Ranges

# (first code point, last code point, first byte of code point 0, number of bytes that follow)
_LENGTHS = ((0, 0x7F, 0x00, 0), (0x80, 0x7FF, 0xC0, 1), (0x800, 0xFFFF, 0xE0, 2), (0x10000, 0x10FFFF, 0xF0, 3))

Plan: TypeAlias = tuple[tuple[Ranges, "Plan"], ...]  # sets of first bytes, each with what follows; empty at the end


def utf8_characters(builder: Builder, ranges: Ranges) -> int:
    """The node for one character out of `ranges`; NEVER when there is none."""
    plan = _plan(ranges)
    return builder.paste(_excerpt(ranges)) if plan else NEVER


@lru_cache(maxsize=256)
def _excerpt(ranges: Ranges) -> Excerpt:
    return excerpt(lambda builder: _build(builder, _plan(ranges), {}))


def _build(builder: Builder, plan: Plan, known: dict[Plan, int]) -> int:
    node = known.get(plan)
    if node is None:
        builder.tick()
        branches = []
        for heads, tail in plan:
            first = builder.byte_set(heads)
            branches.append(builder.sequence([first, _build(builder, tail, known)]) if tail else first)
        node = known[plan] = branches[0] if len(branches) == 1 else builder.either(branches)
    return node


@lru_cache(maxsize=256)
def _plan(ranges: Ranges) -> Plan:
    ranges = subtract(ranges, SURROGATES)
    found: list[tuple[Ranges, Plan]] = []
    for first, last, lead, following in _LENGTHS:
        part = intersect(ranges, ((first, last),))
        if part:
            found += _bytes(part, lead, following)
    return tuple(found)


def _bytes(values: Ranges, lead: int, following: int) -> Plan:
    """One byte `lead + (value >> 6 * following)`, then the bytes of the value's remainder."""
    if following == 0:
        return ((tuple((lead + low, lead + high) for low, high in values), ()),)
    size = 1 << (6 * following)
    whole: Ranges = ((0, size - 1),)
    tails: dict[Ranges, list[tuple[int, int]]] = {}  # what may follow -> the lead bytes it may follow
    partial: dict[int, list[tuple[int, int]]] = {}
    for low, high in values:
        head, last = low // size, high // size
        if head == last:
            partial.setdefault(head, []).append((low % size, high % size))
            continue
        if low % size:
            partial.setdefault(head, []).append((low % size, size - 1))
            head += 1
        if (high + 1) % size:
            partial.setdefault(last, []).append((0, high % size))
            last -= 1
        if head <= last:
            tails.setdefault(whole, []).append((head, last))
    for head, parts in partial.items():
        tails.setdefault(tuple(parts), []).append((head, head))
    return tuple(
        (tuple((lead + low, lead + high) for low, high in sorted(heads)), _bytes(tail, 0x80, following - 1))
        for tail, heads in tails.items()
    )
