"""What was generated, as OpenAI's objects. Pure functions: no HTTP, no waiting."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from latticework.lang.events import Done, TokenLogprob, Usage
from latticework.runtime.programs.generation import Output
from latticework.runtime.server.echo import Echo, finite, prompt_logprobs_object
from latticework.runtime.server.errors import PARAMS


@dataclass
class _Answer:
    """What all objects of one answer share. n: outputs of each prompt. prompt_logprobs: how many of the likeliest
    tokens at each place of the prompts are told; None: nothing is."""

    prefix: ClassVar[str]
    kind: ClassVar[str]
    chunk_kind: ClassVar[str]

    model: str
    token_bytes: Sequence[bytes]
    include_usage: bool = False
    params: Mapping[str, str] = field(default_factory=lambda: PARAMS)
    n: int = 1
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        self._id = f"{self.prefix}-{secrets.token_hex(12)}"
        self._created = int(time.time())

    def _whole(self, choices: list[dict[str, Any]], outputs: Sequence[Output]) -> dict[str, Any]:
        if self.prompt_logprobs is not None:
            for choice in choices:
                found = _done(outputs[choice["index"] // self.n * self.n]).prompt_logprobs
                choice["prompt_logprobs"] = prompt_logprobs_object(found, self.prompt_logprobs)
        usage = next(output.usage for output in outputs if output.usage is not None)
        return self._object(self.kind, choices) | {"usage": usage_object(usage)}

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        """Where the last chunk will carry the usage, every other has `usage: null`."""
        return self._object(self.chunk_kind, [choice]) | ({"usage": None} if self.include_usage else {})

    def _usage_chunks(self, output: Output) -> list[dict[str, Any]]:
        if not self.include_usage or output.usage is None:
            return []
        return [self._object(self.chunk_kind, []) | {"usage": usage_object(output.usage)}]

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self.model, "choices": choices}


@dataclass
class ChatAnswer(_Answer):
    """chat.completion, or its chunks."""

    prefix = "chatcmpl"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def whole(self, outputs: Sequence[Output]) -> dict[str, Any]:
        """outputs: every one of them whole, in order."""
        return self._whole([self._choice(output) for output in outputs], outputs)

    def _choice(self, output: Output) -> dict[str, Any]:
        return {
            "index": output.index,
            "message": {"role": "assistant", "content": output.text, "refusal": None},
            "logprobs": self._logprobs(output.logprobs) if output.logprobs else None,
            "finish_reason": finish_reason(_done(output)),
        }

    def first(self) -> list[dict[str, Any]]:
        return [self._delta(index, {"role": "assistant", "content": ""}) for index in range(self.n)]

    def chunk(self, output: Output) -> list[dict[str, Any]]:
        chunks = []
        if output.text or output.logprobs:
            logprobs = self._logprobs(output.logprobs) if output.logprobs else None
            chunks.append(self._delta(output.index, {"content": output.text}, logprobs=logprobs))
        if output.done is not None:
            chunks.append(self._delta(output.index, {}, finish_reason(output.done)))
        return chunks + self._usage_chunks(output)

    def _delta(
        self, index: int, delta: dict[str, Any], finish: str | None = None, logprobs: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self._chunk(choice)

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        return {
            "content": [
                {
                    **self._token(token.token, token.text, token.logprob),
                    "top_logprobs": [self._token(*other) for other in token.top],
                }
                for token in tokens
            ],
            "refusal": None,
        }

    def _token(self, token: int, text: str, logprob: float) -> dict[str, Any]:
        data = self.token_bytes[token] if token < len(self.token_bytes) else b""
        return {"token": text, "logprob": finite(logprob), "bytes": list(data)}


@dataclass
class CompletionAnswer(_Answer):
    """text_completion, whole or in chunks (the same object). echoes: every prompt, where they are shown. likeliest:
    how many tokens the log-probabilities of an echo tell at each place."""

    prefix = "cmpl"
    kind = "text_completion"
    chunk_kind = "text_completion"
    echoes: Sequence[Echo] = ()
    likeliest: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._offsets: dict[int, int] = {}  # characters of each choice so far

    def whole(self, outputs: Sequence[Output]) -> dict[str, Any]:
        """outputs: every one of them whole, in order."""
        choices = [self._choice(output) for output in outputs]
        if self.echoes and self.likeliest is not None:
            for choice in choices:
                first = _done(outputs[choice["index"] // self.n * self.n])
                self._put_before(choice, self.echoes[choice["index"] // self.n], first.prompt_logprobs)
        return self._whole(choices, outputs)

    def first(self) -> list[dict[str, Any]]:
        return []

    def chunk(self, output: Output) -> list[dict[str, Any]]:
        return [self._chunk(self._choice(output)), *self._usage_chunks(output)]

    def _choice(self, output: Output) -> dict[str, Any]:
        text = output.text
        if self.echoes and output.index not in self._offsets:
            echo = self.echoes[output.index // self.n].text
            self._offsets[output.index] = len(echo)
            text = echo + text
        return {
            "index": output.index,
            "text": text,
            "logprobs": self._logprobs(output.index, output.logprobs) if output.logprobs else None,
            "finish_reason": finish_reason(output.done) if output.done is not None else None,
        }

    def _logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        start = self._offsets.get(index, 0)
        offsets = [*itertools.accumulate((len(token.text) for token in tokens), initial=start)]
        self._offsets[index] = offsets.pop()
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [finite(token.logprob) for token in tokens],
            "top_logprobs": [{text: finite(p) for _, text, p in token.top} for token in tokens],
            "text_offset": offsets,
        }

    def _put_before(self, choice: dict[str, Any], echo: Echo, known: Sequence[TokenLogprob]) -> None:
        """The prompt's tokens, before those of the output. What nothing precedes has no probability."""
        unknown: list[Any] = [None] * (len(echo.tokens) - len(known))
        before = {
            "tokens": list(echo.tokens),
            "token_logprobs": unknown + [finite(token.logprob) for token in known],
            "top_logprobs": unknown
            + [{text: finite(p) for _, text, p in token.top[: self.likeliest]} for token in known],
            "text_offset": [*itertools.accumulate(map(len, echo.tokens), initial=0)][:-1],
        }
        after = choice["logprobs"] or {}
        choice["logprobs"] = {name: values + after.get(name, []) for name, values in before.items()}


def finish_reason(done: Done) -> str:
    return "length" if done.finish == "length" else "stop"


def usage_object(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.output,
        "total_tokens": usage.prompt + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }


def gathered(parts: Iterable[Output]) -> list[Output]:
    """Every output whole, in order of index."""
    found: dict[int, list[Output]] = {}
    for part in parts:
        found.setdefault(part.index, []).append(part)
    return [_merged(found[index]) for index in sorted(found)]


def _merged(parts: Sequence[Output]) -> Output:
    logprobs = tuple(token for part in parts for token in part.logprobs)
    last = parts[-1]
    return Output("".join(part.text for part in parts), logprobs, last.done, last.index, last.usage)


def _done(output: Output) -> Done:
    assert output.done is not None, "the last piece of an output carries its Done"
    return output.done
