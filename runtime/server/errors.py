"""Errors as OpenAI's clients expect them: {"error": {"message", "type", "param", "code"}} and a status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse

from latticework.lang.errors import (
    Busy,
    ConnectionLost,
    ConstraintError,
    DeadlineExceeded,
    EngineDied,
    InvalidArgument,
    LatticeworkError,
    PromptTooLong,
    QuotaExceeded,
    RegexError,
    SchemaError,
    Unsupported,
)

_KINDS: tuple[tuple[type[LatticeworkError], int, str, str | None], ...] = (  # first match; subclasses before bases
    (PromptTooLong, 400, "invalid_request_error", "context_length_exceeded"),
    (SchemaError, 400, "invalid_request_error", "invalid_json_schema"),
    (RegexError, 400, "invalid_request_error", "invalid_regex"),
    (ConstraintError, 400, "invalid_request_error", "invalid_constraint"),
    (InvalidArgument, 400, "invalid_request_error", "invalid_value"),
    (Unsupported, 400, "invalid_request_error", "unsupported"),
    (QuotaExceeded, 429, "rate_limit_error", "rate_limit_exceeded"),
    (Busy, 503, "server_error", "busy"),
    (EngineDied, 503, "server_error", "engine_died"),
    (ConnectionLost, 503, "server_error", "connection_lost"),
    (DeadlineExceeded, 504, "server_error", "deadline_exceeded"),
    (LatticeworkError, 500, "server_error", None),
)
RETRY_SECONDS = 1

PARAMS = {"json_schema": "response_format"}
"""Our field names where the HTTP body calls them otherwise."""


def error_body(message: str, kind: str, param: str | None, code: str | None, **more: object) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code, **more}}


def describe(error: LatticeworkError, params: Mapping[str, str] = PARAMS) -> tuple[int, dict[str, Any]]:
    """Status and body. Where an error points into a schema or a pattern, `pointer` or `position` says so too."""
    status, kind, code = next((s, k, c) for cls, s, k, c in _KINDS if isinstance(error, cls))
    message = f"{error.message}\nhint: {error.hint}" if error.hint else error.message
    param = params.get(error.field, error.field) if error.field else None
    places = {"pointer": error.pointer, "position": error.position}
    return status, error_body(message, kind, param, code, **{k: v for k, v in places.items() if v is not None})


def respond(error: LatticeworkError, params: Mapping[str, str] = PARAMS) -> JSONResponse:
    status, body = describe(error, params)
    headers = {"Retry-After": str(RETRY_SECONDS)} if status in (429, 503) else None
    return JSONResponse(body, status, headers)


def refuse(status: int, message: str, param: str | None = None, code: str | None = None) -> JSONResponse:
    """A refusal that is about HTTP rather than about the runtime."""
    return JSONResponse(error_body(message, "invalid_request_error", param, code), status)


def respond_to_validation(problems: Sequence[Mapping[str, Any]]) -> JSONResponse:
    """400 for a body that has the wrong shape: the first problem that pydantic found, by the field's path."""
    problem = problems[0]
    if problem["type"] == "json_invalid":
        return refuse(400, f"the body is not JSON: {problem.get('ctx', {}).get('error', problem['msg'])}")
    if len(problem["loc"]) == 1:
        return refuse(400, "the body is no JSON object, or is not sent as content-type: application/json")
    path = [part for part in problem["loc"][1:] if isinstance(part, int) or part.isidentifier()]
    names = [str(part) for part in path if part not in _UNION_MEMBERS]
    param = ".".join(names) or None
    message = str(problem["msg"]).removeprefix("Value error, ")
    return refuse(400, f"{param}: {message}" if param else message, param, "invalid_body")


_UNION_MEMBERS = frozenset({"str", "int", "bool", "float"})
"""pydantic names the member of a union that it tried as one more step of the path."""
