"""The drafts of JSON Schema that `$schema` may name, as far as they differ in what they assert.

Without a `$schema` a schema is of draft 2020-12. A name that is not known is refused: what the schema means would be
a guess. A keyword that a draft does not have is an annotation there. This file knows which keywords and which forms
of them a draft has, not what they mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_OF_4 = frozenset(
    "type enum multipleOf maximum exclusiveMaximum minimum exclusiveMinimum maxLength minLength pattern format items"
    " additionalItems maxItems minItems uniqueItems maxProperties minProperties required properties patternProperties"
    " additionalProperties dependencies allOf anyOf oneOf not $ref".split()
)
_OF_6 = _OF_4 | frozenset("const contains propertyNames".split())
_OF_7 = _OF_6 | frozenset("if then else".split())
_OF_2019 = (_OF_7 - {"dependencies"}) | frozenset(
    "dependentRequired dependentSchemas unevaluatedProperties unevaluatedItems minContains maxContains"
    " $recursiveRef".split()
)
_OF_2020 = (_OF_2019 - {"additionalItems", "$recursiveRef"}) | {"prefixItems", "$dynamicRef"}


@dataclass(frozen=True, slots=True)
class Draft:
    """keywords: those that assert something. identifier: the keyword that names a schema. has_boolean_schemas: true
    and false are schemas everywhere. has_boolean_bounds: `exclusiveMinimum` is a flag of `minimum`. has_item_lists:
    `items` may be a list, followed by `additionalItems`. has_lone_references: keywords beside `$ref` mean nothing.
    has_whole_floats: 1.0 is an integer. contains_evaluates: an item that `contains` finds is evaluated."""

    name: str
    keywords: frozenset[str]
    identifier: str = "$id"
    has_boolean_schemas: bool = True
    has_boolean_bounds: bool = False
    has_item_lists: bool = True
    has_lone_references: bool = False
    has_whole_floats: bool = True
    contains_evaluates: bool = False


LATEST = Draft("2020-12", _OF_2020, has_item_lists=False, contains_evaluates=True)
_DRAFT_4 = Draft(
    "4",
    _OF_4,
    "id",
    has_boolean_schemas=False,
    has_boolean_bounds=True,
    has_lone_references=True,
    has_whole_floats=False,
)

_DRAFTS = {
    "http://json-schema.org/draft-04/schema": _DRAFT_4,
    "http://json-schema.org/draft-06/schema": Draft("6", _OF_6, has_lone_references=True),
    "http://json-schema.org/draft-07/schema": Draft("7", _OF_7, has_lone_references=True),
    "https://json-schema.org/draft/2019-09/schema": Draft("2019-09", _OF_2019),
    "https://json-schema.org/draft/2020-12/schema": LATEST,
    "http://json-schema.org/schema": LATEST,
}
_BY_NAME = {name.partition("://")[2]: draft for name, draft in _DRAFTS.items()}


def known_drafts() -> tuple[str, ...]:
    """What `$schema` may say; an empty fragment may follow."""
    return tuple(_DRAFTS)


def draft_of(schema: Any, inherited: Draft = LATEST) -> Draft | None:
    """The draft that a schema names, `inherited` where it names none; None when it is not known."""
    if not isinstance(schema, dict) or "$schema" not in schema:
        return inherited
    name = schema["$schema"]
    if not isinstance(name, str):
        return None
    scheme, _, rest = name.removesuffix("#").partition("://")
    return _BY_NAME.get(rest) if scheme in ("http", "https") else None
