"""The keywords that put schemas together: references, allOf, anyOf, oneOf, not, if, and those that depend on keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations

from latticework.runtime.constrain.json_formulas import Formula, Scope
from latticework.runtime.constrain.json_keywords import fail, list_of_schemas, names, place, schemas_by_name, shown
from latticework.runtime.constrain.json_meets import are_disjoint, join, meet
from latticework.runtime.constrain.json_objects import forbidding, requiring
from latticework.runtime.constrain.json_shapes import ANY_VALUE, NO_VALUE, ObjectShape, ValueSet
from latticework.runtime.constrain.json_site import Reader, Site

REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
DEPENDENCIES = ("dependentRequired", "dependentSchemas", "dependencies")
CONDITIONS = (*REFERENCES, "allOf", "anyOf", "oneOf", "not", "if", *DEPENDENCIES)


def satisfying(site: Site, keyword: str) -> ValueSet:
    """The values that satisfy one keyword of CONDITIONS."""
    if keyword in DEPENDENCIES:
        return _dependent(site, keyword)
    if keyword == "oneOf":
        return _exactly_one(site.reader, branches(site, "oneOf"))
    return site.reader.of(formula_of(site, keyword))


def breaking(site: Site, keyword: str) -> ValueSet:
    """The values that do not."""
    if keyword in DEPENDENCIES:
        return _not_dependent(site, keyword)
    if keyword == "oneOf":
        return _not_exactly_one(site.reader, branches(site, "oneOf"))
    return site.reader.of(site.formulas.negated(formula_of(site, keyword)))


def formula_of(site: Site, keyword: str) -> Formula:
    """What one of the keywords says, where one formula can say it."""
    formulas = site.formulas
    match keyword:
        case "allOf":
            return formulas.every(branches(site, keyword))
        case "anyOf":
            return formulas.some(branches(site, keyword))
        case "not":
            return formulas.negated(site.at("not"))
        case "if":
            condition, then, otherwise = conditional(site)
            if then is otherwise:
                return then
            return formulas.some(
                (formulas.every((condition, then)), formulas.every((formulas.negated(condition), otherwise)))
            )
        case _:
            return referred(site, keyword)


def branches(site: Site, keyword: str) -> tuple[Formula, ...]:
    listed = list_of_schemas(site.schema, keyword, site.pointer)
    limit = site.reader.limits.alternatives
    if len(listed) > limit:
        fail(f"{len(listed)} schemas; the limit `alternatives` is {limit}", f"{site.pointer}/{keyword}")
    return tuple(site.inside(value, f"/{keyword}/{index}") for index, value in enumerate(listed))


def conditional(site: Site) -> tuple[Formula, Formula, Formula]:
    """The formulas of `if`, `then` and `else`."""
    formulas = site.formulas
    then = site.at("then") if "then" in site.keywords else formulas.true
    return site.at("if"), then, site.at("else") if "else" in site.keywords else formulas.true


def referred(site: Site, keyword: str) -> Formula:
    """The formula of the schema that a reference leads to."""
    scope: Scope = site.scope
    target = site.reader.document.follow(site.schema[keyword], site.place, keyword, scope)
    return site.formulas.schema(target, scope)


# ---------------------------------------------------------------- oneOf


def _exactly_one(reader: Reader, parts: tuple[Formula, ...]) -> ValueSet:
    values = [reader.of(part) for part in parts]
    overlaps: list[list[int]] = [[] for _ in parts]
    for one, other in combinations(range(len(parts)), 2):
        if parts[one] is parts[other] or not are_disjoint(reader, values[one], values[other]):
            overlaps[one].append(other)
            overlaps[other].append(one)
    found = NO_VALUE
    for own, others in zip(values, overlaps, strict=True):
        for other in others:
            own = meet(reader, own, reader.of(reader.formulas.negated(parts[other])))
        found = join(found, own)
    return found


def _not_exactly_one(reader: Reader, parts: tuple[Formula, ...]) -> ValueSet:
    found = reader.of(reader.formulas.every(map(reader.formulas.negated, parts)))
    for one, other in combinations(parts, 2):
        found = join(found, meet(reader, reader.of(one), reader.of(other)))
    return found


# ---------------------------------------------------------------- what depends on a key


def dependents(site: Site, keyword: str) -> Iterator[tuple[str, list[str], Formula]]:
    """For each key: the keys and the schema that it wants to go with it."""
    for name, wanted in schemas_by_name(site.schema, keyword, site.pointer).items():
        path = place(f"/{keyword}", name)
        if keyword == "dependentRequired" and not isinstance(wanted, list):
            fail(f"'dependentRequired' holds lists of names; got {shown(wanted)}", site.pointer + path)
        if isinstance(wanted, list) and keyword != "dependentSchemas":
            yield name, names(wanted, site.pointer + path), site.formulas.true
        else:
            yield name, [], site.inside(wanted, path)


def _dependent(site: Site, keyword: str) -> ValueSet:
    reader = site.reader
    values = ANY_VALUE
    for name, wanted, formula in dependents(site, keyword):
        if formula is site.formulas.true and not [key for key in wanted if key != name]:
            continue
        present = meet(reader, of_objects((requiring([name, *wanted]),)), reader.of(formula))
        values = meet(reader, values, _or_no_object((forbidding(site, name), *present.objects)))
    return values


def _not_dependent(site: Site, keyword: str) -> ValueSet:
    reader = site.reader
    values = NO_VALUE
    for name, wanted, formula in dependents(site, keyword):
        has_it = of_objects((requiring([name]),))
        missing = tuple(forbidding(site, key) for key in wanted)
        values = join(values, meet(reader, has_it, of_objects(missing)))
        values = join(values, meet(reader, has_it, reader.of(site.formulas.negated(formula))))
    return values


def of_objects(shapes: Iterable[ObjectShape]) -> ValueSet:
    return ValueSet(objects=tuple(shapes))


def _or_no_object(shapes: tuple[ObjectShape, ...]) -> ValueSet:
    return ValueSet(ANY_VALUE.constants, ANY_VALUE.numbers, ANY_VALUE.strings, ANY_VALUE.arrays, shapes)


def or_other_type(about: str, values: ValueSet) -> ValueSet:
    """`values` and everything that is no array, or no object."""
    if about == "arrays":
        return ValueSet(ANY_VALUE.constants, ANY_VALUE.numbers, ANY_VALUE.strings, values.arrays, ANY_VALUE.objects)
    return _or_no_object(values.objects)
