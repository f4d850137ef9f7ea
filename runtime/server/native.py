"""What a body of `POST /generate` asks of the engine. Pure functions: no HTTP, no waiting."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from latticework.lang.errors import ConstraintError, InvalidArgument, Unsupported
from latticework.lang.ir import Constraint, Gbnf, Gen, JsonSchema, Regex, Sampling, Tag, Triggered
from latticework.runtime.programs.front import Front
from latticework.runtime.request import TextSegment
from latticework.runtime.server.native_schemas import GenerateBody, SamplingParams

Given: TypeAlias = str | list[int]
_ALL_SAMPLING = Sampling.__struct_fields__
_GREEDY_BELOW = 1e-6  # as SGLang: a temperature below it takes the likeliest token
_SAME_NAMES = (
    "stop",
    "stop_token_ids",
    "stop_regex",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "ignore_eos",
    "n",
)
_OTHER_NAMES = {
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "no_stop_trim": "include_stop",
    "sampling_seed": "seed",
}

PARAMS: Mapping[str, str] = {
    **{ours: f"sampling_params.{name}" for name, ours in _OTHER_NAMES.items()},
    **{name: f"sampling_params.{name}" for name in (*_SAME_NAMES, "logit_bias", "regex", "json_schema")},
    "gbnf": "sampling_params.ebnf",
    "tags": "sampling_params.structural_tag",
    "triggers": "sampling_params.structural_tag",
    "prompt": "text",
    "logprobs": "top_logprobs_num",
    "prompt_logprobs": "top_logprobs_num",
}
"""Our field names as the body has them."""


@dataclass(frozen=True, slots=True)
class Asked:
    """many: the answer is a list. gen: with one token where `prefill` asks for none. first: the log-probabilities of
    each prompt's tokens are told from this one on; None: they are not."""

    prompts: list[TextSegment]
    many: bool
    gen: Gen
    prefill: bool
    first: int | None

    @property
    def outputs(self) -> int:
        return len(self.prompts) * self.gen.sampling.n


def params_of(body: GenerateBody) -> Mapping[str, str]:
    """How error fields are called in this body."""
    return PARAMS if body.input_ids is None else {**PARAMS, "prompt": "input_ids"}


def asked(front: Front, body: GenerateBody) -> Asked:
    """Raises InvalidArgument, ConstraintError or Unsupported."""
    body.check_other_fields()
    body.sampling_params.check_other_fields()
    given, many = _prompts(body)
    if len(given) > front.server.max_prompts:
        raise InvalidArgument(
            f"{len(given)} prompts are given; this server takes {front.server.max_prompts} at once (max_prompts)",
            field="prompt",
        )
    gen, prefill = _gen(body)
    prompts = [_encoded(front, prompt) for prompt in given]
    first = _first(body, prompts, prefill)
    sampling = msgspec.structs.replace(gen.sampling, prompt_logprobs_start=first or 0)
    gen = msgspec.structs.replace(gen, sampling=sampling)
    found = Asked(prompts, many or gen.sampling.n > 1, gen, prefill, first)
    _check_count(front, found, bool(body.return_logprob))
    return found


# ---------------------------------------------------------------- prompts


def _prompts(body: GenerateBody) -> tuple[list[Given], bool]:
    if (body.text is None) == (body.input_ids is None):
        raise InvalidArgument("expected either text or input_ids", field="text")
    given: Any = body.input_ids if body.text is None else body.text
    field = "input_ids" if body.text is None else "text"
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        return [given], False
    if not given:
        raise InvalidArgument(f"{field} is empty; expected a prompt or a list of prompts", field=field)
    return list(given), True


def _encoded(front: Front, prompt: Given) -> TextSegment:
    """Text as it is: special tokens in it are recognised, and a begin token that it carries is not put there twice."""
    if isinstance(prompt, list):
        unknown = next((token for token in prompt if not 0 <= token < front.card.spec.vocab_size), None)
        if unknown is not None:
            raise InvalidArgument(f"input_ids holds {unknown}, which is no token id of this model", field="input_ids")
    encoded = front.text_prompt(prompt)
    if not encoded.tokens:
        raise InvalidArgument("a prompt is empty; expected text or token ids", field="prompt")
    return encoded


# ---------------------------------------------------------------- sampling


def _gen(body: GenerateBody) -> tuple[Gen, bool]:
    """The gen, and whether its output is not wanted."""
    params = body.sampling_params
    prefill = params.max_new_tokens == 0
    given = {name: value for name in _SAME_NAMES if (value := getattr(params, name)) is not None}
    given |= {ours: value for name, ours in _OTHER_NAMES.items() if (value := getattr(params, name)) is not None}
    if prefill:
        given |= {"max_tokens": 1, "min_tokens": 0}  # the token comes with the prompt's logits, and is not told
    if 0.0 <= given.get("temperature", 1.0) < _GREEDY_BELOW:
        given["temperature"] = 0.0
    if params.sampling_seed is not None:
        given["seed"] = params.sampling_seed % (1 << 64)
    if params.logit_bias is not None:
        given["logit_bias"] = [(_token_id(token), bias) for token, bias in params.logit_bias.items()]
    likeliest = body.top_logprobs_num or 0 if body.return_logprob else 0
    given["logprobs"] = likeliest  # output_ids are told always
    if body.return_logprob and (prefill or body.logprob_start_len not in (None, -1)):
        given["prompt_logprobs"] = likeliest
    if prefill and body.stream:
        raise InvalidArgument("max_new_tokens is 0, which leaves nothing to stream", field="stream")
    constraint = _constraint(params)
    gen = Gen(sampling=Sampling(**given), given=_ALL_SAMPLING, constraint=constraint, on_length="prefer_close")
    return (msgspec.structs.replace(gen, constraint=None) if prefill else gen), prefill


