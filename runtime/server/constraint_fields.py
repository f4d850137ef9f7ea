"""The constraint that a body asks for, whichever of its clients' fields says so.

OpenAI's `response_format`, ours (`regex`, `choices`), SGLang's (`json_schema`, `ebnf`), vLLM's (`structured_outputs`,
and `guided_…` before it) and the structural tags of both. One body has one constraint. What a field holds is found out
when the constraint is compiled; its errors name the field as the body calls it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from latticework.lang.errors import ConstraintError, InvalidArgument, Unsupported
from latticework.lang.ir import Choices, Constraint, Gbnf, JsonSchema, Lark, Regex, Tag, Triggered
from latticework.runtime.server.schemas import GenerationBody, ResponseFormat

ANY_OBJECT = {"type": "object"}  # what json_object asks for
_DEEPEST = 16  # tags in tags
_FIELDS = ("regex", "choices", "json_schema", "lark", "gbnf", "tags", "triggers", "triggered", "constraint")


def asked_constraint(body: GenerationBody) -> Constraint | None:
    """Raises InvalidArgument for more than one, and ConstraintError or Unsupported for one that is none."""
    given = _given(body)
    if len(given) > 1:
        names = " and ".join(field for field, _ in given)
        raise InvalidArgument(f"{names} are given together; expected at most one of them", field=given[-1][0])
    return given[0][1]() if given else None


def constraint_params(body: GenerationBody) -> dict[str, str]:
    """How the error fields of the constraint are called in this body."""
    given = _given(body)
    return dict.fromkeys(_FIELDS, given[0][0]) if len(given) == 1 else {}


def _given(body: GenerationBody) -> list[tuple[str, Callable[[], Constraint]]]:
    """Every field of the body that asks for a constraint, and how to make it."""
    found: list[tuple[str, Callable[[], Constraint]]] = []
    makers: dict[str, Callable[[Any], Constraint]] = {
        "regex": Regex,
        "choices": _choices,
        "json_schema": JsonSchema,
        "ebnf": Gbnf,
        "structural_tag": _tag_text,
        "guided_json": JsonSchema,
        "guided_regex": Regex,
        "guided_choice": _choices,
        "guided_grammar": grammar,
    }
    for field, make in makers.items():
        value = getattr(body, field)
        if value is not None:
            found.append((field, _bound(make, value)))
    outputs = body.structured_outputs
    if outputs is not None:
        inner: dict[str, Callable[[Any], Constraint]] = {
            "json": JsonSchema,
            "regex": Regex,
            "choice": _choices,
            "grammar": grammar,
            "structural_tag": _tag_text,
        }
        for field, make in inner.items():
            value = getattr(outputs, field if field != "json" else "json_")
            if value is not None:
                found.append((f"structured_outputs.{field}", _bound(make, value)))
        if outputs.json_object:
            found.append(("structured_outputs.json_object", lambda: JsonSchema(ANY_OBJECT)))
    if body.response_format is not None and body.response_format.type != "text":
        found.append(("response_format", _bound(_of_format, body.response_format)))
    return found


def _bound(make: Callable[[Any], Constraint], value: Any) -> Callable[[], Constraint]:
    return lambda: make(value)


def _choices(options: list[str]) -> Choices:
    return Choices(tuple(options))


def grammar(text: str) -> Constraint:
    """A grammar in either syntax: rules of GBNF have "::=", those of lark ":"."""
    return Gbnf(text) if "::=" in text else Lark(text)


def _of_format(asked: ResponseFormat) -> Constraint:
    if asked.type == "structural_tag":
        return structural_tag(asked.model_dump(by_alias=True, exclude_none=True))
    return JsonSchema(ANY_OBJECT if asked.json_schema is None else asked.json_schema.schema_)


# ---------------------------------------------------------------- structural tags


def _tag_text(value: str | dict[str, Any]) -> Constraint:
    """SGLang and vLLM send a structural tag as JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ConstraintError(f"structural_tag is not JSON: {error}", field="tags") from None
    if not isinstance(value, dict) or value.get("type", "structural_tag") != "structural_tag":
        raise ConstraintError('structural_tag is no object of type "structural_tag"', field="tags")
    return structural_tag(value)


