"""The public verbs: gen, select, system, user, assistant, and SGLang's other names for them.

Each checks what it is given at once and makes an expression of it; nothing here waits or talks to a backend.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from latticework.lang.choices import ChoicesSamplingMethod, token_length_normalized
from latticework.lang.dtypes import dtype_of
from latticework.lang.errors import InvalidArgument, RegexError, Unsupported, point_at
from latticework.lang.expr import Expr, Piece, checked_text, message
from latticework.lang.ir import (
    After,
    Constraint,
    Gbnf,
    Gen,
    JsonSchema,
    Lark,
    OnLength,
    Regex,
    Role,
    Sampling,
    Select,
    SelectMethod,
    Triggered,
)
from latticework.lang.reading import checked_name
from latticework.lang.settings import asked_logprobs
from latticework.lang.values import JSON, Decoder, constraint_of


def gen(
    name: str | None = None,
    max_tokens: int | None = None,
    min_tokens: int | None = None,
    n: int | None = None,
    stop: str | Sequence[str] | None = None,
    stop_token_ids: Sequence[int] | None = None,
    stop_regex: str | Sequence[str] | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    frequency_penalty: float | None = None,
    presence_penalty: float | None = None,
    ignore_eos: bool | None = None,
    return_logprob: bool | None = None,
    logprob_start_len: int | None = None,
    top_logprobs_num: int | None = None,
    return_text_in_logprobs: bool | None = None,
    dtype: type | str | None = None,
    choices: Sequence[str] | None = None,
    choices_method: ChoicesSamplingMethod | SelectMethod | None = None,
    regex: str | None = None,
    json_schema: str | Mapping[str, Any] | None = None,
    *,
    repetition_penalty: float | None = None,
    logit_bias: Mapping[int, float] | None = None,
    include_stop: bool | None = None,
    seed: int | None = None,
    best_of: int | None = None,
    schema: Any = None,
    grammar: str | Lark | Gbnf | Triggered | None = None,
    after: str | None = None,
    on_length: OnLength = "close",
    heal: bool = False,
    top_logprobs: int | None = None,
    prompt_logprobs: int | None = None,
) -> Expr:
    """Text that the model writes, stored under `name`. Arguments by position are in SGLang's order.

    Sampling: None takes the run's default (max_tokens 128, temperature 1.0); see `Sampling`. Constraint, at most
    one: `regex`; `json_schema`, a schema as dict or text; `schema`, a type (pydantic model, dataclass, TypedDict,
    Enum, Literal, list[int], …), whose value `s.value(name)` returns; `grammar`, a Lark grammar as text, or `lw.Lark`,
    `lw.Gbnf`, `lw.Triggered`; `dtype`, int, float, str or bool, as type or name: see dtypes.py; `choices`, which makes
    it a `select` by `choices_method`. after: the constraint begins only behind the first
    occurrence of this text, as in after="</think>"; what comes before is free, and `s.value(name)` leaves it out.
    on_length: what a constrained gen does as its tokens run out, see `OnLength`. return_logprob: keep each
    token's log-probability in `s.meta(name)`; top_logprobs=k, or top_logprobs_num=k, the k likeliest as well.
    prompt_logprobs: the same for the constant text right before, 0 or k likeliest; logprob_start_len is the same by
    SGLang's name, and the first token of the whole text that is told of (-1: none is). Their texts are always there:
    return_text_in_logprobs changes nothing. n: so many outputs, drawn side
    by side; `s[name]`, `s.value(name)` and `s.meta(name)` are lists, and the text goes on with the first. best_of: the
    n best of so many, best first.

    heal: where the text before ends in the middle of what would have been one token, as "http:" does before "//", its
    end is taken back and the model spells it again, by whatever tokens begin so: the one across the boundary may be
    drawn. Taken back is the longest run of the last four tokens that some longer token begins with, as guidance's
    engine does, and nothing where no token could go on; never the template's markers, special tokens, generated text or
    the only token. What is taken back stays what it was: this text, its constraint, stops and max_tokens begin behind
    it, though a token that spans the boundary is told whole, with its log-probability, in `s.meta(name)`.
    Raises InvalidArgument (RegexError, SchemaError) or Unsupported at once.
    """
    if name is not None:
        checked_name(name)
    if not isinstance(heal, bool):
        raise InvalidArgument(f"heal is {heal!r}; expected true or false", field="heal")
    asked = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "stop": stop,
        "stop_token_ids": stop_token_ids,
        "stop_regex": stop_regex,
        "frequency_penalty": frequency_penalty,
        "presence_penalty": presence_penalty,
        "repetition_penalty": repetition_penalty,
        "logit_bias": logit_bias,
        "min_tokens": min_tokens,
        "ignore_eos": ignore_eos,
        "include_stop": include_stop,
        "seed": seed,
        "n": n,
        "best_of": best_of,
        **asked_logprobs(
            return_logprob,
            logprob_start_len,
            top_logprobs_num,
            return_text_in_logprobs,
            top_logprobs,
            prompt_logprobs,
        ),
    }
    given: dict[str, Any] = {field: value for field, value in asked.items() if value is not None}
    constraints = {
        "regex": regex, "choices": choices, "json_schema": json_schema, "schema": schema, "grammar": grammar,
        "dtype": dtype,
    }  # fmt: skip
    chosen = [field for field, value in constraints.items() if value is not None]
    if len(chosen) > 1:
        raise InvalidArgument(f"gen got {' and '.join(chosen)}; expected at most one of them", field=chosen[1])
    if choices is not None:
        if after is not None:
            raise InvalidArgument("gen with choices scores every choice; after has no effect on that", field="after")
        if heal:
            raise InvalidArgument("gen with choices scores every choice as it is; heal has no effect", field="heal")
        return _gen_choices(name, choices, choices_method, given)
    if choices_method is not None:
        raise InvalidArgument("choices_method needs choices", field="choices_method")
    if dtype is not None:
        kind = dtype_of(dtype)
        if kind.stop is not None:
            given["stop_regex"] = (*Sampling(stop_regex=given.get("stop_regex", ())).stop_regex, kind.stop)
    sampling = Sampling(**given)
    for pattern in sampling.stop_regex:
        _regex(pattern, "stop_regex")
    constraint, decoder = (
        (kind.constraint, kind.decoder) if dtype is not None else _constraint(regex, json_schema, schema, grammar)
    )
    if after is not None:
        constraint, decoder = _after(after, constraint, decoder)
    if on_length not in get_args(OnLength):
        raise InvalidArgument(f"on_length is {on_length!r}; expected one of {get_args(OnLength)}", field="on_length")
    if on_length != "close" and constraint is None:
        raise InvalidArgument("on_length needs a regex, json_schema, schema, grammar or dtype", field="on_length")
    return Expr(Piece(Gen(name, sampling, tuple(given), constraint, on_length, heal), decoder))


def gen_int(
    name: str | None = None,
    max_tokens: int | None = None,
    n: int | None = None,
    stop: str | Sequence[str] | None = None,
    *args: Any,
    **kwargs: Any,
) -> Expr:
    """`gen` of an integer: `dtype=int`. Its arguments are those of `gen`, by position without min_tokens."""
    return _gen_of(int, name, max_tokens, n, stop, args, kwargs)


def gen_string(
    name: str | None = None,
    max_tokens: int | None = None,
    n: int | None = None,
    stop: str | Sequence[str] | None = None,
    *args: Any,
    **kwargs: Any,
) -> Expr:
    """`gen` of a string in double quotes: `dtype=str`. Its arguments are those of `gen`, by position without
    min_tokens."""
    return _gen_of(str, name, max_tokens, n, stop, args, kwargs)


def _gen_of(
    dtype: type,
    name: str | None,
    max_tokens: int | None,
    n: int | None,
    stop: str | Sequence[str] | None,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Expr:
    others = {**kwargs, "dtype": dtype}
    return gen(name, max_tokens, others.pop("min_tokens", None), n, stop, *args, **others)


def _gen_choices(
    name: str | None,
    choices: Sequence[str],
    method: ChoicesSamplingMethod | SelectMethod | None,
    given: Mapping[str, Any],
) -> Expr:
    ignored = sorted(set(given) - {"max_tokens", "temperature", "logprobs"})
    if ignored:
        raise InvalidArgument(
            f"gen with choices scores every choice; {ignored[0]} has no effect on that", field=ignored[0]
        )
    return select(name, choices, given.get("temperature", 0.0), method or token_length_normalized)


def _constraint(
    regex: str | None, json_schema: Any, schema: Any, grammar: Any
) -> tuple[Constraint | None, Decoder | None]:
    if regex is not None:
        return _regex(regex), None
    if json_schema is not None:
        if not isinstance(json_schema, str | Mapping | bool):
            raise InvalidArgument(
                f"json_schema is a {type(json_schema).__name__}; expected a dict or JSON text",
                field="json_schema",
                hint="give a type as schema=",
            )
        return JsonSchema(dict(json_schema) if isinstance(json_schema, Mapping) else json_schema), JSON
    if schema is not None:
        return constraint_of(schema)
    if grammar is not None:
        if isinstance(grammar, str):
            return Lark(checked_text(grammar, "grammar")), None
        if not isinstance(grammar, Lark | Gbnf | Triggered):
            raise InvalidArgument(
                f"grammar is a {type(grammar).__name__}; expected a Lark grammar as text",
                field="grammar",
                hint="lw.Gbnf and lw.Triggered are taken too",
            )
        return grammar, None
    return None, None


def _after(marker: str, constraint: Constraint | None, decoder: Decoder | None) -> tuple[Constraint, Decoder | None]:
    """The constraint behind a marker; its value is read from what stands behind it."""
    if constraint is None:
        raise InvalidArgument("after needs a regex, json_schema, schema or grammar", field="after")
    constraint = After(checked_text(marker, "after"), constraint)
    if decoder is None:
        return constraint, None
    read = decoder.read
    return constraint, Decoder(decoder.kind, lambda text: read(text.partition(marker)[2] if marker in text else text))


def _regex(pattern: str, field: str = "regex") -> Regex:
    """The runtime's own parser has the last word; what Python refuses is refused here, where it was written."""
    if not isinstance(pattern, str):
        raise InvalidArgument(f"{field} is a {type(pattern).__name__}; expected a pattern as text", field=field)
    try:
        re.compile(checked_text(pattern, field))
    except re.error as error:
        position = error.pos or 0
        raise RegexError(
            f"invalid regex: {error.msg} at character {position}\n{point_at(pattern, position)}",
            field=field,
            position=position,
        ) from None
    except (OverflowError, RecursionError) as error:
        raise RegexError(f"invalid regex: {error}", field=field, position=0) from None
    return Regex(pattern)


