"""The bodies of the routes that SGLang's clients use.

Names are SGLang's. A field that would change the answer is either obeyed or refused; only fields that cannot change
it are ignored. This file knows the shape of a body, not what it asks of the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from latticework.lang.errors import InvalidArgument, Unsupported
from latticework.runtime.schedule.accepted import MAX_PRIORITY

MAX_TIMEOUT = 86_400.0  # seconds
MAX_RID_CHARS = 256
ABSENT: tuple[Any, ...] = ()
"""Besides null nothing is accepted."""


class NativeBody(BaseModel):
    """ignored: fields that never change the text. neutral: fields not supported, and the values (besides null) that
    ask for nothing and are therefore accepted. inside: where in the body it stands."""

    model_config = ConfigDict(extra="allow", strict=True)
    ignored: ClassVar[frozenset[str]] = frozenset()
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    inside: ClassVar[str] = ""

    def check_other_fields(self) -> None:
        """Raises Unsupported or InvalidArgument for a field that would be obeyed elsewhere but is not here."""
        for name, value in (self.model_extra or {}).items():
            if value is None or name in self.ignored:
                continue
            if name not in self.neutral:
                near = get_close_matches(name, [*type(self).model_fields, *self.neutral], n=1)
                raise InvalidArgument(
                    f"unknown field {name}",
                    field=self.inside + name,
                    hint=f"did you mean {near[0]}?" if near else None,
                )
            if not any(type(value) is type(same) and value == same for same in self.neutral[name]):
                allowed = " or ".join(map(repr, self.neutral[name])) or "null"
                raise Unsupported(f"{name} is not supported; expected {allowed}", field=self.inside + name)


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _or_empty(value: object) -> object:
    return {} if value is None else value


Rid = Annotated[str, Field(min_length=1, max_length=MAX_RID_CHARS)]
Texts = Annotated[list[str] | None, BeforeValidator(_as_list)]


class SamplingParams(NativeBody):
    """How tokens are drawn. null means: not given. max_new_tokens 0: the prompt is computed, nothing is drawn."""

    inside = "sampling_params."
    ignored = frozenset({"spaces_between_special_tokens", "stream_interval"})
    neutral = {"skip_special_tokens": (True,), "beam_width": (1,), "custom_params": ({},)}

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    stop: Texts = None
    stop_token_ids: list[int] | None = None
    stop_regex: Texts = None
    no_stop_trim: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    ignore_eos: bool | None = None
    n: int | None = None
    sampling_seed: int | None = None
    regex: str | None = None
    json_schema: str | dict[str, Any] | bool | None = None
    ebnf: str | None = None
    structural_tag: str | dict[str, Any] | None = None


class GenerateBody(NativeBody):
    """POST /generate. text or input_ids: one prompt, or a list of them."""

    ignored = frozenset({"background", "conversation_id", "log_metrics", "routing_key", "return_prompt_token_ids"})
    neutral = {
        "image_data": ([],),
        "audio_data": ([],),
        "video_data": ([],),
        "modalities": ([], ["text"]),
        "input_embeds": ABSENT,
        "lora_path": ABSENT,
        "lora_id": ABSENT,
        "session_params": ABSENT,
        "custom_logit_processor": ABSENT,
        "token_ids_logprob": ABSENT,
        "return_hidden_states": (False,),
        "return_routed_experts": (False,),
        "require_reasoning": (False,),
        "no_logs": (False,),
        "extra_key": ABSENT,
    }

    text: str | list[str] | None = None
    input_ids: list[int] | list[list[int]] | None = None
    sampling_params: Annotated[SamplingParams, BeforeValidator(_or_empty)] = Field(default_factory=SamplingParams)
    rid: Rid | list[Rid] | None = None
    return_logprob: bool | None = None
    logprob_start_len: Annotated[int | None, Field(ge=-1)] = None
    top_logprobs_num: int | None = None
    return_text_in_logprobs: bool | None = None
    stream: bool | None = None
    priority: Annotated[int | None, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = None
    timeout: Annotated[float | None, Field(gt=0, le=MAX_TIMEOUT)] = None


class AbortBody(NativeBody):
    """POST /abort_request. rid: as it was given with the request."""

    ignored = frozenset({"finished_reason", "abort_message"})

    rid: str = ""
    abort_all: bool = False
