"""What a run tells the program that started it.

Plain data, so that a scripted backend, a subprocess and a remote server speak alike. `branch` and `position`
name an op: the position counts the ops of its branch from 0.
"""

from __future__ import annotations

import operator
from typing import Literal, TypeAlias

import msgspec

from latticework.lang.errors import ErrorData

Finish: TypeAlias = Literal["stop", "length", "select"]
"""Why an op that succeeded ended: an end token, stop or complete constraint; the budget; a choice."""


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens and time of one request or op. prompt = cached + computed, all before the first output token.

    The seconds are those it waited in the engine's queue, its constraint was compiled, and steps computed its prompt
    and its output: a step's time counts for all who share it. truncated: tokens left out of the prompt, on request.
    drafted, accepted: output tokens that were guessed, and those of them that were then drawn.
    """

    prompt: int = 0
    cached: int = 0
    computed: int = 0
    output: int = 0
    queue_seconds: float = 0.0
    compile_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    truncated: int = 0
    drafted: int = 0
    accepted: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*map(operator.add, msgspec.structs.astuple(self), msgspec.structs.astuple(other)))

    def __sub__(self, other: Usage) -> Usage:
        return Usage(*map(operator.sub, msgspec.structs.astuple(self), msgspec.structs.astuple(other)))


class TokenLogprob(msgspec.Struct, frozen=True, omit_defaults=True):
    """One token: id, bytes as text (errors replaced), natural-log probability, the likeliest others."""

    token: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()


class Rendered(msgspec.Struct, frozen=True, tag="rendered"):
    """The text a Role op stands for."""

    branch: int
    position: int
    text: str


class Chunk(msgspec.Struct, frozen=True, tag="chunk", omit_defaults=True):
    """More text of a Gen that is under way; whole characters only. Chunks concatenate to Done.text."""

    branch: int
    position: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class Done(msgspec.Struct, frozen=True, tag="done", omit_defaults=True):
    """A Gen or Select has ended well.

    complete: the constraint, if any, is satisfied by the text. stopped_by: the stop string or id that ended it.
    scores, probabilities: the `Decision` of a Select, one number per option; option_logprobs: its options' tokens.
    prompt_logprobs: see `Sampling`.
    """

    branch: int
    position: int
    text: str
    finish: Finish
    complete: bool = True
    stopped_by: str | int | None = None
    usage: Usage = Usage()
    logprobs: tuple[TokenLogprob, ...] = ()
    scores: tuple[float, ...] = ()
    seed: int = 0
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    samples: tuple[Done, ...] = ()
    probabilities: tuple[float, ...] = ()
    option_logprobs: tuple[tuple[TokenLogprob, ...], ...] = ()


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """An op has failed, and with it everything later in its branch. position -1: the whole run."""

    branch: int
    position: int
    error: ErrorData


class Spent(msgspec.Struct, frozen=True, tag="spent"):
    """Work in a branch that no Done tells of: text computed for a fork, or behind the last Gen."""

    branch: int
    usage: Usage


Event: TypeAlias = Rendered | Chunk | Done | Failed | Spent
