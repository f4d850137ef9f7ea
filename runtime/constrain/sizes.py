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
