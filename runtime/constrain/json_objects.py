"""The keywords about objects, as shapes; and the shapes of the objects that break them."""

from __future__ import annotations

from latticework.runtime.constrain.json_formulas import Formula
from latticework.runtime.constrain.json_keys import ALL_KEYS, Keys
from latticework.runtime.constrain.json_keywords import counts, names, place, schemas_by_name
from latticework.runtime.constrain.json_shapes import ALL_OBJECTS, ObjectShape
from latticework.runtime.constrain.json_site import Site
from latticework.runtime.constrain.json_strings import ALL_STRINGS

OBJECT_KEYWORDS = frozenset(
    "properties patternProperties additionalProperties propertyNames required minProperties maxProperties".split()
)


def object_shape(site: Site) -> ObjectShape:
    """What the keywords of one schema say together; those that depend on other keys are not among them."""
    keywords, formulas = site.keywords, site.formulas
    listed = _properties(site)
    rules = list(_patterns(site))
    if "additionalProperties" in keywords:
        rest = site.at("additionalProperties")
        if rest is not formulas.true:
            rules.append((_others(site), rest))
    if "propertyNames" in keywords:
        outside = _bad_names(site)
        if outside is not None:
            rules.append((outside, formulas.false))
    required = dict.fromkeys(_required(site))
    low, high = 0, None
    if "minProperties" in keywords or "maxProperties" in keywords:
        low, high = counts(site.schema, "minProperties", "maxProperties", site.pointer)
    return ObjectShape(listed, required, tuple(rules), (), low, high)


def broken_objects(site: Site) -> list[ObjectShape]:
    """Objects that break at least one of the same keywords. One that lacks a required member, or has it with a wrong
    value, is one with a wrong value if it is there. The shapes are kept apart by the required members: what tells
    the objects of one schema from those of others is mostly among them, and what is apart stays few when it is met
    with the same of other schemas."""
    keywords, formulas = site.keywords, site.formulas
    listed = _properties(site)
    right: dict[str, Formula] = {}
    found: list[ObjectShape] = []
    for name in dict.fromkeys(_required(site)):
        formula = listed.get(name, formulas.true)
        found.append(ObjectShape({**right, name: formulas.negated(formula)}, dict.fromkeys(right)))
        right[name] = formula
    need: list[tuple[Keys | str, Formula]] = []
    need += [(name, formulas.negated(formula)) for name, formula in listed.items() if name not in right]
    need += [(keys, formulas.negated(formula)) for keys, formula in _patterns(site)]
    if "additionalProperties" in keywords:
        need.append((_others(site), formulas.negated(site.at("additionalProperties"))))
    if "propertyNames" in keywords:
        outside = _bad_names(site)
        if outside is not None:
            need.append((outside, formulas.true))
    need = [(keys, formula) for keys, formula in need if formula is not formulas.false]
    if len(need) == 1 and isinstance(need[0][0], str):
        found.append(ObjectShape({**right, need[0][0]: need[0][1]}, dict.fromkeys((*right, need[0][0]))))
    elif need:
        found.append(ObjectShape(right, dict.fromkeys(right), needs=(tuple(need),)))
    if "minProperties" in keywords or "maxProperties" in keywords:
        low, high = counts(site.schema, "minProperties", "maxProperties", site.pointer)
        if low:
            found.append(ObjectShape(high=low - 1))
        if high is not None:
            found.append(ObjectShape(low=high + 1))
    return found


def forbidding(site: Site, name: str) -> ObjectShape:
    return ObjectShape({name: site.formulas.false})


def requiring(wanted: list[str]) -> ObjectShape:
    return ObjectShape(required=dict.fromkeys(wanted)) if wanted else ALL_OBJECTS[0]


def _properties(site: Site) -> dict[str, Formula]:
    if "properties" not in site.keywords:
        return {}
    listed = schemas_by_name(site.schema, "properties", site.pointer)
    return {name: site.inside(value, place("/properties", name)) for name, value in listed.items()}


def _required(site: Site) -> list[str]:
    return names(site.schema["required"], f"{site.pointer}/required") if "required" in site.keywords else []


def _patterns(site: Site) -> list[tuple[Keys, Formula]]:
    if "patternProperties" not in site.keywords:
        return []
    found: list[tuple[Keys, Formula]] = []
    for pattern, value in schemas_by_name(site.schema, "patternProperties", site.pointer).items():
        path = place("/patternProperties", pattern)
        formula = site.inside(value, path)
        found.append((Keys((site.reader.pattern(pattern, site.pointer + path),)), formula))
    return found


def _others(site: Site) -> Keys:
    """The keys that additionalProperties is about."""
    listed = frozenset(_names(site, "properties"))
    return Keys(outside=tuple(keys.texts[0] for keys, _ in _patterns(site)), names=listed)


def _names(site: Site, keyword: str) -> list[str]:
    return list(schemas_by_name(site.schema, keyword, site.pointer)) if keyword in site.keywords else []


def _bad_names(site: Site) -> Keys | None:
    """The keys that propertyNames does not allow; None where it allows all."""
    strings = site.reader.inner(site.at("propertyNames")).strings
    if strings is ALL_STRINGS:
        return None
    return ALL_KEYS if strings.is_never else Keys(outside=(strings.as_text(),))
