"""What a value must satisfy, as a formula over schemas: a schema or its opposite, a constant or its opposite, all of
some formulas, any of some.

Equal formulas are one object, so they can be compared by identity and used as names of what was made of them. `not`
stands only before schemas and constants. What a schema means is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TypeAlias

from latticework.runtime.constrain.json_document import Place, Resource

Scope: TypeAlias = tuple[Resource, ...]  # those on the way to a schema whose dynamic names count, outermost first


class Formula:
    """opposite: its negation, once that was asked for."""

    __slots__ = ("opposite",)

    def __init__(self) -> None:
        self.opposite: Formula | None = None


class Truth(Formula):
    """Every value, or none."""

    __slots__ = ("holds",)

    def __init__(self, holds: bool) -> None:
        super().__init__()
        self.holds = holds


class Holds(Formula):
    """The schema at `place`, reached by way of `scope`; or, where not `is_positive`, its opposite."""

    __slots__ = ("is_positive", "place", "scope")

    def __init__(self, place: Place, scope: Scope, is_positive: bool) -> None:
        super().__init__()
        self.place = place
        self.scope = scope
        self.is_positive = is_positive


class Is(Formula):
    """Equal to `value`, or not."""

    __slots__ = ("is_positive", "value")

    def __init__(self, value: Any, is_positive: bool) -> None:
        super().__init__()
        self.value = value
        self.is_positive = is_positive


class Every(Formula):
    """All of `parts`; members: the same as a set."""

    __slots__ = ("members", "parts")

    def __init__(self, parts: tuple[Formula, ...]) -> None:
        super().__init__()
        self.parts = parts
        self.members = frozenset(parts)


class Some(Formula):
    """At least one of `parts`."""

    __slots__ = ("parts",)

    def __init__(self, parts: tuple[Formula, ...]) -> None:
        super().__init__()
        self.parts = parts


class Formulas:
    """Makes formulas, each once."""

    def __init__(self) -> None:
        self.true = Truth(True)
        self.false = Truth(False)
        self.true.opposite, self.false.opposite = self.false, self.true
        self._known: dict[Any, Formula] = {}
        self._every: dict[tuple[Formula, ...], Formula] = {}

    def schema(self, place: Place, scope: Scope, is_positive: bool = True) -> Formula:
        schema = place.schema
        if schema is True or schema is False or not schema:
            return self.true if (schema is not False) == is_positive else self.false
        if _adds_names(place.resource, scope):
            scope = (*scope, place.resource)
        key = (place, scope, is_positive)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = Holds(place, scope, is_positive)
        return known

    def constant(self, value: Any, is_positive: bool = True) -> Formula:
        key = (json.dumps(value), is_positive)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = Is(value, is_positive)
        return known

    def every(self, parts: Iterable[Formula]) -> Formula:
        """The order of the parts is kept: it is the order that properties are written in."""
        parts = tuple(parts)
        found = self._every.get(parts)
        if found is None:
            found = self._every[parts] = self._make_every(parts)
        return found

    def _make_every(self, parts: tuple[Formula, ...]) -> Formula:
        kept: dict[Formula, None] = {}
        for part in parts:
            if isinstance(part, Every):
                kept.update(dict.fromkeys(part.parts))
            elif part is self.false:
                return part
            elif part is not self.true:
                kept[part] = None
        if len(kept) < 2:
            return next(iter(kept), self.true)
        if any(part.opposite in kept for part in kept if part.opposite is not None):
            return self.false
        key = (Every, *kept)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = Every(tuple(kept))
        return known

    def some(self, parts: Iterable[Formula]) -> Formula:
        kept: dict[Formula, None] = {}
        for part in parts:
            if isinstance(part, Some):
                kept.update(dict.fromkeys(part.parts))
            elif part is self.true:
                return part
            elif part is not self.false:
                kept[part] = None
        if len(kept) < 2:
            return next(iter(kept), self.false)
        if any(part.opposite in kept for part in kept if part.opposite is not None):
            return self.true
        key = (Some, *kept)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = Some(tuple(kept))
        return known

    def negated(self, formula: Formula) -> Formula:
        if formula.opposite is None:
            match formula:
                case Holds(place=place, scope=scope, is_positive=is_positive):
                    opposite = self.schema(place, scope, not is_positive)
                case Is(value=value, is_positive=is_positive):
                    opposite = self.constant(value, not is_positive)
                case Every(parts=parts):
                    opposite = self.some(map(self.negated, parts))
                case Some(parts=parts):
                    opposite = self.every(map(self.negated, parts))
                case _:
                    raise AssertionError(formula)
            formula.opposite, opposite.opposite = opposite, formula
        return formula.opposite


def _adds_names(resource: Resource, scope: Scope) -> bool:
    """Whether a dynamic reference may lead to `resource` and not to one that is further out."""
    if resource.is_recursive and not any(outer.is_recursive for outer in scope):
        return True
    return bool(resource.dynamic) and not all(
        any(name in outer.dynamic for outer in scope) for name in resource.dynamic
    )
