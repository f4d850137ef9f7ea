"""What was generated, as SGLang's objects: `{text, output_ids, meta_info}`. No HTTP, no waiting."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from latticework.lang.events import Done, TokenLogprob
from latticework.runtime.programs.generation import Output
from latticework.runtime.server.echo import finite
from latticework.runtime.server.native import Asked

Entry = list[Any]
"""[log-probability or null, token id, text or null], as SGLang tells of one token."""


@dataclass
class _Progress:
    """What one output has said so far."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)


class NativeAnswer:
    """Renders the outputs of one request, whole or as a stream.

    began: when the request came, on the clock of `time.monotonic`. rid: the ids asked for. text_of: the text of one
    token, special ones included. params: how error fields are called.

    A stream's events carry the whole text so far, and of `output_token_logprobs` what is new: together with
    `output_token_logprobs_length`, the number so far, and `completion_tokens` that is what SGLang's clients count.
    """

    def __init__(
        self,
        asked: Asked,
        rid: str | list[str] | None,
        *,
        logprobs: bool,
        texts: bool,
        text_of: Callable[[int], str],
        end_ids: Sequence[int],
        params: Mapping[str, str],
        began: float,
    ) -> None:
        self.params = params
        self.aborted: set[int] = set()
        self.ids = _ids(asked, rid)
        self._asked = asked
        self._logprobs = logprobs
        self._texts = texts
        self._text_of = text_of
        self._end_ids = end_ids
        self._began = began
        self._progress = [_Progress() for _ in range(asked.outputs)]

    # ------------------------------------------------------------ whole

    def whole(self, outputs: Sequence[Output]) -> Any:
        """outputs: every one of them whole, in order."""
        found = [self._object(output, output.logprobs) for output in outputs]
        return found if self._asked.many else found[0]

    # ------------------------------------------------------------ stream

    def first(self) -> list[dict[str, Any]]:
        return []

    def chunk(self, output: Output) -> list[dict[str, Any]]:
        told = self._object(output, output.logprobs)
        return [told | {"index": output.index} if self._asked.many else told]

    # ------------------------------------------------------------ one output

    def drawn(self, index: int) -> int:
        """Tokens of an output so far."""
        return len(self._progress[index].tokens)

    def _object(self, output: Output, new: Sequence[TokenLogprob]) -> dict[str, Any]:
        progress = self._progress[output.index]
        if self._asked.prefill:
            new = ()
        else:
            progress.text += output.text
            progress.tokens += [token.token for token in new]
        return {
            "text": progress.text,
            "output_ids": list(progress.tokens),
            "meta_info": self._meta(output, progress, new),
        }

    def _meta(self, output: Output, progress: _Progress, new: Sequence[TokenLogprob]) -> dict[str, Any]:
        prompt = self._asked.prompts[output.index // self._asked.gen.sampling.n]
        meta: dict[str, Any] = {
            "id": self.ids[output.index],
            "finish_reason": None,
            "prompt_tokens": len(prompt.tokens),
            "completion_tokens": len(progress.tokens),
            "e2e_latency": time.monotonic() - self._began,
        }
        done = output.done
        if done is not None:
            meta["finish_reason"] = self._finish(output.index, done, len(progress.tokens))
            meta["cached_tokens"] = done.usage.cached
        if self._logprobs:
            self._tell_outputs(meta, new, len(progress.tokens))
            if done is not None:
                self._tell_prompt(meta, prompt.tokens, done.prompt_logprobs)
        return meta

    def _finish(self, index: int, done: Done, drawn: int) -> dict[str, Any]:
        if index in self.aborted:
            return {"type": "abort", "message": "the request was aborted"}
        if self._asked.prefill:
            return {"type": "length", "length": 0}
        if done.finish == "length":
            return {"type": "length", "length": done.usage.output}
        matched = done.stopped_by
        if matched is None and done.usage.output > drawn and len(self._end_ids) == 1:
            matched = self._end_ids[0]  # an end token was drawn, which no output keeps
        return {"type": "stop", "matched": matched}

    # ------------------------------------------------------------ log-probabilities

    def _tell_outputs(self, meta: dict[str, Any], new: Sequence[TokenLogprob], so_far: int) -> None:
        meta["output_token_logprobs"] = [self._entry(one.token, one.logprob) for one in new]
        meta["output_token_logprobs_length"] = so_far
        if self._likeliest:
            meta["output_top_logprobs"] = [self._top(one) for one in new]

    def _tell_prompt(self, meta: dict[str, Any], tokens: Sequence[int], known: Sequence[TokenLogprob]) -> None:
        """The first token of all is told, too, and has no probability."""
        first = self._asked.first
        unknown = tokens[:1] if first == 0 else ()
        meta["input_token_logprobs"] = [self._entry(token, None) for token in unknown] + [
            self._entry(one.token, one.logprob) for one in known
        ]
        if self._likeliest:
            meta["input_top_logprobs"] = [None for _ in unknown] + [self._top(one) for one in known]

    @property
    def _likeliest(self) -> int:
        return self._asked.gen.sampling.logprobs or 0

    def _top(self, one: TokenLogprob) -> list[Entry]:
        return [self._entry(token, logprob) for token, _, logprob in one.top]

    def _entry(self, token: int, logprob: float | None) -> Entry:
        text = self._text_of(token) if self._texts else None
        return [None if logprob is None else finite(logprob), token, text]


def _ids(asked: Asked, rid: str | list[str] | None) -> list[str]:
    """One id an output: those given, numbered where one stands for several."""
    count = asked.outputs
    if isinstance(rid, list):
        return [rid[index // asked.gen.sampling.n] + _suffix(index, asked.gen.sampling.n) for index in range(count)]
    base = rid or secrets.token_hex(16)
    return [base] if not asked.many else [f"{base}_{index}" for index in range(count)]


def _suffix(index: int, n: int) -> str:
    return f"_{index % n}" if n > 1 else ""