def select(
    name: str | None = None,
    choices: Sequence[str] | None = None,
    temperature: float = 0.0,
    choices_method: ChoicesSamplingMethod | SelectMethod = token_length_normalized,
) -> Expr:
    """The likeliest of `choices`, appended and stored under `name`; `s.meta(name)` has a score and a probability each.

    choices_method: how it scores them, one of lang/choices.py or its name. temperature: above 0, one is drawn from
    softmax(scores / temperature), which a run's own temperature has no part in; "probability" at 1 draws as the model
    would. Raises InvalidArgument, for no choices too."""
    if name is not None:
        checked_name(name)
    if isinstance(choices, str) or not isinstance(choices, Sequence):
        raise InvalidArgument(f"choices is a {type(choices).__name__}; expected a list of strings", field="choices")
    for choice in choices:
        if not isinstance(choice, str):
            raise InvalidArgument(f"choices holds {choice!r}; expected strings", field="choices")
        checked_text(choice, "choices")
    method = choices_method.name if isinstance(choices_method, ChoicesSamplingMethod) else choices_method
    if method not in get_args(SelectMethod):
        raise InvalidArgument(
            f"choices_method is {method!r}; expected one of {get_args(SelectMethod)}", field="choices_method"
        )
    return Expr(Piece(Select(name, tuple(choices), method, temperature)))


