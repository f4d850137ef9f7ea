"""`Excerpt`: a part of rule graphs that is built once and then pasted wherever it is needed.

What many constraints have in common (any string, any number, a character of a class, a standard format) depends on
nothing of theirs, so it is found once a process. A pasted excerpt is the same nodes as if it were built in place.
"""

from __future__ import annotations

import msgspec

from latticework.runtime.constrain.rules import Node
from latticework.runtime.constrain.sizes import Size


class Excerpt(msgspec.Struct, frozen=True, eq=False):
    """nodes: all that were made on the way to `root`, in that order, so that pasting makes the graph that building in
    place would; the first is the empty text, and there are no calls. sizes: of each node. followers, pieces: what they
    count for in a builder's limits."""

    nodes: tuple[Node, ...]
    sizes: tuple[Size, ...]
    root: int
    followers: int
    pieces: int
