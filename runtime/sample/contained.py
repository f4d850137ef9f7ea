"""Drawing for many sequences at once, such that a failure is that of one row. Knows rows, no sequences."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import Tensor

from latticework.lang.errors import RuntimeFailure
from latticework.runtime.request import TokenInfo
from latticework.runtime.sample.sampler import Drawn, Row, sample

log = logging.getLogger(__name__)

Token = tuple[int, TokenInfo | None]


def draw(logits: Tensor, places: Sequence[int], rows: Sequence[Row]) -> list[Token | Exception]:
    """A token, with its log-probabilities where asked, for each of the rows of logits [R, V] at `places`, or what
    was wrong with it. Never raises: a batch that fails is drawn row by row."""
    try:
        picked = logits if len(places) == len(logits) else logits[list(places)]  # a decode batch is not copied
        drawn = sample(picked, rows)
    except Exception as error:
        log.error("drawing %d tokens failed; trying one by one", len(rows), exc_info=error)
        return [_draw_one(logits, place, row) for place, row in zip(places, rows, strict=True)]
    return [_token(drawn, index) for index in range(len(rows))]


def _draw_one(logits: Tensor, place: int, row: Row) -> Token | Exception:
    try:
        return _token(sample(logits[place : place + 1], [row]), 0)
    except Exception as error:
        return error


def _token(drawn: Drawn, index: int) -> Token | Exception:
    said = drawn.errors.get(index)
    return RuntimeFailure(said) if said is not None else (drawn.tokens[index], drawn.logprobs[index])
