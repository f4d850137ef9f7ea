"""Which sizes of decode steps are captured: numbers of rows, and of pages of the longest sequence. Pure numbers."""

from __future__ import annotations

from dataclasses import dataclass

SMALL = (1, 2, 4, 8)
STEP = 8  # rows from one size to the next, up to 128; then an eighth more each
SHORTEST_TOKENS = 2048  # of the longest sequence: the first width, then four times as many each


@dataclass(frozen=True, slots=True)
class Shape:
    """What distinguishes one captured step from another. rows: of them, padding included; pages: of the longest
    sequence. masks, bars, changes: whether any row has these; logprobs: how many of the likeliest, -1: none at all."""

    rows: int
    pages: int
    masks: bool = False
    bars: bool = False
    changes: bool = False
    logprobs: int = -1


def row_sizes(most: int) -> tuple[int, ...]:
    """1, 2, 4, 8, 16, 24 … and `most` itself: a step is padded to the next."""
    sizes = [size for size in SMALL if size < most]
    size = 2 * STEP
    while size < most:
        sizes.append(size)
        size += max(STEP, size // 8 // STEP * STEP)
    return (*sizes, most)


def page_sizes(most: int, page_size: int) -> tuple[int, ...]:
    """Pages of 2,048 tokens, of 8,192 … and `most`."""
    sizes, size = [], -(-SHORTEST_TOKENS // page_size)
    while size < most:
        sizes.append(size)
        size *= 4
    return (*sizes, most)


def covering(sizes: tuple[int, ...], wanted: int) -> int:
    """The first size that is large enough."""
    return next(size for size in sizes if size >= wanted)
