"""How a variable came about, in the words of SGLang's `meta_info`. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from latticework.lang.branch import Heard
from latticework.lang.events import Done, TokenLogprob


def meta_info(done: Done | Sequence[Any]) -> Any:
    """A dict: prompt_tokens, completion_tokens, cached_tokens, finish_reason; where they were asked for,
    output_token_logprobs and input_token_logprobs as [logprob, id, text] and output_top_logprobs,
    input_top_logprobs as lists of them; of a select normalized_prompt_logprobs (its scores), probabilities, and
    input_token_logprobs by option. A list of such dicts for a variable of several."""
    if not isinstance(done, Done):
        return [meta_info(one) for one in done]
    meta: dict[str, Any] = {
        "prompt_tokens": done.usage.prompt,
        "completion_tokens": done.usage.output,
        "cached_tokens": done.usage.cached,
        "finish_reason": _finish_reason(done),
        "seed": done.seed,
    }
    if done.finish == "select":
        meta["normalized_prompt_logprobs"] = list(done.scores)
        meta["probabilities"] = list(done.probabilities)
        meta["input_token_logprobs"] = [_triples(option) for option in done.option_logprobs]
        return meta
    for kind, logprobs in (("output", done.logprobs), ("input", done.prompt_logprobs)):
        if logprobs:
            meta[f"{kind}_token_logprobs"] = _triples(logprobs)
            meta[f"{kind}_top_logprobs"] = [
                [[number, token, text] for token, text, number in one.top] for one in logprobs
            ]
    if done.logprobs:
        meta["output_token_logprobs_length"] = len(done.logprobs)
    return meta


def stream_info(heard: Heard) -> dict[str, Any]:
    """The same of a piece of a stream. Where log-probabilities were asked for: those of the tokens that come with this
    piece, and completion_tokens and output_token_logprobs_length, which count all so far. The last piece has the rest.
    """
    meta = meta_info(heard.done) if heard.done is not None else {}
    if heard.before or heard.logprobs:
        told = heard.before + len(heard.logprobs)
        meta["output_token_logprobs"] = _triples(heard.logprobs)
        meta["output_token_logprobs_length"] = told
        meta["completion_tokens"] = told
    return meta


def _finish_reason(done: Done) -> dict[str, Any]:
    if done.finish == "length":
        return {"type": "length", "length": done.usage.output}
    return {"type": "stop", "matched": done.stopped_by}


def _triples(logprobs: Sequence[TokenLogprob]) -> list[list[Any]]:
    return [[one.logprob, one.token, one.text] for one in logprobs]
