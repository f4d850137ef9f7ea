"""A front without an engine, and a way to talk to any front over real HTTP."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import SimpleNamespace, TracebackType
from typing import Any, cast

import httpx
import pytest

from latticework.lang.errors import LatticeworkError
from latticework.lang.events import Done, TokenLogprob, Usage
from latticework.lang.ir import Gen
from latticework.runtime.config import ServerConfig
from latticework.runtime.link.front_server import FrontServer
from latticework.runtime.link.messages import EngineStats
from latticework.runtime.meter import Meter
from latticework.runtime.model.tiny import tiny_card
from latticework.runtime.programs.deadline import Deadline
from latticework.runtime.programs.front import Front
from latticework.runtime.programs.generation import Output
from latticework.runtime.request import TextSegment
from latticework.runtime.server import http
from latticework.runtime.tenants import ApiKeys
from latticework.runtime.text.tokenizer import Tokenizer


class ScriptedFront:
    """Answers every generation with `pieces`, one every `pause` seconds; then `failure`, if there is one.

    asked: what was asked, in order. left: how many generations were entered and then left.
    """

    def __init__(self) -> None:
        self.card = tiny_card()
        self.tokenizer = Tokenizer.from_file(self.card.tokenizer)
        self.context = 4096
        self.server = ServerConfig(max_body_mb=1)
        self.dtype = "float64"
        self.link = SimpleNamespace(
            ready=asyncio.Event(), meter=Meter(), stats=EngineStats(), restarts=0, bad_frames=0, open_requests=0
        )
        self.link.ready.set()
        self.pieces = ["Hel", "lo", "!"]
        self.finish: Any = "stop"
        self.pause = 0.0
        self.failure: LatticeworkError | Exception | None = None
        self.asked: list[tuple[TextSegment, Gen]] = []
        self.terms: list[tuple[float | None, int]] = []
        self.tenants: list[str] = []
        self.entered = 0
        self.left = 0

    def chat_prompt(self, messages: list[dict[str, str]]) -> TextSegment:
        return self.text_prompt("".join(f"{message['role']}: {message['content']}\n" for message in messages))

    def text_prompt(self, prompt: str | list[int]) -> TextSegment:
        return TextSegment(tuple(self.tokenizer.encode(prompt)) if isinstance(prompt, str) else tuple(prompt))

    def generate(
        self,
        prompts: Sequence[TextSegment],
        gen: Gen,
        *,
        deadline: Deadline,
        priority: int = 0,
        tenant: str = "",
    ) -> ScriptedGeneration:
        self.asked += [(prompt, gen) for prompt in prompts]
        self.tenants.append(tenant)
        self.terms.append((deadline.seconds, priority))
        return ScriptedGeneration(self, prompts, gen)


class ScriptedGeneration:
    """Outputs take turns, a piece each."""

    def __init__(self, front: ScriptedFront, prompts: Sequence[TextSegment], gen: Gen) -> None:
        self.front = front
        self.prompts = prompts
        self.gen = gen

    async def __aenter__(self) -> ScriptedGeneration:
        self.front.entered += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.front.left += 1

    async def __aiter__(self) -> AsyncIterator[Output]:
        front, sampling = self.front, self.gen.sampling
        outputs = range(len(self.prompts) * sampling.n)
        for piece in front.pieces:
            await asyncio.sleep(front.pause)
            logprobs: tuple[TokenLogprob, ...] = ()
            if sampling.logprobs is not None:
                top = ((97, "a", -0.5), (98, "b", float("-inf")))[: sampling.logprobs]
                logprobs = tuple(TokenLogprob(ord(letter), letter, -0.5, top) for letter in piece)
            for index in outputs:
                yield Output(piece, logprobs, index=index)
        if front.failure is not None:
            raise front.failure
        text = "".join(front.pieces)
        total = Usage()
        for index in outputs:
            prompt = len(self.prompts[index // sampling.n].tokens)
            usage = Usage(prompt, 4, prompt - 4, len(text))
            total += usage if index % sampling.n == 0 else Usage(output=len(text))
            done = Done(
                0,
                0,
                text,
                front.finish,
                usage=usage,
                seed=sampling.seed or 0,
                prompt_logprobs=self._prompt_logprobs(index // sampling.n),
            )
            yield Output("", (), done, index, total if index == outputs[-1] else None)

    def _prompt_logprobs(self, number: int) -> tuple[TokenLogprob, ...]:
        if self.gen.sampling.prompt_logprobs is None:
            return ()
        tokens = self.prompts[number].tokens[1:]
        text = self.front.tokenizer.decode_bytes
        return tuple(TokenLogprob(token, text([token]).decode(), -float(at)) for at, token in enumerate(tokens, 1))


class ServedFront:
    """A front behind real HTTP, in a thread with its own event loop. programs: on its link, too, which only a real
    front has. most, each: generations at once, and of one tenant."""

    def __init__(
        self,
        make: Callable[[], Any],
        keys: ApiKeys | None = None,
        each: int | None = None,
        programs: bool = False,
        most: int = 8,
    ) -> None:
        self.programs = programs
        self.link: FrontServer | None = None
        self.stopped: asyncio.Event | None = None
        self.front: Any = None
        self.places = http.OpenPlaces(most, each)
        self.keys = keys
        self._ready = threading.Event()
        self._bound = http.bind("127.0.0.1", 0)
        self.url = http.url_of(self._bound)
        self._make = make
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(120), "the server did not start"

    async def _serve(self) -> None:
        self.stopped = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        made = self._make()
        self.front = await made if asyncio.iscoroutine(made) else made
        if self.programs:
            self.link = FrontServer(self.front, self.front.folder.address("front"), self.front.server.max_open)
            self.link.start()
        try:
            await http.serve_http(
                cast(Front, self.front), self._bound, self.places, self.stopped, self._ready.set, self.keys, self.link
            )
        finally:
            if self.link is not None:
                await self.link.close()
            if isinstance(self.front, Front):
                await self.front.close()

    def close(self) -> None:
        assert self.stopped is not None
        self._loop.call_soon_threadsafe(self.stopped.set)
        self._thread.join(30)
        self._bound.close()
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def serve_front() -> Iterator[Callable[..., ServedFront]]:
    """Serves what a function (or coroutine function) makes, until the module's tests are over. More arguments: see
    `ServedFront`."""
    served: list[ServedFront] = []

    def serve(make: Callable[[], Any], **more: Any) -> ServedFront:
        served.append(ServedFront(make, **more))
        return served[-1]

    yield serve
    for one in served:
        one.close()


@pytest.fixture(scope="module")
def scripted_server(serve_front: Callable[..., ServedFront]) -> ServedFront:
    return serve_front(ScriptedFront)


@pytest.fixture
def scripted(scripted_server: ServedFront) -> ScriptedFront:
    """The module's scripted front, as new."""
    scripted_server.front.__init__()
    return cast(ScriptedFront, scripted_server.front)


@pytest.fixture
def client(scripted_server: ServedFront, scripted: ScriptedFront) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=scripted_server.url, timeout=30) as http_client:
        yield http_client
