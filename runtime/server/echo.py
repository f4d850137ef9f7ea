"""A prompt as a completion shows it, before its own text and with its log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from latticework.lang.events import TokenLogprob
from latticework.runtime.request import TextSegment
from latticework.runtime.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Echo:
    """tokens: the texts of the prompt's tokens; that of a begin token which nobody wrote is empty."""

    text: str
    tokens: tuple[str, ...]


def echo_of(tokenizer: Tokenizer, prompt: str | Sequence[int], encoded: TextSegment) -> Echo:
    """prompt: as it was given; encoded: as the engine has it."""
    special = {token: text for text, token in tokenizer.special.items()}
    data = [
        special[token].encode() if token in special else tokenizer.decode_bytes([token]) for token in encoded.tokens
    ]
    begin = tokenizer.bos_ids
    if isinstance(prompt, str) and encoded.tokens[: len(begin)] == begin:
        written = b"".join(data[: len(begin)]).decode()
        if not prompt.startswith(written):
            data[: len(begin)] = [b""] * len(begin)
    text = prompt if isinstance(prompt, str) else b"".join(data).decode("utf-8", "replace")
    return Echo(text, tuple(part.decode("utf-8", "replace") for part in data))


def prompt_logprobs_object(tokens: Sequence[TokenLogprob], likeliest: int) -> list[dict[str, Any] | None]:
    """As vLLM: null for the first token, then for each token a mapping of ids, its own and the likeliest. `rank` is
    null where a token is not among the likeliest."""
    listed: list[dict[str, Any] | None] = [None]
    for token in tokens:
        found = {str(token.token): _entry(token.text, token.logprob, None)}
        for rank, (other, text, logprob) in enumerate(token.top[:likeliest], 1):
            found[str(other)] = _entry(text, logprob, rank)
        listed.append(found)
    return listed


def _entry(text: str, logprob: float, rank: int | None) -> dict[str, Any]:
    return {"logprob": finite(logprob), "rank": rank, "decoded_token": text}


LEAST_LOGPROB = -9999.0  # OpenAI's stand-in for minus infinity, which JSON cannot hold


def finite(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)
