"""The routes of SGLang's own clients: its `RuntimeEndpoint`, its tools, and whatever speaks to `/generate`.

Knows a running `Front`, and the places in which generations are held. docs/http.md says what differs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from importlib import metadata
from typing import TYPE_CHECKING, Any

import msgspec
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from latticework.lang.errors import InvalidArgument, LatticeworkError
from latticework.lang.events import Done, Usage
from latticework.lang.ir import Gen, Sampling
from latticework.runtime.programs.deadline import Deadline
from latticework.runtime.programs.front import Front
from latticework.runtime.programs.generation import Output
from latticework.runtime.request import TextSegment
from latticework.runtime.server import native
from latticework.runtime.server.aborts import Aborts, until
from latticework.runtime.server.answers import gathered
from latticework.runtime.server.errors import respond
from latticework.runtime.server.native_answers import NativeAnswer
from latticework.runtime.server.native_schemas import AbortBody, GenerateBody
from latticework.runtime.server.stream import EventStream, outputs, unless_gone

if TYPE_CHECKING:
    from latticework.runtime.server.app import OpenPlaces

HEALTH_SECONDS = 20.0
FLUSHED = "Cache flushed: every prefix that nothing holds is forgotten.\n"


def add_native_routes(app: FastAPI, front: Front, places: OpenPlaces) -> None:
    """/generate and what belongs to it."""
    aborts = Aborts()

    @app.get("/get_model_info")
    @app.get("/model_info")
    async def model_info() -> dict[str, Any]:
        return model_card(front)

    @app.get("/get_server_info")
    @app.get("/server_info")
    async def info() -> dict[str, Any]:
        return server_info(front)

    @app.get("/health_generate")
    async def health_generate() -> Response:
        """Whether a token can be drawn."""
        prompt = [TextSegment((0,))]
        sampling = Sampling(max_tokens=1, temperature=0.0, ignore_eos=True)
        deadline = Deadline(HEALTH_SECONDS)
        try:
            async for _ in places.hold(outputs(front.generate(prompt, Gen(sampling=sampling), deadline=deadline))):
                pass
        except LatticeworkError as error:
            return JSONResponse({"status": error.message}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/flush_cache")
    @app.post("/flush_cache")
    async def flush_cache() -> Response:
        front.link.flush_cache()
        return PlainTextResponse(FLUSHED)

    @app.post("/abort_request")
    async def abort_request(body: AbortBody, request: Request) -> Response:
        body.check_other_fields()
        if body.abort_all:
            aborts.abort_all(request.state.tenant)
        elif body.rid:
            aborts.abort(request.state.tenant, body.rid)
        else:
            raise InvalidArgument("expected rid, or abort_all: true", field="rid")
        return Response(status_code=200)

    @app.post("/generate")
    async def generate(body: GenerateBody, request: Request) -> Response:
        began, deadline = time.monotonic(), Deadline(body.timeout)
        try:
            found = await deadline.bound(asyncio.to_thread(native.asked, front, body))
            answer = answer_of(front, body, found, began)
            return await respond_to(body, request, deadline, found, answer)
        except LatticeworkError as error:
            return respond(error, native.params_of(body))

    async def respond_to(
        body: GenerateBody, request: Request, deadline: Deadline, found: native.Asked, answer: NativeAnswer
    ) -> Response:
        """A failure before the first output is an HTTP status, even for a stream."""
        source = generated(body, request.state.tenant, deadline, found, answer)
        try:
            first = await unless_gone(request, anext(source))
            if body.stream:
                return EventStream(first, source, answer, deadline)
            rest = await unless_gone(request, _collect(source))
        except BaseException:
            await source.aclose()
            raise
        whole = await asyncio.to_thread(answer.whole, gathered([first, *rest]))
        return JSONResponse(whole)

    async def generated(
        body: GenerateBody, tenant: str, deadline: Deadline, found: native.Asked, answer: NativeAnswer
    ) -> AsyncGenerator[Output, None]:
        """What comes of it, up to its end or until it is aborted, in its places."""
        generation = front.generate(
            found.prompts,
            found.gen,
            deadline=deadline,
            priority=body.priority or 0,
            tenant=tenant,
        )
        held = places.hold(outputs(generation), tenant, len(found.prompts) * found.gen.sampling.candidates)
        with aborts.named(tenant, _names(body, answer)) as aborted:
            missing = dict.fromkeys(range(found.outputs), 0)
            async with aclosing(until(aborted, held)) as source:
                async for output in source:
                    if output.done is None:
                        missing[output.index] += len(output.logprobs)
                    else:
                        missing.pop(output.index)
                    yield output
            for index, drawn in missing.items():
                answer.aborted.add(index)
                prompt = len(found.prompts[index // found.gen.sampling.n].tokens)
                done = Done(0, 0, "", "stop", complete=False, usage=Usage(prompt=prompt, output=drawn))
                yield Output("", (), done, index)


def answer_of(front: Front, body: GenerateBody, found: native.Asked, began: float) -> NativeAnswer:
    """Raises InvalidArgument for ids that are not one a prompt."""
    if isinstance(body.rid, list) and len(body.rid) != len(found.prompts):
        raise InvalidArgument(f"{len(body.rid)} ids are given for {len(found.prompts)} prompts", field="rid")
    special = {token: text for text, token in front.tokenizer.special.items()}

    def text_of(token: int) -> str:
        return special[token] if token in special else front.tokenizer.text_of(token)

    return NativeAnswer(
        found,
        body.rid,
        logprobs=bool(body.return_logprob),
        texts=bool(body.return_text_in_logprobs),
        text_of=text_of,
        end_ids=front.card.end_ids,
        params=native.params_of(body),
        began=began,
    )


def model_card(front: Front) -> dict[str, Any]:
    """The model by the name it is served under."""
    name = front.card.name
    return {"model_path": name, "tokenizer_path": name, "served_model_name": name, "is_generation": True}


def server_info(front: Front) -> dict[str, Any]:
    """Sizes, limits and counters. No addresses, no paths of files, no keys."""
    stats = msgspec.to_builtins(front.link.stats)
    counters = {"open_requests": front.link.open_requests, "engine_restarts": front.link.restarts, **stats}
    return model_card(front) | {
        "version": _version(),
        "dtype": front.dtype,
        "quantization": front.quantization,
        "context_length": front.context,
        "vocab_size": front.card.spec.vocab_size,
        "max_prompts": front.server.max_prompts,
        "max_open": front.server.max_open,
        "internal_states": [counters],
    }


def _version() -> str | None:
    try:
        return metadata.version("latticework")
    except metadata.PackageNotFoundError:  # a checkout that was never installed
        return None


def _names(body: GenerateBody, answer: NativeAnswer) -> list[str]:
    """By what a request can be aborted: the ids given, and those its answers carry."""
    given = [body.rid] if isinstance(body.rid, str) else body.rid or []
    return list(dict.fromkeys([*given, *answer.ids]))


async def _collect(source: AsyncGenerator[Output, None]) -> list[Output]:
    return [output async for output in source]
