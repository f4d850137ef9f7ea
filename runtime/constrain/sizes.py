"""`Size`: what a builder knows of a node's texts without looking into it again."""

from __future__ import annotations

from typing import NamedTuple

MANY = 1 << 40  # where sizes stop being counted


class Size(NamedTuple):
    """nullable: it has the empty text (a call is taken not to). shortest: bytes of the shortest text. starts: places
    that a text can begin at. ends: inner places from which the node can be left without a byte."""

    nullable: bool
    shortest: int
    starts: int
    ends: int


def size_of_either(sizes: list[Size]) -> Size:
    """Of any one of several nodes."""
    nullable, shortest, starts, ends = False, MANY, 0, 0
    for size in sizes:
        nullable = nullable or size.nullable
        shortest = min(shortest, size.shortest)
        starts += size.starts
        ends += size.ends
    return Size(nullable, shortest, starts, min(ends, MANY))