def image(expr: Any) -> Expr:
    """SGLang's verb for a picture. Raises Unsupported: no model here reads pictures."""
    raise Unsupported("no model here reads pictures", field="image")


def video(path: str, num_frames: int) -> Expr:
    """SGLang's verb for a film. Raises Unsupported: no model here reads films."""
    raise Unsupported("no model here reads films", field="video")


def system(expr: str | Expr | None = None) -> Expr:
    """A system message, in the markers of the model's own template."""
    return message("system", expr if expr is not None else "")


def user(expr: str | Expr | None = None) -> Expr:
    """A user message, in the markers of the model's own template."""
    return message("user", expr if expr is not None else "")


def assistant(expr: str | Expr | None = None) -> Expr:
    """An assistant message, in the markers of the model's own template."""
    return message("assistant", expr if expr is not None else "")


def system_begin() -> Expr:
    """Opens a system message, up to `system_end()`."""
    return Expr(Piece(Role("system")))


def system_end() -> Expr:
    """Ends a system message. Appending it raises ProgramError where none is open."""
    return Expr(Piece(Role(None), closes="system"))


def user_begin() -> Expr:
    """Opens a user message, up to `user_end()`."""
    return Expr(Piece(Role("user")))


def user_end() -> Expr:
    """Ends a user message. Appending it raises ProgramError where none is open."""
    return Expr(Piece(Role(None), closes="user"))


def assistant_begin() -> Expr:
    """Opens an assistant message, up to `assistant_end()`."""
    return Expr(Piece(Role("assistant")))


def assistant_end() -> Expr:
    """Ends an assistant message. Appending it raises ProgramError where none is open."""
    return Expr(Piece(Role(None), closes="assistant"))
