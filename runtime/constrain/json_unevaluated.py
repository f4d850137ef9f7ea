"""unevaluatedProperties and unevaluatedItems.

Which members and items other keywords have evaluated depends on which schemas beside them hold. So the values are
split by that into cases; in each case the rest is known when it is read, and the keyword is one about all keys (or
items) but those.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from latticework.runtime.constrain.algebra import Text
from latticework.runtime.constrain.json_arrays import contained, item_formulas
from latticework.runtime.constrain.json_conditions import (
    DEPENDENCIES,
    REFERENCES,
    branches,
    conditional,
    dependents,
    of_objects,
    or_other_type,
    referred,
)
from latticework.runtime.constrain.json_formulas import Formula, Holds
from latticework.runtime.constrain.json_keys import Keys
from latticework.runtime.constrain.json_keywords import schemas_by_name
from latticework.runtime.constrain.json_meets import join, meet
from latticework.runtime.constrain.json_objects import forbidding, requiring
from latticework.runtime.constrain.json_shapes import ANY_VALUE, NO_VALUE, ArrayShape, Count, ObjectShape, ValueSet
from latticework.runtime.constrain.json_site import Site

UNEVALUATED = ("unevaluatedProperties", "unevaluatedItems")
_MAX_CASES = 256


class Evaluated(msgspec.Struct, frozen=True):
    """names, texts: keys, and patterns of keys. first: how many of the first items. found: what items are evaluated
    if they satisfy it. is_all: everything."""

    names: frozenset[str] = frozenset()
    texts: frozenset[Text] = frozenset()
    first: int = 0
    found: frozenset[Formula] = frozenset()
    is_all: bool = False

    def with_(self, other: Evaluated) -> Evaluated:
        if self.is_all or other.is_all:
            return _ALL
        return Evaluated(
            self.names | other.names, self.texts | other.texts, max(self.first, other.first), self.found | other.found
        )


_NOTHING = Evaluated()
_ALL = Evaluated(is_all=True)
Cases = dict[Evaluated, ValueSet]  # what is evaluated -> the values of which just that is


def evaluating(site: Site, keyword: str) -> ValueSet:
    """The values whose unevaluated members (or items) satisfy the keyword."""
    wanted = site.at(keyword)
    values = NO_VALUE
    for evaluated, condition in _Split(site, keyword).cases(site, ()).items():
        if not evaluated.is_all:
            condition = meet(site.reader, condition, _all_others(evaluated, wanted, site, keyword))
        values = join(values, condition)
    return or_other_type("objects" if keyword == "unevaluatedProperties" else "arrays", values)


def not_evaluating(site: Site, keyword: str) -> ValueSet:
    """The values of which some unevaluated member (or item) does not satisfy it."""
    unwanted = site.formulas.negated(site.at(keyword))
    values = NO_VALUE
    for evaluated, condition in _Split(site, keyword).cases(site, ()).items():
        if not evaluated.is_all and unwanted is not site.formulas.false:
            values = join(values, meet(site.reader, condition, _some_other(evaluated, unwanted, site, keyword)))
    return values


def _all_others(evaluated: Evaluated, wanted: Formula, site: Site, keyword: str) -> ValueSet:
    if keyword == "unevaluatedProperties":
        return of_objects((ObjectShape(rules=((_other_keys(evaluated), wanted),)),))
    rest = site.formulas.some((wanted, *evaluated.found))
    shape = ArrayShape((site.formulas.true,) * evaluated.first, rest)
    return ValueSet(arrays=(shape,))


def _some_other(evaluated: Evaluated, unwanted: Formula, site: Site, keyword: str) -> ValueSet:
    if keyword == "unevaluatedProperties":
        return of_objects((ObjectShape(needs=(((_other_keys(evaluated), unwanted),),)),))
    formulas = site.formulas
    wrong = formulas.every((unwanted, *map(formulas.negated, sorted(evaluated.found, key=id))))
    return ValueSet(arrays=(ArrayShape(counts=(Count(evaluated.first, wrong, 1, None),)),))


def _other_keys(evaluated: Evaluated) -> Keys:
    return Keys(outside=tuple(sorted(evaluated.texts, key=id)), names=evaluated.names)


class _Split:
    """Splits values by what of them is evaluated."""

    def __init__(self, site: Site, keyword: str) -> None:
        self.reader = site.reader
        self.keyword = keyword
        self.is_keys = keyword == "unevaluatedProperties"
        self.top = site

    def cases(self, site: Site, way: tuple[Formula, ...]) -> Cases:
        own = self._own(site)
        if own.is_all:
            return {_ALL: ANY_VALUE}
        found: Cases = {own: ANY_VALUE}
        for part in self._conditional(site, way):
            if set(part) != {_NOTHING}:
                found = self._product(found, part)
        return found

    def _own(self, site: Site) -> Evaluated:
        keywords = site.keywords
        if self.keyword in keywords and site is not self.top:
            return _ALL
        if self.is_keys:
            if "additionalProperties" in keywords:
                return _ALL
            listed = schemas_by_name(site.schema, "properties", site.pointer) if "properties" in keywords else {}
            patterns: Iterable[str] = ()
            if "patternProperties" in keywords:
                patterns = schemas_by_name(site.schema, "patternProperties", site.pointer)
            at = f"{site.pointer}/patternProperties"
            return Evaluated(frozenset(listed), frozenset(self.reader.pattern(pattern, at) for pattern in patterns))
        first, rest = item_formulas(site)
        has_rest = "items" in keywords and not isinstance(site.schema["items"], list)
        if has_rest or rest is not None or ("additionalItems" in keywords and "items" in keywords):
            return _ALL
        is_found = "contains" in keywords and site.draft.contains_evaluates and contained(site)[1] != 0
        return Evaluated(first=len(first), found=frozenset((site.at("contains"),)) if is_found else frozenset())

    def _conditional(self, site: Site, way: tuple[Formula, ...]) -> Iterable[Cases]:
        """The cases of each keyword whose schemas evaluate too."""
        for keyword in REFERENCES:
            if keyword in site.keywords:
                yield self._of(referred(site, keyword), way)
        if "allOf" in site.keywords:
            for branch in branches(site, "allOf"):
                yield self._of(branch, way)
        if "anyOf" in site.keywords:
            for branch in branches(site, "anyOf"):
                yield self._if(branch, self._of(branch, way), {_NOTHING: ANY_VALUE})
        if "oneOf" in site.keywords:
            yield self._one_of(branches(site, "oneOf"), way)
        if "if" in site.keywords:
            condition, then, otherwise = conditional(site)
            holds = self._product(self._of(condition, way), self._of(then, way))
            yield self._if(condition, holds, self._of(otherwise, way))
        for keyword in DEPENDENCIES[1:]:
            if keyword in site.keywords:
                for name, _, formula in dependents(site, keyword):
                    present = self._of(formula, way)
                    if set(present) != {_NOTHING}:
                        has_it = of_objects((requiring([name]),))
                        cases = self._within(has_it, present)
                        yield _added(cases, _NOTHING, of_objects((forbidding(site, name),)))

    def _of(self, formula: Formula, way: tuple[Formula, ...]) -> Cases:
        if not isinstance(formula, Holds):
            return {_NOTHING: ANY_VALUE}
        if formula in way:
            self.reader.refuse("the schema leads back to itself without going into a value")
        return self.cases(Site(self.reader, formula.place, formula.scope), (*way, formula))

    def _if(self, condition: Formula, holds: Cases, otherwise: Cases) -> Cases:
        """The cases of a condition that holds, and of one that does not."""
        if set(holds) == set(otherwise) == {_NOTHING}:
            return holds
        found = self._within(self.reader.of(condition), holds)
        broken = self.reader.of(self.reader.formulas.negated(condition))
        for evaluated, values in self._within(broken, otherwise).items():
            found = _added(found, evaluated, values)
        return found

    def _one_of(self, parts: tuple[Formula, ...], way: tuple[Formula, ...]) -> Cases:
        """Where one holds no other does: the keyword itself says so."""
        found: Cases = {}
        rest = ANY_VALUE
        for part in parts:
            cases = self._of(part, way)
            if set(cases) != {_NOTHING}:
                for evaluated, values in self._within(self.reader.of(part), cases).items():
                    found = _added(found, evaluated, values)
                rest = meet(self.reader, rest, self.reader.of(self.reader.formulas.negated(part)))
        return _added(found, _NOTHING, rest)

    def _within(self, values: ValueSet, cases: Cases) -> Cases:
        return {evaluated: meet(self.reader, values, condition) for evaluated, condition in cases.items()}

    def _product(self, cases: Cases, others: Cases) -> Cases:
        found: Cases = {}
        for evaluated, condition in cases.items():
            for other, values in others.items():
                both = meet(self.reader, condition, values)
                if not both.is_never:
                    found = _added(found, evaluated.with_(other), both)
        if len(found) > _MAX_CASES:
            self.reader.refuse(f"{self.keyword!r} depends on too many schemas at once")
        return found


def _added(cases: Cases, evaluated: Evaluated, values: ValueSet) -> Cases:
    return {**cases, evaluated: join(cases[evaluated], values) if evaluated in cases else values}
