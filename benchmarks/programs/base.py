"""What a workload is: one program, the same work as raw calls, and the data of both. Knows no server and no clock."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from latticework.lang.function import Function


class Caller(Protocol):
    """Calls to an OpenAI-compatible server, greedy, as a client without programs makes them."""

    async def chat(self, messages: list[dict[str, str]], max_tokens: int, schema: dict[str, Any] | None = None) -> str:
        """The answer to a conversation, under a JSON Schema if one is given."""
        ...

    async def complete(self, prompt: str, max_tokens: int, stop: str | None = None) -> str:
        """What the model writes after a text."""
        ...

    async def choose(self, prompt: str, options: list[str]) -> str:
        """The option of the highest mean log-probability after a text."""
        ...


@dataclass(frozen=True)
class Sizes:
    """items: calls of the program. words: of each piece of data that is made up. tokens: of each free gen."""

    items: int
    words: int
    tokens: int


@dataclass(frozen=True)
class Data:
    """constants: what all calls have in common, and what the program is compiled for. items: one dict a call."""

    items: list[dict[str, str]]
    constants: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Workload:
    """A program and `raw`, which does the same; both take the constants and one item of `data`."""

    name: str
    program: Function
    raw: Callable[..., Awaitable[None]]
    data: Callable[[random.Random, Sizes], Data]


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