def _token_id(key: str) -> int:
    """A key of logit_bias: JSON has no other keys than text."""
    if not (key.isascii() and key.isdigit()) or len(key) > 10:
        raise InvalidArgument(f"logit_bias has the key {key[:40]!r}; expected token ids", field="logit_bias")
    return int(key)


# ---------------------------------------------------------------- constraints


def _constraint(params: SamplingParams) -> Constraint | None:
    found: dict[str, Constraint] = {}
    if params.regex is not None:
        found["regex"] = Regex(params.regex)
    if params.json_schema is not None:
        found["json_schema"] = JsonSchema(params.json_schema)
    if params.ebnf is not None:
        found["ebnf"] = Gbnf(params.ebnf)
    if params.structural_tag is not None:
        found["structural_tag"] = _structural_tag(params.structural_tag)
    if len(found) > 1:
        raise InvalidArgument(
            f"{' and '.join(found)} are given together; expected at most one of them",
            field=f"sampling_params.{list(found)[-1]}",
        )
    return next(iter(found.values()), None)


def _structural_tag(given: str | dict[str, Any]) -> Triggered:
    """SGLang's structural tag: {"structures": [{"begin", "schema", "end"}], "triggers": […]}, as an object or as JSON
    text."""
    field = "sampling_params.structural_tag"
    try:
        value = json.loads(given) if isinstance(given, str) else given
    except (ValueError, RecursionError) as error:
        raise ConstraintError(f"structural_tag is not JSON: {error}", field=field) from None
    if not isinstance(value, dict) or value.get("type", "structural_tag") != "structural_tag":
        raise ConstraintError("structural_tag is no JSON object of the type 'structural_tag'", field=field)
    if "format" in value:
        raise Unsupported("structural_tag.format is not supported", field=field, hint="structures and triggers are")
    unknown = sorted(set(value) - {"type", "structures", "triggers"})
    if unknown:
        raise ConstraintError(f"structural_tag has the unknown field {unknown[0]}", field=field)
    structures, triggers = value.get("structures"), value.get("triggers")
    if not isinstance(structures, list) or not isinstance(triggers, list):
        raise ConstraintError("structural_tag needs structures and triggers, both lists", field=field)
    return Triggered(tuple(_tag(one, field) for one in structures), tuple(triggers))


def _tag(given: object, field: str) -> Tag:
    if not isinstance(given, dict) or not {"begin", "schema"} <= set(given) <= {"begin", "schema", "end"}:
        raise ConstraintError(
            "a structure of structural_tag needs begin, schema and end, and nothing else", field=field
        )
    return Tag(given["begin"], JsonSchema(given["schema"]), given.get("end", ""))


# ---------------------------------------------------------------- log-probabilities


def _first(body: GenerateBody, prompts: Sequence[TextSegment], prefill: bool) -> int | None:
    """From which token of a prompt on log-probabilities are told.

    Where tokens are drawn, `logprob_start_len` names the first one told, and without it none are. Where none are
    drawn, the prompt's are all there is: without it they are all told, and from 1 on it counts the tokens before the
    first *prediction*: SGLang's client, which alone asks so, gives the length of the prompt less two and takes what
    comes back to begin with the prompt's last token.
    """
    start = body.logprob_start_len
    if not body.return_logprob or (not prefill and start in (None, -1)):
        return None
    start = 0 if start is None or start < 0 else start
    shortest = min(len(prompt.tokens) for prompt in prompts)
    if start >= shortest:
        raise InvalidArgument(
            f"logprob_start_len is {start}; a prompt has only {shortest} tokens", field="logprob_start_len"
        )
    return start + 1 if prefill and start > 0 else start


def _check_count(front: Front, found: Asked, of_outputs: bool) -> None:
    """Raises InvalidArgument for more log-probabilities than one answer may hold. A single output is never too long."""
    sampling = found.gen.sampling
    each = 1 + (sampling.logprobs or 0)
    told = 0
    if found.first is not None:
        told = each * sum(len(prompt.tokens) - found.first for prompt in found.prompts)
    if of_outputs and found.outputs > 1:
        told = max(told, each * found.outputs * min(sampling.max_tokens, front.context))
    if told > front.server.max_logprobs:
        raise InvalidArgument(
            f"the answer could hold {told} log-probabilities; this server tells {front.server.max_logprobs} "
            "(max_logprobs)",
            field="top_logprobs_num",
            hint="ask for fewer of the likeliest, for fewer tokens, or in several requests",
        )
