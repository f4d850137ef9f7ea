"""A schema while its keywords are read: the place, the way there, and how to name the schemas inside it."""

from __future__ import annotations

from typing import Any, Protocol

from latticework.runtime.constrain.algebra import Text
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.json_document import Document, Place
from latticework.runtime.constrain.json_formulas import Formula, Scope
from latticework.runtime.constrain.json_meets import Judge
from latticework.runtime.constrain.json_shapes import ValueSet


class Reader(Judge, Protocol):
    """Who reads schemas."""

    document: Document
    limits: Limits

    def of(self, formula: Formula) -> ValueSet:
        """The values that satisfy it."""
        ...

    def inner(self, formula: Formula) -> ValueSet:
        """The same, of a value inside the one that is being read, or of its keys."""
        ...

    def pattern(self, pattern: Any, at: str) -> Text: ...


class Site:
    """`schema` is the object at `place`; `keywords` are those of its keys that assert something in its draft."""

    __slots__ = ("draft", "formulas", "keywords", "place", "pointer", "reader", "schema", "scope")

    def __init__(self, reader: Reader, place: Place, scope: Scope) -> None:
        schema = place.schema
        assert isinstance(schema, dict)
        self.reader = reader
        self.place = place
        self.scope = scope
        self.schema: dict[str, Any] = schema
        self.pointer = place.pointer
        self.formulas = reader.formulas
        self.draft = place.resource.draft
        self.keywords = self.draft.keywords & schema.keys()
        if self.draft.has_lone_references and "$ref" in schema:
            self.keywords = frozenset(("$ref",))

    def inside(self, value: Any, path: str, is_positive: bool = True) -> Formula:
        """The formula of the schema `value`, which stands `path` below this one."""
        place = self.reader.document.place(value, self.pointer + path, self.place.resource)
        return self.formulas.schema(place, self.scope, is_positive)

    def at(self, keyword: str, is_positive: bool = True) -> Formula:
        """The formula of the schema in `keyword`."""
        return self.inside(self.schema[keyword], f"/{keyword}", is_positive)
