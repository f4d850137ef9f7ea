"""The drafts of JSON Schema that `$schema` may name, as far as they differ in what is enforced here.

Without a `$schema` a schema is of draft 2020-12. A name that is not known is refused: what the schema means would be
a guess. This file knows no keyword's meaning, only which forms it has in which draft.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Draft:
    """identifier: the keyword that names a schema. has_boolean_schemas: true and false are schemas everywhere.
    has_boolean_bounds: `exclusiveMinimum` is a flag of `minimum`. has_item_lists: `items` may be a list, followed by
    `additionalItems`, and there is no `prefixItems`."""

    name: str
    identifier: str = "$id"
    has_boolean_schemas: bool = True
    has_boolean_bounds: bool = False
    has_item_lists: bool = True


LATEST = Draft("2020-12", has_item_lists=False)

_DRAFTS = {
    "http://json-schema.org/draft-04/schema": Draft("4", "id", has_boolean_schemas=False, has_boolean_bounds=True),
    "http://json-schema.org/draft-06/schema": Draft("6"),
    "http://json-schema.org/draft-07/schema": Draft("7"),
    "https://json-schema.org/draft/2019-09/schema": Draft("2019-09"),
    "https://json-schema.org/draft/2020-12/schema": LATEST,
    "http://json-schema.org/schema": LATEST,
}


def known_drafts() -> tuple[str, ...]:
    """What `$schema` may say; an empty fragment may follow."""
    return tuple(_DRAFTS)


def draft_of(schema: Any) -> Draft | None:
    """The draft that the root of a schema names; None when it is not known."""
    if not isinstance(schema, dict) or "$schema" not in schema:
        return LATEST
    name = schema["$schema"]
    return _DRAFTS.get(name.removesuffix("#")) if isinstance(name, str) else None
