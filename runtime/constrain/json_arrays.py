"""The keywords about arrays, as shapes; and the shapes of the arrays that break them."""

from __future__ import annotations

from latticework.runtime.constrain.json_formulas import Formula
from latticework.runtime.constrain.json_keywords import counts, fail, flag, list_of_schemas
from latticework.runtime.constrain.json_shapes import ArrayShape, Count
from latticework.runtime.constrain.json_site import Site

ARRAY_KEYWORDS = frozenset("items prefixItems additionalItems contains minItems maxItems uniqueItems".split())


def array_shape(site: Site) -> ArrayShape:
    """What the keywords of one schema say together."""
    first, rest = item_formulas(site)
    low, high = _sizes(site)
    found: tuple[Count, ...] = ()
    if "contains" in site.keywords:
        fewest, most = contained(site)
        found = (Count(0, site.at("contains"), fewest, most),)
    unique = f"{site.pointer}/uniqueItems" if _is_unique(site) else None
    return ArrayShape(tuple(first), rest, found, low, high, unique)


def broken_arrays(site: Site) -> list[ArrayShape]:
    """Arrays that break at least one of the same keywords, but not those that only break uniqueItems: that two items
    are equal is nothing that an array can be made to have."""
    formulas = site.formulas
    found: list[ArrayShape] = []
    first, rest = item_formulas(site)
    for index, formula in enumerate(first):
        if formula is not formulas.true:
            wrong = (formulas.true,) * index + (formulas.negated(formula),)
            found.append(ArrayShape(wrong, low=index + 1))
    if rest is formulas.false:
        found.append(ArrayShape(low=len(first) + 1))
    elif rest is not None:
        found.append(ArrayShape(counts=(Count(len(first), formulas.negated(rest), 1, None),)))
    if "contains" in site.keywords:
        fewest, most = contained(site)
        if fewest:
            found.append(ArrayShape(counts=(Count(0, site.at("contains"), 0, fewest - 1),)))
        if most is not None:
            found.append(ArrayShape(counts=(Count(0, site.at("contains"), most + 1, None),)))
    low, high = _sizes(site)
    if low:
        found.append(ArrayShape(high=low - 1))
    if high is not None:
        found.append(ArrayShape(low=high + 1))
    return found


def item_formulas(site: Site) -> tuple[list[Formula], Formula | None]:
    """What the first items and all others must satisfy; None is anything."""
    keywords, schema = site.keywords, site.schema
    items = schema.get("items")
    if site.draft.has_item_lists and isinstance(items, list):
        first = [site.inside(value, f"/items/{index}") for index, value in enumerate(items)]
        return first, site.at("additionalItems") if "additionalItems" in keywords else None
    if isinstance(items, list):
        hint = "use prefixItems, or name an earlier draft in $schema"
        fail(f"a list of schemas in 'items' is not of draft {site.draft.name}", f"{site.pointer}/items", hint)
    first = []
    if "prefixItems" in keywords:
        listed = list_of_schemas(schema, "prefixItems", site.pointer)
        first = [site.inside(value, f"/prefixItems/{index}") for index, value in enumerate(listed)]
    rest = site.at("items") if "items" in keywords else None
    return first, None if rest is site.formulas.true else rest


def contained(site: Site) -> tuple[int, int | None]:
    """How many items `contains` wants."""
    if "minContains" not in site.keywords and "maxContains" not in site.keywords:
        return 1, None
    low, high = counts(site.schema, "minContains", "maxContains", site.pointer)
    return low if "minContains" in site.schema else 1, high


def _sizes(site: Site) -> tuple[int, int | None]:
    if "minItems" not in site.keywords and "maxItems" not in site.keywords:
        return 0, None
    return counts(site.schema, "minItems", "maxItems", site.pointer)


def _is_unique(site: Site) -> bool:
    return "uniqueItems" in site.keywords and flag(site.schema, "uniqueItems", site.pointer)
