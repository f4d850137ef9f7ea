"""What formulas mean: the set of values that satisfy a schema, by its keywords, or that do not.

Keywords that speak about one type say nothing of others. The opposite of a schema is what breaks one of its keywords
at least, so `not` is pushed inward as far as it goes. Schemas inside a schema (of members and items) stay formulas:
only what is asked for is ever read. A schema that leads to itself without going into a value has no meaning and is
refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import Any, NoReturn

import msgspec

from latticework.lang.errors import ConstraintError, SchemaError
from latticework.runtime.constrain.algebra import Text, from_format, from_pattern, length
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.builder import OutOfTime
from latticework.runtime.constrain.json_arrays import ARRAY_KEYWORDS, array_shape, broken_arrays
from latticework.runtime.constrain.json_conditions import CONDITIONS, breaking, satisfying
from latticework.runtime.constrain.json_constants import equal_to, other_than
from latticework.runtime.constrain.json_document import Document
from latticework.runtime.constrain.json_formulas import Every, Formula, Formulas, Holds, Is, Some, Truth
from latticework.runtime.constrain.json_keywords import counts, fail, shown, types
from latticework.runtime.constrain.json_meets import join, meet
from latticework.runtime.constrain.json_number_sets import ALL_NUMBERS, is_never, meet_numbers
from latticework.runtime.constrain.json_objects import OBJECT_KEYWORDS, broken_objects, object_shape
from latticework.runtime.constrain.json_scalars import (
    NUMBER_KEYWORDS,
    broken_numbers,
    integers,
    numbers_of,
    other_types,
)
from latticework.runtime.constrain.json_shapes import (
    ALL_ARRAYS,
    ALL_OBJECTS,
    ANY_VALUE,
    FALSE,
    NO_VALUE,
    NULL,
    TRUE,
    ValueSet,
)
from latticework.runtime.constrain.json_site import Site
from latticework.runtime.constrain.json_strings import (
    ALL_STRINGS,
    NO_STRINGS,
    Strings,
    all_but,
    complement,
    join_strings,
    meet_strings,
)
from latticework.runtime.constrain.json_unevaluated import UNEVALUATED, evaluating, not_evaluating

_STRING_KEYWORDS = frozenset("minLength maxLength pattern format".split())
_OWN_KEYWORDS = frozenset(("type", "const", "enum")) | NUMBER_KEYWORDS | _STRING_KEYWORDS | ARRAY_KEYWORDS
_OWN_KEYWORDS |= OBJECT_KEYWORDS


class _Unsettled(Exception):
    """A formula was asked for while an outer value that satisfies it is being read."""


class Meanings:
    """Reads the schemas of one document. asserts_formats: `format` is an assertion."""

    def __init__(
        self, document: Document, limits: Limits, tick: Callable[[], None], asserts_formats: bool = True
    ) -> None:
        self.document = document
        self.formulas = Formulas()
        self.limits = limits
        self.tick = tick
        self.asserts_formats = asserts_formats
        self._known: dict[Formula, ValueSet] = {}
        self._never: dict[Formula, bool] = {self.formulas.true: False, self.formulas.false: True}
        self._open: dict[Formula, int] = {}  # being read, and how many values deep
        self._level = 0
        self._where = ""  # the pointer of the schema that is being read
        self._patterns: dict[str, Text] = {}

    # ------------------------------------------------------------ formulas

    def of(self, formula: Formula) -> ValueSet:
        known = self._known.get(formula)
        if known is None:
            if formula in self._open:
                if self._open[formula] != self._level:
                    raise _Unsettled
                self.refuse("the schema leads back to itself without going into a value")
            self.tick()
            self._open[formula] = self._level
            where = self._where
            try:
                known = self._known[formula] = self._read(formula)
            finally:
                del self._open[formula]
                self._where = where
        return known

    def inner(self, formula: Formula) -> ValueSet:
        self._level += 1
        try:
            return self.of(formula)
        except _Unsettled:
            self.refuse("the schema leads back to itself through the names of its own properties")
        finally:
            self._level -= 1

    def is_never(self, formula: Formula) -> bool:
        known = self._never.get(formula)
        if known is None:
            if self._level > self.limits.depth:
                self.refuse(f"schemas nest too deep; the limit `depth` is {self.limits.depth}")
            self._level += 1
            try:
                known = self.of(formula).is_never
            except _Unsettled:
                known = False
            finally:
                self._level -= 1
            self._never[formula] = known
        return known

    def refuse(self, message: str, hint: str | None = None) -> NoReturn:
        fail(message, self._where, hint)

    def pattern(self, pattern: Any, at: str) -> Text:
        if not isinstance(pattern, str):
            fail(f"a pattern is a string; got {shown(pattern)}", at)
        if pattern not in self._patterns:
            try:
                self._patterns[pattern] = from_pattern(pattern, "ecma", self.limits, self.tick)
            except OutOfTime:
                raise
            except ConstraintError as error:
                raise SchemaError(
                    f"{error.message} (at {at})",
                    hint=error.hint,
                    field="json_schema",
                    position=error.position,
                    pointer=at,
                ) from None
        return self._patterns[pattern]

    def _read(self, formula: Formula) -> ValueSet:
        match formula:
            case Truth(holds=holds):
                return ANY_VALUE if holds else NO_VALUE
            case Is(value=value, is_positive=True):
                return equal_to(self.formulas, [value], self._where)
            case Is(value=value):
                return other_than(self.formulas, value, self._where)
            case Every(parts=parts):
                known = self._known.get(self.formulas.every(parts[:-1]))  # formulas grow by one part at a time
                return meet(self, known, self.of(parts[-1])) if known is not None else self._all(parts)
            case Some(parts=parts):
                return self._any(parts)
            case Holds(place=place, scope=scope, is_positive=is_positive):
                self._where = place.pointer
                site = Site(self, place, scope)
                return self._satisfying(site) if is_positive else self._breaking(site)
        raise AssertionError(formula)

    def _all(self, parts: Iterable[Formula]) -> ValueSet:
        values = ANY_VALUE
        for part in parts:
            values = meet(self, values, self.of(part))
        return values

    def _any(self, parts: Iterable[Formula]) -> ValueSet:
        values = NO_VALUE
        for part in parts:
            values = join(values, self.of(part))
        return values

    # ------------------------------------------------------------ schemas

    def _satisfying(self, site: Site) -> ValueSet:
        values = self._own(site)
        if not site.keywords <= _OWN_KEYWORDS:
            earlier = _before_properties(site.schema)
            for keyword in CONDITIONS:
                if keyword in site.keywords:
                    self._where = f"{site.pointer}/{keyword}"
                    others = satisfying(site, keyword)
                    values = meet(self, others, values) if keyword in earlier else meet(self, values, others)
            for keyword in UNEVALUATED:
                if keyword in site.keywords:
                    self._where = f"{site.pointer}/{keyword}"
                    values = meet(self, values, evaluating(site, keyword))
        return values

    def _breaking(self, site: Site) -> ValueSet:
        values = self._breaking_own(site)
        if not site.keywords <= _OWN_KEYWORDS:
            for keyword in CONDITIONS:
                if keyword in site.keywords:
                    self._where = f"{site.pointer}/{keyword}"
                    values = join(values, breaking(site, keyword))
            for keyword in UNEVALUATED:
                if keyword in site.keywords:
                    self._where = f"{site.pointer}/{keyword}"
                    values = join(values, not_evaluating(site, keyword))
        return values

    # ------------------------------------------------------------ keywords about one type

    def _own(self, site: Site) -> ValueSet:
        keywords, schema, pointer = site.keywords, site.schema, site.pointer
        constants, numbers, strings = NULL | FALSE | TRUE, ALL_NUMBERS, ALL_STRINGS
        arrays, objects = ALL_ARRAYS, ALL_OBJECTS
        if keywords & NUMBER_KEYWORDS:
            own = numbers_of(site)
            numbers = () if is_never(own) else (own,)
        if keywords & _STRING_KEYWORDS:
            for part in self._strings(site):
                strings = meet_strings(strings, part)
        if keywords & ARRAY_KEYWORDS:
            array = array_shape(site)
            arrays = () if array.high is not None and array.high < array.low else (array,)
        if keywords & OBJECT_KEYWORDS:
            shape = object_shape(site)
            objects = () if shape.high is not None and shape.high < shape.low else (shape,)
        named = types(schema, pointer) if "type" in keywords else None
        if named is not None:
            constants &= (NULL if "null" in named else 0) | (FALSE | TRUE if "boolean" in named else 0)
            if "number" not in named:
                numbers = meet_numbers(numbers, integers(site)) if "integer" in named else ()
            strings = strings if "string" in named else NO_STRINGS
            arrays = arrays if "array" in named else ()
            objects = objects if "object" in named else ()
        values = ValueSet(constants, numbers, strings, arrays, objects)
        for keyword in ("const", "enum"):
            if keyword in keywords:
                listed = equal_to(self.formulas, self._listed(site, keyword), f"{pointer}/{keyword}")
                values = meet(self, listed, values)
        return values

    def _breaking_own(self, site: Site) -> ValueSet:
        keywords, pointer = site.keywords, site.pointer
        strings = NO_STRINGS
        numbers = broken_numbers(site) if keywords & NUMBER_KEYWORDS else ()
        if keywords & _STRING_KEYWORDS:
            for part in self._strings(site):
                strings = join_strings(strings, complement(part))
        arrays = tuple(broken_arrays(site)) if keywords & ARRAY_KEYWORDS else ()
        objects = tuple(broken_objects(site)) if keywords & OBJECT_KEYWORDS else ()
        values = ValueSet(0, numbers, strings, arrays, objects)
        named = types(site.schema, pointer) if "type" in keywords else None
        if named is not None:
            values = join(values, other_types(named))
        for keyword in ("const", "enum"):
            if keyword in keywords:
                values = join(values, self._other_than(self._listed(site, keyword), f"{pointer}/{keyword}"))
        return values

    def _other_than(self, values: list[Any], at: str) -> ValueSet:
        words = [value for value in values if isinstance(value, str)]
        others = msgspec.structs.replace(ANY_VALUE, strings=all_but(words))
        for value in values:
            if not isinstance(value, str):
                others = meet(self, others, other_than(self.formulas, value, at))
        return others

    def _listed(self, site: Site, keyword: str) -> list[Any]:
        values = [site.schema["const"]] if keyword == "const" else site.schema["enum"]
        at = f"{site.pointer}/{keyword}"
        if not isinstance(values, list):
            fail(f"'enum' is a list of values; got {shown(values)}", at)
        if len(values) > self.limits.alternatives:
            fail(f"{len(values)} values; the limit `alternatives` is {self.limits.alternatives}", at)
        return values

    def _strings(self, site: Site) -> list[Strings]:
        """What each of the keywords about strings says."""
        keywords, schema, pointer = site.keywords, site.schema, site.pointer
        found: list[Strings] = []
        if "minLength" in keywords or "maxLength" in keywords:
            low, high = counts(schema, "minLength", "maxLength", pointer)
            if high is not None and high < low:
                found.append(NO_STRINGS)
            elif low or high is not None:
                found.append(Strings(None, length(low, high)))
        if "pattern" in keywords:
            found.append(Strings(None, self.pattern(schema["pattern"], f"{pointer}/pattern")))
        if "format" in keywords and self.asserts_formats and isinstance(schema["format"], str):
            text = from_format(schema["format"])
            if text is not None:
                found.append(Strings(None, text))
        return found


def _before_properties(schema: dict[str, Any]) -> frozenset[str]:
    """The keywords that the schema names before `properties`: their properties are written first."""
    if "properties" not in schema:
        return frozenset()
    return frozenset(takewhile("properties".__ne__, schema))