def structural_tag(value: dict[str, Any]) -> Constraint:
    """xgrammar's structural tag: `structures` and `triggers`, or a `format`. Raises ConstraintError with the place."""
    if ("format" in value) == ("structures" in value):
        raise ConstraintError("a structural tag has either structures, or a format", field="tags")
    _known(value, {"type", "format"} if "format" in value else {"type", "structures", "triggers"}, "")
    if "format" in value:
        return _format(value["format"], "/format", 0)
    tags = []
    for index, part in enumerate(_list(value, "structures", "")):
        at = f"/structures/{index}"
        _known(part, {"begin", "schema", "end"}, at)
        schema = _member(part, "schema", (dict, bool, str), at)
        tags.append(Tag(_member(part, "begin", str, at), JsonSchema(schema), _member(part, "end", str, at)))
    return Triggered(tuple(tags), tuple(_list(value, "triggers", "")))


def _format(value: Any, at: str, depth: int) -> Constraint:
    kind = _member(value, "type", str, at)
    if depth > _DEEPEST:
        raise ConstraintError(f"structural tags nest more than {_DEEPEST} deep (at {at})", field="tags")
    match kind:
        case "json_schema":
            _known(value, {"type", "json_schema", "style"}, at)
            if value.get("style", "json") != "json":
                raise Unsupported(f"the style {value['style']!r} is not supported (at {at}/style)", field="tags")
            return JsonSchema(_member(value, "json_schema", (dict, bool), at))
        case "regex":
            _known(value, {"type", "pattern"}, at)
            return Regex(_member(value, "pattern", str, at))
        case "grammar":
            _known(value, {"type", "grammar"}, at)
            return grammar(_member(value, "grammar", str, at))
        case "const_string":
            _known(value, {"type", "value"}, at)
            return Choices((_member(value, "value", str, at),))
        case "triggered_tags":
            return _triggered(value, at, depth)
        case _:
            raise Unsupported(
                f"the format {kind!r} of a structural tag is not supported (at {at}/type)",
                field="tags",
                hint="expected triggered_tags, json_schema, regex, grammar or const_string",
            )


def _triggered(value: dict[str, Any], at: str, depth: int) -> Constraint:
    flags = ("at_least_one", "stop_after_first")
    _known(value, {"type", "tags", "triggers", "excludes", *flags}, at)
    if value.get("excludes"):
        raise Unsupported(f"excludes is not supported (at {at}/excludes)", field="tags")
    tags = []
    for index, part in enumerate(_list(value, "tags", at)):
        inner = f"{at}/tags/{index}"
        _known(part, {"type", "begin", "content", "end"}, inner)
        content = _format(_member(part, "content", dict, inner), f"{inner}/content", depth + 1)
        tags.append(Tag(_member(part, "begin", str, inner), content, _member(part, "end", str, inner)))
    at_least_one, stop_after_first = (_member({name: False} | value, name, bool, at) for name in flags)
    return Triggered(tuple(tags), tuple(_list(value, "triggers", at)), at_least_one, stop_after_first)


def _list(value: Any, name: str, at: str) -> list[Any]:
    found: list[Any] = _member(value, name, list, at)
    return found


def _member(value: Any, name: str, kind: type | tuple[type, ...], at: str) -> Any:
    """Raises ConstraintError unless `value` is an object with a member of that kind."""
    if not isinstance(value, dict):
        raise ConstraintError(
            f"a {type(value).__name__} where an object was expected (at {at or 'the root'})", field="tags"
        )
    if name not in value:
        raise ConstraintError(f"{name} is missing (at {at or 'the root'})", field="tags")
    if not isinstance(value[name], kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        expected = " or ".join(one.__name__ for one in kinds)
        message = f"{name} is a {type(value[name]).__name__}; expected {expected} (at {at}/{name})"
        raise ConstraintError(message, field="tags")
    return value[name]


def _known(value: Any, names: set[str], at: str) -> None:
    """Raises Unsupported for a member that would be obeyed elsewhere."""
    for name in value if isinstance(value, dict) else ():
        if name not in names:
            raise Unsupported(f"{name} is not supported (at {at}/{name})", field="tags")


__all__ = ["asked_constraint", "constraint_params"]
