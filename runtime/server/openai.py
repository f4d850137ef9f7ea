"""What a body of OpenAI's API asks of the engine. Pure functions: no HTTP, no waiting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from latticework.lang.errors import InvalidArgument
from latticework.lang.ir import Gen, Sampling
from latticework.runtime.programs.front import Front
from latticework.runtime.request import TextSegment
from latticework.runtime.server.constraint_fields import asked_constraint, constraint_params
from latticework.runtime.server.errors import PARAMS
from latticework.runtime.server.schemas import ChatBody, CompletionBody, GenerationBody

COMPLETION_TOKENS = 16  # OpenAI's default for text completions; a chat may use the rest of the context
_ALL_SAMPLING = Sampling.__struct_fields__


def chat_prompt(front: Front, body: ChatBody) -> tuple[TextSegment, int]:
    """The prompt, and how many tokens were left out of it."""
    messages = [message.plain() for message in body.messages]
    if body.truncate != "middle":
        return front.chat_prompt(messages), 0
    asked = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    return front.truncated_chat_prompt(messages, asked)


def completion_prompts(front: Front, body: CompletionBody) -> list[tuple[str | list[int], TextSegment]]:
    """Every prompt of the body, as given and encoded."""
    given: Any = body.prompt
    prompts = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    if len(prompts) > front.server.max_prompts:
        raise InvalidArgument(
            f"prompt is a list of {len(prompts)} prompts; this server takes {front.server.max_prompts} (max_prompts)",
            field="prompt",
        )
    return [(prompt, _completion_prompt(front, prompt)) for prompt in prompts]


def _completion_prompt(front: Front, prompt: str | list[int]) -> TextSegment:
    if not prompt:
        raise InvalidArgument("prompt is empty; expected text or token ids", field="prompt")
    if isinstance(prompt, list):
        unknown = next((token for token in prompt if not 0 <= token < front.card.spec.vocab_size), None)
        if unknown is not None:
            raise InvalidArgument(f"prompt holds {unknown}, which is no token id of this model", field="prompt")
    return front.text_prompt(prompt)


def chat_gen(front: Front, body: ChatBody, prompt: TextSegment) -> Gen:
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidArgument("top_logprobs needs logprobs: true", field="top_logprobs")
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise InvalidArgument("max_tokens and max_completion_tokens are both given", field="max_completion_tokens")
    asked = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    rest = max(1, min(front.context - len(prompt.tokens), front.server.max_output_tokens or front.context))
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    return _gen(body, rest if asked is None else asked, logprobs)


def completion_gen(body: CompletionBody) -> Gen:
    if body.echo and body.stream and body.logprobs is not None:
        raise InvalidArgument("echo with logprobs cannot be streamed", field="echo", hint="leave stream out")
    gen = _gen(body, COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens, body.logprobs)
    if not body.echo or body.logprobs is None:
        return gen
    likeliest = max(body.logprobs, body.prompt_logprobs or 0)
    return msgspec.structs.replace(gen, sampling=msgspec.structs.replace(gen.sampling, prompt_logprobs=likeliest))


def chat_params(body: ChatBody) -> dict[str, str]:
    """How error fields are called in this body."""
    names = {"prompt": "messages"}
    if body.top_logprobs is not None:
        names["logprobs"] = "top_logprobs"
    if body.max_completion_tokens is not None:
        names["max_tokens"] = "max_completion_tokens"
    return PARAMS | constraint_params(body) | names


def completion_params(body: CompletionBody) -> dict[str, str]:
    """The same of a body for text completions."""
    return PARAMS | constraint_params(body)


def _gen(body: GenerationBody, max_tokens: int, logprobs: int | None) -> Gen:
    given = {name: value for name in _ALL_SAMPLING if (value := getattr(body, name, None)) is not None}
    given |= {"max_tokens": max_tokens, "logprobs": logprobs, "seed": None if body.seed is None else _seed(body.seed)}
    if body.logit_bias is not None:
        given["logit_bias"] = [(_token_id(token), bias) for token, bias in body.logit_bias.items()]
    sampling = Sampling(**given)
    for name, refused in (("best_of", sampling.ranked), ("prompt_logprobs", sampling.prompt_logprobs is not None)):
        if body.stream and refused:
            raise InvalidArgument(f"{name} cannot be streamed", field=name, hint="leave stream out")
    return Gen(sampling=sampling, given=_ALL_SAMPLING, constraint=asked_constraint(body), on_length="prefer_close")


def _token_id(key: str) -> int:
    """A key of logit_bias: JSON has no other keys than text."""
    if not (key.isascii() and key.isdigit()) or len(key) > 10:
        raise InvalidArgument(f"logit_bias has the key {key[:40]!r}; expected token ids", field="logit_bias")
    return int(key)


def _seed(seed: int) -> int:
    if not -(1 << 63) <= seed < 1 << 64:
        raise InvalidArgument(f"seed is {seed}; expected a 64-bit integer", field="seed")
    return seed % (1 << 64)  # OpenAI's are signed


def check_logprobs(front: Front, body: GenerationBody, prompts: Sequence[TextSegment], gen: Gen) -> None:
    """Raises InvalidArgument for more log-probabilities than one answer may hold. A single output is never too long."""
    sampling = gen.sampling
    outputs = len(prompts) * sampling.candidates
    of_prompts = "logprobs" if body.prompt_logprobs is None else "prompt_logprobs"  # an echo has those of the prompt
    asked = (
        (of_prompts, sampling.prompt_logprobs, sum(len(prompt.tokens) for prompt in prompts)),
        ("logprobs", sampling.logprobs, outputs * min(sampling.max_tokens, front.context) if outputs > 1 else 0),
    )
    for name, likeliest, tokens in asked:
        count = 0 if likeliest is None else (1 + likeliest) * tokens
        if count > front.server.max_logprobs:
            raise InvalidArgument(
                f"the answer could hold {count} log-probabilities; this server tells {front.server.max_logprobs} "
                "(max_logprobs)",
                field=name,
                hint="ask for fewer of the likeliest, for fewer tokens, or in several requests",
            )
