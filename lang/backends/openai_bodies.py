"""From an op to a request's body, and from an answer to what was said. Pure functions.

Whatever the server's dialect has no words for raises Unsupported here, before anything is sent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latticework.lang.backends.openai_dialects import Dialect
from latticework.lang.backends.openai_transcript import Transcript
from latticework.lang.errors import RuntimeFailure, Unsupported
from latticework.lang.events import Finish, TokenLogprob, Usage
from latticework.lang.ir import Choices, Gen, JsonSchema, Sampling, Select

CHAT = "chat/completions"
COMPLETIONS = "completions"
SCORED_AT_ONCE = 64  # options in one request; servers bound their number of prompts
NO_ID = -1  # servers tell the texts of tokens, not their ids
_DEFAULTS = Sampling()
_BY_SCORES = ("probability", "unconditional_likelihood_normalized")
_PLAIN = ("frequency_penalty", "presence_penalty")
_FURTHER = (
    "top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "stop_token_ids", "stop_regex", "include_stop"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Said:
    """One output, or a piece of one. finish: on its last."""

    text: str = ""
    finish: Finish | None = None
    stopped_by: str | int | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    index: int = 0


# ---------------------------------------------------------------- bodies


def gen_body(op: Gen, sampling: Sampling, transcript: Transcript, dialect: Dialect, model: str) -> dict[str, Any]:
    """Raises Unsupported."""
    if op.heal:
        raise Unsupported("a server of this API takes back no token of its prompt", field="heal", hint="leave heal out")
    body = {"model": model, **_place(transcript, dialect), **_sampling(sampling, transcript.chat, dialect)}
    if op.constraint is None:
        return body
    if isinstance(op.constraint, JsonSchema) and not (transcript.chat or dialect.schema_in_completions):
        raise Unsupported("completions take no JSON Schema here", field="json_schema", hint="use chat")
    if op.on_length == "cut" and dialect.name == "latticework":
        raise Unsupported(
            "over HTTP the server completes what fits; on_length='cut' cannot be asked", field="on_length"
        )
    asked = dialect.constraint(op.constraint)
    if asked is None:
        kind = type(op.constraint).__name__
        raise Unsupported(
            f"a server of the dialect {dialect.name!r} takes no {kind}"
            + (" with options of its own" if isinstance(op.constraint, JsonSchema) else ""),
            field="constraint",
            hint="dialect=… says what the server is, where it does not say so itself",
        )
    return body | asked


def scoring_body(options: Sequence[str], transcript: Transcript, model: str) -> dict[str, Any]:
    """Asks for the log-probabilities of the prompt alone and before every option. One token is drawn after each, and
    not looked at: not all servers draw none."""
    prompt = transcript.prompt()
    return _echo_body([prompt, *(prompt + option for option in options)], model)


def alone_body(options: Sequence[str], model: str) -> dict[str, Any]:
    """Asks for the log-probabilities of every option without any text before it."""
    return _echo_body(options, model)


def _echo_body(prompts: Sequence[str], model: str) -> dict[str, Any]:
    return {"model": model, "prompt": list(prompts), "echo": True, "logprobs": 0, "max_tokens": 1, "temperature": 0}


def choice_body(op: Select, transcript: Transcript, dialect: Dialect, model: str) -> tuple[dict[str, Any], bool]:
    """Asks for one of the options, and whether it comes as {"choice": option}. Raises Unsupported.

    The server decides token by token among the options, as greedy_token_selection does; it stands for the default
    method, too. What compares or draws by numbers is refused."""
    if op.method in _BY_SCORES or op.temperature:
        field, value = ("temperature", op.temperature) if op.temperature else ("choices_method", op.method)
        raise Unsupported(
            f"a select here is a constrained choice, which has no scores: it takes no {field} {value!r}",
            field=field,
            hint="completions of a server that scores prompts take it: is_chat_model=False",
        )
    budget = Sampling(max_tokens=16 + 4 * max(len(option.encode()) for option in op.options), temperature=0.0)
    body = {"model": model, **_place(transcript, dialect), **_sampling(budget, transcript.chat, dialect)}
    asked = dialect.constraint(Choices(op.options))
    if asked is not None:
        return body | asked, False
    if not transcript.chat:
        raise Unsupported("completions here neither score nor constrain, so they cannot select", hint="use chat")
    schema = {
        "type": "object",
        "properties": {"choice": {"enum": list(op.options), "type": "string"}},
        "required": ["choice"],
        "additionalProperties": False,
    }
    asked = dialect.constraint(JsonSchema(schema))
    assert asked is not None, "every dialect takes a JSON Schema"
    return body | asked, True


def _place(transcript: Transcript, dialect: Dialect) -> dict[str, Any]:
    if not transcript.chat:
        return {"prompt": transcript.prompt()}
    messages, begun = transcript.messages(dialect.continues)
    more = {"continue_final_message": True, "add_generation_prompt": False} if begun else {}
    return {"messages": messages, **more}


def _sampling(sampling: Sampling, chat: bool, dialect: Dialect) -> dict[str, Any]:
    body: dict[str, Any] = {dialect.chat_tokens if chat else "max_tokens": sampling.max_tokens}
    for name in ("temperature", "top_p"):
        if not dialect.defaults or getattr(sampling, name) != getattr(_DEFAULTS, name):
            body[name] = getattr(sampling, name)
    body |= {name: getattr(sampling, name) for name in _PLAIN if getattr(sampling, name)}
    if sampling.stop:
        if dialect.stops is not None and len(sampling.stop) > dialect.stops:
            raise Unsupported(f"{len(sampling.stop)} stops are given; this API takes {dialect.stops}", field="stop")
        body["stop"] = list(sampling.stop)
    if sampling.seed is not None:
        body["seed"] = sampling.seed % (1 << dialect.seed_bits)
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
    if sampling.n > 1:
        body["n"] = sampling.n
    if sampling.best_of is not None:
        if not dialect.best_of:
            raise Unsupported("best_of is not taken", field="best_of", hint="n is")
        body["best_of"] = sampling.best_of
    if sampling.prompt_logprobs is not None:
        raise Unsupported("the log-probabilities of prompts are not told", field="prompt_logprobs")
    return body | _logprobs(sampling, chat) | _further(sampling, dialect)


def _logprobs(sampling: Sampling, chat: bool) -> dict[str, Any]:
    if sampling.logprobs is None:
        return {}
    if not chat:
        return {"logprobs": sampling.logprobs}
    return {"logprobs": True, **({"top_logprobs": sampling.logprobs} if sampling.logprobs else {})}


def _further(sampling: Sampling, dialect: Dialect) -> dict[str, Any]:
    body = {}
    for name in _FURTHER:
        value = getattr(sampling, name)
        if value == getattr(_DEFAULTS, name):
            continue
        if name not in dialect.sampling:
            raise Unsupported(f"a server of the dialect {dialect.name!r} takes no {name}", field=name)
        body[dialect.sampling[name]] = list(value) if isinstance(value, tuple) else value
    return body


# ---------------------------------------------------------------- answers


def said(answer: Any, chat: bool) -> list[Said]:
    """Every output of a whole answer, in order, or the pieces in one event of a stream. Raises RuntimeFailure."""
    try:
        choices = answer.get("choices") or []
        return sorted((_said(choice, chat) for choice in choices), key=lambda one: one.index)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise RuntimeFailure(f"the server's answer cannot be read: {type(error).__name__}: {error}") from None


def _said(choice: Mapping[str, Any], chat: bool) -> Said:
    content = (choice.get("message") or choice.get("delta") or {}) if chat else choice
    if content.get("refusal"):
        raise RuntimeFailure(f"the model refuses to answer: {str(content['refusal'])[:200]}")
    text = content.get("content" if chat else "text") or ""
    logprobs = choice.get("logprobs") or {}
    found = _chat_logprobs(logprobs) if chat else _completion_logprobs(logprobs)
    return Said(text, _finish(choice.get("finish_reason")), choice.get("stop_reason"), found, choice.get("index") or 0)


def _finish(reason: object) -> Finish | None:
    if reason is None:
        return None
    if reason in ("stop", "length"):
        return "length" if reason == "length" else "stop"
    raise RuntimeFailure(f"the server ended the output for another reason: {reason!r}")


def _chat_logprobs(logprobs: Mapping[str, Any]) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(
            NO_ID,
            token["token"],
            token["logprob"],
            tuple((NO_ID, other["token"], other["logprob"]) for other in token.get("top_logprobs") or ()),
        )
        for token in logprobs.get("content") or ()
    )


def _completion_logprobs(logprobs: Mapping[str, Any]) -> tuple[TokenLogprob, ...]:
    tokens, values = logprobs.get("tokens") or (), logprobs.get("token_logprobs") or ()
    tops = logprobs.get("top_logprobs") or [None] * len(tokens)
    return tuple(
        TokenLogprob(NO_ID, text, value, tuple((NO_ID, *pair) for pair in (top or {}).items()))
        for text, value, top in zip(tokens, values, tops, strict=True)
        if value is not None
    )


def usage(answer: Any) -> Usage:
    """What an answer, or the last event of a stream, says it took; nothing, where it says nothing."""
    told = answer.get("usage") if isinstance(answer, dict) else None
    if not isinstance(told, dict):
        return Usage()
    prompt, cached = (
        _count(told.get("prompt_tokens")),
        _count((told.get("prompt_tokens_details") or {}).get("cached_tokens")),
    )
    return Usage(prompt, cached, max(0, prompt - cached), _count(told.get("completion_tokens")))


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def option_scores(answer: Any, prompt: str, options: Sequence[str]) -> list[list[float]]:
    """The log-probabilities of every option's tokens, from the answer to a `scoring_body`: those after what it has in
    common with the prompt alone. A token that goes across the seam is the option's. Raises RuntimeFailure."""
    try:
        choices = sorted(answer["choices"], key=lambda choice: choice["index"])
        texts = [prompt, *(prompt + option for option in options)]
        read = [_echoed(choice, text) for choice, text in zip(choices, texts, strict=True)]
        before = [token for token, _ in read[0]]
        found = [_after(before, option) for option in read[1:]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RuntimeFailure(f"the server's answer has no scores: {type(error).__name__}: {error}") from None
    if not all(found):
        raise RuntimeFailure("the server tells no log-probabilities of an option's tokens")
    return found


def alone_scores(answer: Any, options: Sequence[str]) -> list[float]:
    """For every option, the sum of its tokens' log-probabilities after its first, from the answer to an `alone_body`.
    A token that the server puts before the text, such as one for its beginning, is left out where token texts show it.
    Raises RuntimeFailure."""
    try:
        choices = sorted(answer["choices"], key=lambda choice: choice["index"])
        read = [_echoed(choice, option) for choice, option in zip(choices, options, strict=True)]
        return [math.fsum(_behind_first(tokens, option)) for tokens, option in zip(read, options, strict=True)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RuntimeFailure(f"the server's answer has no scores: {type(error).__name__}: {error}") from None


def _behind_first(tokens: Sequence[tuple[str, float | None]], option: str) -> list[float]:
    texts = [text for text, _ in tokens]
    first = next((index for index in range(len(texts)) if "".join(texts[index:]) == option), 0)
    return [float(value) for _, value in tokens[first + 1 :] if value is not None]


def _echoed(choice: Mapping[str, Any], text: str) -> list[tuple[str, float | None]]:
    """The tokens of `text` and their log-probabilities; the one that was drawn after them is left out."""
    told = choice["logprobs"]
    tokens = list(zip(told["tokens"], told["token_logprobs"], strict=True))
    if choice["finish_reason"] == "length" or "".join(token for token, _ in tokens[:-1]).endswith(text):
        tokens.pop()  # in the second case an end token, which a server may list although no text shows it
    return tokens


def _after(before: Sequence[str], option: Sequence[tuple[str, float | None]]) -> list[float]:
    shared = 0
    while shared < min(len(before), len(option)) and before[shared] == option[shared][0]:
        shared += 1
    return [float(value) for _, value in option[shared:] if value is not None]


def chosen(text: str, options: Sequence[str], as_json: bool) -> str:
    """The option an answer names. Raises RuntimeFailure where it names none."""
    try:
        choice = json.loads(text)["choice"] if as_json else text
    except (ValueError, KeyError, TypeError):
        choice = None
    if choice not in options:
        raise RuntimeFailure(f"the server was to choose one of {list(options)[:8]}, and answers {text[:80]!r}")
    return str(choice)
