"""The HTTP application: routes, and every failure as OpenAI's error body.

Knows a running `Front`. Does not know how it was started or which address is served.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from latticework.lang.errors import Busy, InvalidArgument, LatticeworkError, QuotaExceeded
from latticework.lang.ir import Gen
from latticework.runtime.link.front_server import FrontServer
from latticework.runtime.programs.deadline import Deadline
from latticework.runtime.programs.front import Front
from latticework.runtime.programs.generation import Output
from latticework.runtime.request import TextSegment
from latticework.runtime.server import answers, openai
from latticework.runtime.server.auth import Authentication
from latticework.runtime.server.boundary import Boundary
from latticework.runtime.server.echo import Echo, echo_of
from latticework.runtime.server.errors import error_body, refuse, respond, respond_to_validation
from latticework.runtime.server.link_routes import add_link_routes
from latticework.runtime.server.metrics import CountedAnswers, render
from latticework.runtime.server.native_routes import add_native_routes
from latticework.runtime.server.schemas import ChatBody, CompletionBody, GenerationBody
from latticework.runtime.server.stream import ClientGone, EventStream, outputs, unless_gone
from latticework.runtime.tenants import ApiKeys

log = logging.getLogger("latticework.server")
TRUNCATED = "x-latticework-truncated"  # header: how many tokens were left out of the prompt
CLIENT_GONE = 499  # nginx's number for it; nobody reads the answer


class OpenPlaces:
    """Counts the generations that are open: all, and of each tenant that has a name."""

    def __init__(self, limit: int, each: int | None = None) -> None:
        self.limit = limit
        self.each = limit if each is None else each
        self.taken = 0
        self._of: Counter[str] = Counter()
        self.closed = False

    def close(self) -> None:
        """Nothing new is let in; who is inside goes on."""
        self.closed = True

    async def hold(
        self, source: AsyncGenerator[Output, None], tenant: str = "", count: int = 1
    ) -> AsyncGenerator[Output, None]:
        """`source`, in `count` of the places. Raises QuotaExceeded when the tenant's are taken, Busy when all are or
        none is given any more, InvalidArgument for more than there will ever be."""
        if self.closed:
            raise Busy("the server is shutting down", hint="retry later, or elsewhere")
        most = min(self.limit, self.each) if tenant else self.limit
        if count > most:
            raise InvalidArgument(f"{count} outputs are asked for; {most} can be open at once", field="n")
        if tenant and self._of[tenant] + count > self.each:
            raise QuotaExceeded(
                f"{self._of[tenant]} requests of this key's tenant are open already", hint="retry later"
            )
        if self.taken + count > self.limit:
            raise Busy(f"{self.taken} requests are open already", hint="retry later")
        self.taken += count
        self._of[tenant] += count
        try:
            async with aclosing(source):
                async for output in source:
                    yield output
        finally:
            self.taken -= count
            self._of[tenant] -= count
            if not self._of[tenant]:
                del self._of[tenant]


class UnknownModel(Exception):
    def __init__(self, model: str, known: str) -> None:
        super().__init__(f"the model {model!r} does not exist here; this server has {known!r}")


def create_app(
    front: Front, places: OpenPlaces | None = None, keys: ApiKeys | None = None, link: FrontServer | None = None
) -> ASGIApp:
    """The whole HTTP interface of one front. places: how many generations at once; more are answered 'busy'. keys:
    who may ask; default: everybody. link: serves whole programs, too."""
    places = places or OpenPlaces(front.server.max_open, front.server.max_open_each)
    app = FastAPI(title="Latticework", docs_url=None, redoc_url=None)  # their pages load scripts from elsewhere
    started = int(time.time())
    card = {"id": front.card.name, "object": "model", "created": started, "owned_by": "latticework"}

    @app.get("/health")
    async def health() -> Response:
        if places.closed:
            return JSONResponse({"status": "shutting down"}, 503)
        alive = front.link.ready.is_set()
        return JSONResponse({"status": "ok" if alive else "engine restarting"}, 200 if alive else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(render(front.link), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> dict[str, Any]:
        check_model(model)
        return card

    @app.post("/v1/chat/completions")
    async def chat(body: ChatBody, request: Request) -> Response:
        deadline = Deadline(body.timeout)
        check(body)
        params = openai.chat_params(body)
        try:
            prompt, truncated = await deadline.bound(asyncio.to_thread(openai.chat_prompt, front, body))
            gen = openai.chat_gen(front, body, prompt)
            answer = answers.ChatAnswer(**about(body, gen), params=params)
            response = await generate(request, body, deadline, [prompt], gen, answer)
            if truncated:
                response.headers[TRUNCATED] = str(truncated)
            return response
        except LatticeworkError as error:
            return respond(error, params)

    @app.post("/v1/completions")
    async def completions(body: CompletionBody, request: Request) -> Response:
        deadline = Deadline(body.timeout)
        check(body)
        params = openai.completion_params(body)
        try:
            gen = openai.completion_gen(body)
            prompts = await deadline.bound(asyncio.to_thread(openai.completion_prompts, front, body))
            echoes = await asyncio.to_thread(echoes_of, prompts) if body.echo else []
            answer = answers.CompletionAnswer(**about(body, gen), params=params, echoes=echoes, likeliest=body.logprobs)
            return await generate(request, body, deadline, [encoded for _, encoded in prompts], gen, answer)
        except LatticeworkError as error:
            return respond(error, params)

    def echoes_of(prompts: list[tuple[str | list[int], TextSegment]]) -> list[Echo]:
        return [echo_of(front.tokenizer, *prompt) for prompt in prompts]

    def about(body: GenerationBody, gen: Gen) -> dict[str, Any]:
        """What an answer has to know of the request."""
        return {
            "model": front.card.name,
            "token_bytes": front.tokenizer.token_bytes,
            "include_usage": usage_asked(body),
            "n": gen.sampling.n,
            "prompt_logprobs": body.prompt_logprobs,
        }

    def check(body: GenerationBody) -> None:
        check_model(body.model)
        body.check_other_fields()

    def check_model(model: str) -> None:
        if model != front.card.name:
            raise UnknownModel(model, front.card.name)

    async def generate(
        request: Request,
        body: GenerationBody,
        deadline: Deadline,
        prompts: list[TextSegment],
        gen: Gen,
        answer: answers.ChatAnswer | answers.CompletionAnswer,
    ) -> Response:
        """A failure before the first output is an HTTP status, even for a stream."""
        openai.check_logprobs(front, body, prompts, gen)
        tenant: str = request.state.tenant
        generation = front.generate(prompts, gen, deadline=deadline, priority=body.priority or 0, tenant=tenant)
        source = places.hold(outputs(generation), tenant, len(prompts) * gen.sampling.candidates)
        try:
            first = await unless_gone(request, anext(source))
            if body.stream:
                return EventStream(first, source, answer, deadline)
            rest = await unless_gone(request, collect(source))
        except BaseException:
            await source.aclose()
            raise

        def whole() -> JSONResponse:
            return JSONResponse(answer.whole(answers.gathered([first, *rest])))

        has_logprobs = gen.sampling.logprobs is not None or gen.sampling.prompt_logprobs is not None
        return await asyncio.to_thread(whole) if has_logprobs else whole()  # they may be many

    add_native_routes(app, front, places)
    if link is not None:
        add_link_routes(app, link, front.server.max_body_mb << 20)
    _handle_errors(app)
    bounded = Boundary(app, front.server.max_body_mb << 20)
    return CountedAnswers(Authentication(bounded, keys), front.link.meter)


def usage_asked(body: GenerationBody) -> bool:
    if body.stream_options is None:
        return False
    if not body.stream:
        raise InvalidArgument("stream_options is given without stream: true", field="stream_options")
    return bool(body.stream_options.include_usage)


async def collect(source: AsyncIterator[Output]) -> list[Output]:
    return [output async for output in source]


def _handle_errors(app: FastAPI) -> None:
    async def known(_: Request, error: Exception) -> Response:
        assert isinstance(error, LatticeworkError)
        return respond(error)

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return respond_to_validation(error.errors())

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            return refuse(404, f"no such route: {request.method} {request.url.path}", code="unknown_url")
        return refuse(error.status_code, str(error.detail))

    async def unknown_model(_: Request, error: Exception) -> Response:
        return refuse(404, str(error), "model", "model_not_found")

    async def gone(_: Request, error: Exception) -> Response:
        return Response(status_code=CLIENT_GONE)

    async def unexpected(_: Request, error: Exception) -> Response:  # Boundary logs it
        return JSONResponse(error_body("internal error", "server_error", None, None), 500)

    app.add_exception_handler(LatticeworkError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(UnknownModel, unknown_model)
    app.add_exception_handler(ClientGone, gone)
    app.add_exception_handler(Exception, unexpected)
