"""The bodies of the OpenAI-compatible routes.

A field that would change the answer is either obeyed or refused; only fields that cannot change it are ignored.
This file knows the shape of a body, not what it asks of the engine.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from latticework.lang.errors import InvalidArgument, Unsupported
from latticework.runtime.schedule.accepted import MAX_PRIORITY

IGNORED = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
"""Fields of OpenAI's API that change billing, storage or speed, never the text."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Fields not supported yet, and the values (besides null) that ask for nothing and are therefore accepted."""


MAX_TIMEOUT = 86_400.0  # seconds


class _Body(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    def check_other_fields(self) -> None:
        """Raises Unsupported or InvalidArgument for a field that would be obeyed elsewhere but is not here."""
        for name, value in (self.model_extra or {}).items():
            if value is None or name in IGNORED:
                continue
            if name not in NEUTRAL:
                near = get_close_matches(name, [*type(self).model_fields, *NEUTRAL], n=1)
                hint = f"did you mean {near[0]}?" if near else None
                raise InvalidArgument(f"unknown field {name}", field=name, hint=hint)
            if not any(type(value) is type(same) and value == same for same in _numbers_alike(NEUTRAL[name])):
                allowed = " or ".join(map(repr, NEUTRAL[name])) or "null"
                raise Unsupported(f"{name} is not supported yet; expected {allowed}", field=name)


def _numbers_alike(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*values, *(float(v) for v in values if type(v) is int))


class TextPart(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message of a chat. Fields of richer messages are accepted while they are null or empty."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    @model_validator(mode="after")
    def _nothing_else(self) -> Message:
        for name, value in (self.model_extra or {}).items():
            if value not in (None, [], {}):
                raise ValueError(f"{name} of a message is not supported yet")
        return self

    def plain(self) -> dict[str, str]:
        """The message as role and text, the form a chat template takes."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # padding against traffic analysis; a loopback server adds none


class JsonSchemaFormat(BaseModel):
    """`strict` is accepted and always on: a schema is enforced or refused."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] | bool = Field(alias="schema")


class StructuralTag(BaseModel):
    """One of the `structures` of a structural tag."""

    model_config = ConfigDict(extra="forbid", strict=True)

    begin: str
    schema_: dict[str, Any] | bool = Field(alias="schema")
    end: str


class ResponseFormat(BaseModel):
    """structures, triggers: a structural tag as SGLang and vLLM first took it; format: as they take it now (its kinds
    are read in `constraint_fields.py`)."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchemaFormat | None = None
    structures: list[StructuralTag] | None = None
    triggers: list[str] | None = None
    format: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _schema_given(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema is given exactly when type is 'json_schema'")
        is_tag = self.type == "structural_tag"
        if is_tag != (self.structures is not None or self.format is not None):
            raise ValueError("structures, or a format, are given exactly when type is 'structural_tag'")
        if (self.structures is not None) != (self.triggers is not None):
            raise ValueError("structures and triggers are given together")
        return self


class StructuredOutputs(BaseModel):
    """vLLM's. At most one of them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    json_: Annotated[str | dict[str, Any] | None, Field(alias="json")] = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | dict[str, Any] | None = None


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class GenerationBody(_Body):
    """What chat and text completions have in common. null means: not given. Fields of `Sampling` have its names and
    its checks. timeout: seconds until it is ended."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    stop: Annotated[list[str] | None, BeforeValidator(_as_list)] = None
    stop_token_ids: list[int] | None = None
    stop_regex: Annotated[list[str] | None, BeforeValidator(_as_list)] = None
    include_stop: Annotated[
        bool | None, Field(validation_alias=AliasChoices("include_stop", "include_stop_str_in_output"))
    ] = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    seed: int | None = None
    n: int | None = None
    best_of: int | None = None
    prompt_logprobs: int | None = None
    response_format: ResponseFormat | None = None
    regex: str | None = None
    choices: list[str] | None = None
    json_schema: str | dict[str, Any] | None = None  # SGLang's, with the two below
    ebnf: str | None = None
    structural_tag: str | dict[str, Any] | None = None
    structured_outputs: StructuredOutputs | None = None  # vLLM's, and what it took before
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    timeout: Annotated[float | None, Field(gt=0, le=MAX_TIMEOUT)] = None
    priority: Annotated[int | None, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = None


class ChatBody(GenerationBody):
    """POST /v1/chat/completions. truncate: what becomes of a chat that leaves no room for its answer."""

    messages: Annotated[list[Message], Field(min_length=1)]
    truncate: Literal["error", "middle"] | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class CompletionBody(GenerationBody):
    """POST /v1/completions. prompt: a string, or its token ids, or a list of such. echo: the prompt is shown before the
    text."""

    prompt: str | list[int] | list[str] | list[list[int]]
    logprobs: int | None = None
    echo: bool | None = None
