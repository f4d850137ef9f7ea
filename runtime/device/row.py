"""What one row of a decode step on the device is told of its sequence, in plain numbers.

A row goes on by itself from step to step, so it is told once, when the sequence comes to the device. This file knows
sequences and numpy; it knows no tensor, and not what the numbers are used for.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latticework.lang.ir import Sampling
from latticework.runtime.schedule.sequence import Output, Sequence

MOST_BARRED = 16  # tokens of one row that may come only where nothing else is left
MOST_CHANGED = 1024  # tokens of one row whose logits penalties and biases change
MOST_LOGPROBS = 20  # likeliest tokens told of each
FREE = -1  # the state of a row without a constraint
BIASED_ONLY = -1  # how often a token is in the text, where it only has a bias
UNBOUNDED = 1 << 30  # tokens left, where the text may be cut
FOREVER = 1 << 62


@dataclass(slots=True)
class Row:
    """One row, for the buffers of the same names (buffers.py). The defaults are those of a row that is nobody's."""

    tokens: int = 0  # the last one known: the input of the next step
    positions: int = 0  # its place in the sequence
    lengths: int = 0  # of the KV with it; 0: none is read
    live: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seeds: int = 0
    draws: int = 0  # tokens of the segment drawn so far
    states: int = FREE
    remaining: int = UNBOUNDED
    repetition: float = 1.0
    frequency: float = 0.0
    presence: float = 0.0
    listed: int = -1  # tokens in `changed`; -1: drawn ones are not added
    barred: NDArray[np.int64] | None = None  # [MOST_BARRED]
    until: NDArray[np.int64] | None = None  # [MOST_BARRED]
    changed: NDArray[np.int64] | None = None  # [MOST_CHANGED]
    times: NDArray[np.int32] | None = None  # [MOST_CHANGED]
    bias: NDArray[np.float64] | None = None  # [MOST_CHANGED]


def row_of(sequence: Sequence, state: int) -> Row:
    """The row of a sequence that decodes. state: of its automaton, among all on the device."""
    output = sequence.output
    assert output is not None
    sampling = output.sampling
    position = len(sequence.tokens) - 1
    row = Row(
        tokens=sequence.tokens[-1],
        positions=position,
        lengths=position + 1,
        live=1,
        temperature=sampling.temperature,
        top_k=max(0, sampling.top_k),
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        seeds=int(np.uint64(sampling.seed or 0).astype(np.int64)),
        draws=output.position,
        states=state,
        remaining=output.remaining if output.closing else UNBOUNDED,
    )
    _bar(row, output)
    if is_changed(sampling):
        _change(row, output)
    return row


def is_changed(sampling: Sampling) -> bool:
    """Penalties or biases change its logits."""
    return sampling.repetition_penalty != 1.0 or counts(sampling) or bool(sampling.logit_bias)


def counts(sampling: Sampling) -> bool:
    """Every drawn token changes the logits of later ones."""
    return bool(sampling.repetition_penalty != 1.0 or sampling.frequency_penalty or sampling.presence_penalty)


def barred_until(output: Output) -> dict[int, int]:
    """The draw from which each barred token may come."""
    until = {}
    first = output.respelled + output.sampling.min_tokens
    if output.position < first:
        until = dict.fromkeys(output.early, first)
    return until | dict.fromkeys(output.never, FOREVER)


def changed_tokens(output: Output) -> dict[int, int]:
    """How often each token that is listed is in the output; BIASED_ONLY where it is in no text."""
    sampling = output.sampling
    found = {token: BIASED_ONLY for token, _ in sampling.logit_bias}
    if sampling.repetition_penalty != 1.0 and output.before is not None:
        found.update(dict.fromkeys(output.before.tolist(), 0))
    if counts(sampling):
        found.update(Counter(output.text.tokens))
    return found


def _bar(row: Row, output: Output) -> None:
    until = barred_until(output)
    if until:
        row.barred = np.full(MOST_BARRED, -1, np.int64)
        row.until = np.zeros(MOST_BARRED, np.int64)
        row.barred[: len(until)] = list(until)
        row.until[: len(until)] = list(until.values())


def _change(row: Row, output: Output) -> None:
    sampling, found = output.sampling, changed_tokens(output)
    row.repetition = sampling.repetition_penalty
    row.frequency = sampling.frequency_penalty
    row.presence = sampling.presence_penalty
    row.listed = len(found) if counts(sampling) else -1
    row.changed = np.full(MOST_CHANGED, -1, np.int64)
    row.times = np.zeros(MOST_CHANGED, np.int32)
    row.bias = np.zeros(MOST_CHANGED, np.float64)
    row.changed[: len(found)] = list(found)
    row.times[: len(found)] = list(found.values())
    biases = dict(sampling.logit_bias)
    row.bias[: len(found)] = [biases.get(token, 0.0) for token in found]
