"""Raw calls over HTTP to any OpenAI-compatible server, and what they used. Knows no program."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.serve import TIMEOUT_SECONDS, BadAnswer
from latticework.lang.events import Usage


@dataclass
class HttpCaller:
    """A `Caller`. usage: of all calls so far."""

    http: httpx.AsyncClient
    model: str
    usage: Usage = field(default_factory=Usage)

    async def chat(self, messages: list[dict[str, str]], max_tokens: int, schema: dict[str, Any] | None = None) -> str:
        body: dict[str, Any] = {"messages": messages, "max_tokens": max_tokens}
        if schema is not None:
            form = {"name": "answer", "schema": schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        choice = await self._ask("chat/completions", body)
        return str(choice["message"]["content"] or "")

    async def complete(self, prompt: str, max_tokens: int, stop: str | None = None) -> str:
        body: dict[str, Any] = {"prompt": prompt, "max_tokens": max_tokens}
        if stop is not None:
            body["stop"] = [stop]
        return str((await self._ask("completions", body))["text"])

    async def choose(self, prompt: str, options: list[str]) -> str:
        scores = await asyncio.gather(*(self._score(prompt, option) for option in options))
        return options[scores.index(max(scores))]

    async def _score(self, prompt: str, option: str) -> float:
        """Mean log-probability of the option's tokens: those of an echo that have a part in it."""
        body = {"prompt": prompt + option, "max_tokens": 1, "echo": True, "logprobs": 1}
        found = (await self._ask("completions", body))["logprobs"]
        start, end, offsets = len(prompt), len(prompt) + len(option), found["text_offset"]
        spans = zip(offsets, [*offsets[1:], end + 1], found["token_logprobs"], strict=True)
        own = [logprob for first, behind, logprob in spans if first < end and behind > start]
        if not own:
            raise BadAnswer(f"the server echoed no token of {option!r}; scoring needs echo with logprobs")
        return float(sum(own) / len(own))

    async def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The first choice."""
        response = await self.http.post(path, json={"model": self.model, "temperature": 0, **body})
        if response.status_code != 200:
            raise BadAnswer(f"{path}: {response.status_code}: {response.text}")
        answer = response.json()
        usage = answer.get("usage")
        if not usage:
            raise BadAnswer(f"{path}: the server told no usage")
        prompt = usage["prompt_tokens"]
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        self.usage += Usage(prompt, cached, prompt - cached, usage.get("completion_tokens") or 0)
        choice: dict[str, Any] = answer["choices"][0]
        return choice


def client(base_url: str) -> httpx.AsyncClient:
    """base_url: with its /v1. As many connections as there are calls at once; plain HTTP reads no certificates."""
    limits = httpx.Limits(max_connections=None)
    verify = not base_url.startswith("http://")
    return httpx.AsyncClient(base_url=f"{base_url.rstrip('/')}/", timeout=TIMEOUT_SECONDS, limits=limits, verify=verify)
