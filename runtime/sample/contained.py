"""Drawing for many sequences at once, such that a failure is that of one row. Knows rows, no sequences."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import Tensor

from latticework.kernels.cpu.library import Library
from latticework.lang.errors import RuntimeFailure
from latticework.runtime.request import TokenInfo
from latticework.runtime.sample.sampler import Drawn, Row, sample

log = logging.getLogger(__name__)

Token = tuple[int, TokenInfo | None]


def draw(
    logits: Tensor, places: Sequence[int], rows: Sequence[Row], library: Library | None = None
) -> list[Token | Exception]:
    """A token, with its log-probabilities where asked, for each of the rows of logits [R, V] at `places`, or what
    was wrong with it. library: see `sample`. Never raises: a batch that fails is drawn row by row."""
    try:
        drawn = sample(logits, rows, places, library)
    except Exception as error:
        log.error("drawing %d tokens failed; trying one by one", len(rows), exc_info=error)
        return [_draw_one(logits, place, row, library) for place, row in zip(places, rows, strict=True)]
    return [_token(drawn, index) for index in range(len(rows))]


def _draw_one(logits: Tensor, place: int, row: Row, library: Library | None) -> Token | Exception:
    try:
        return _token(sample(logits, [row], [place], library), 0)
    except Exception as error:
        return error


def _token(drawn: Drawn, index: int) -> Token | Exception:
    said = drawn.errors.get(index)
    return RuntimeFailure(said) if said is not None else (drawn.tokens[index], drawn.logprobs[index])
