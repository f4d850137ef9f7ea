"""Which sequences of a batch begin with the same pages.

The radix tree gives sequences with one prefix the same pages, so the page table tells all there is to know. numpy only;
this file knows no kernel.

    table   3 1 4 | 7 ..        the four share pages 3 1 4: read once instead of four times; the last two share 5 9 too,
            3 1 4 | 8           which saves less, so that they are in the one group of four
            3 1 4 | 5 9 | 2
            3 1 4 | 5 9 | 6
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Group = tuple[list[int], int]
"""Members, and how many tokens from the first on are in the same pages. Whole pages; each member has more tokens."""


def shared_prefixes(
    page_table: NDArray[np.int32], lengths: NDArray[np.int64], page_size: int, unit: int = 1
) -> list[Group]:
    """Disjoint groups of two or more that save most reads, as far as choosing at each fork between all of a group and
    its parts goes. page_table: [B, P]; lengths: [B], tokens. unit: only multiples of so many tokens save anything."""
    whole = (lengths - 1) // page_size  # pages before the one with the last token
    return _best(page_table, whole, page_size, unit, np.arange(len(lengths)))[0]


def saved_tokens(groups: list[Group], unit: int = 1) -> int:
    """Reads that the groups save: each prefix is read once, instead of by every member."""
    return sum((len(members) - 1) * (tokens // unit * unit) for members, tokens in groups)


def _best(
    table: NDArray[np.int32], whole: NDArray[np.int64], page_size: int, unit: int, members: NDArray[np.int64]
) -> tuple[list[Group], int]:
    """Groups among `members`, and the reads that they save."""
    if len(members) < 2:
        return [], 0
    shared = _common(table, members, int(whole[members].min()))
    together: list[Group] = [(members.tolist(), shared * page_size)]
    saved = saved_tokens(together, unit)
    apart: list[Group] = []
    saved_apart = 0
    longer = members[whole[members] > shared]
    following = table[longer, shared] if len(longer) else np.empty(0, np.int32)
    for page in np.unique(following):
        groups, more = _best(table, whole, page_size, unit, longer[following == page])
        apart += groups
        saved_apart += more
    if saved_apart > saved:
        return apart, saved_apart
    return (together, saved) if saved else ([], 0)


def _common(table: NDArray[np.int32], members: NDArray[np.int64], most: int) -> int:
    """How many leading pages all members share, up to `most`."""
    same = (table[members, :most] == table[members[0], :most]).all(axis=0)
    return most if same.all() else int(same.argmin())
