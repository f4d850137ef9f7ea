"""The keywords about types and numbers, as sets of values."""

from __future__ import annotations

import msgspec

from latticework.runtime.constrain.json_keywords import divisor, interval
from latticework.runtime.constrain.json_number_sets import ALL_NUMBERS, WHOLE, Numbers
from latticework.runtime.constrain.json_shapes import ALL_ARRAYS, ALL_OBJECTS, FALSE, NULL, TRUE, ValueSet
from latticework.runtime.constrain.json_site import Site
from latticework.runtime.constrain.json_strings import ALL_STRINGS, NO_STRINGS

NUMBER_KEYWORDS = frozenset("minimum maximum exclusiveMinimum exclusiveMaximum multipleOf".split())


def other_types(named: frozenset[str]) -> ValueSet:
    """The values of no type that is named."""
    constants = (0 if "null" in named else NULL) | (0 if "boolean" in named else FALSE | TRUE)
    numbers: tuple[Numbers, ...] = ALL_NUMBERS
    if "number" in named:
        numbers = ()
    elif "integer" in named:
        numbers = (Numbers(others=frozenset((WHOLE,))),)
    strings = NO_STRINGS if "string" in named else ALL_STRINGS
    arrays = () if "array" in named else ALL_ARRAYS
    return ValueSet(constants, numbers, strings, arrays, () if "object" in named else ALL_OBJECTS)


def integers(site: Site) -> tuple[Numbers, ...]:
    """The numbers of type integer."""
    return (Numbers(multiples=frozenset((WHOLE,)), is_plain=not site.draft.has_whole_floats),)


def numbers_of(site: Site) -> Numbers:
    """What the keywords about numbers say together."""
    own = interval(site.schema, site.draft, site.pointer)
    if "multipleOf" not in site.keywords:
        return own
    return msgspec.structs.replace(own, multiples=frozenset((divisor(site.schema, site.pointer),)))


def broken_numbers(site: Site) -> tuple[Numbers, ...]:
    """Numbers that break at least one of them."""
    own = numbers_of(site)
    found = [Numbers(others=frozenset((step,))) for step in own.multiples]
    if own.low is not None:
        found.append(Numbers(high=own.low, high_exclusive=not own.low_exclusive))
    if own.high is not None:
        found.append(Numbers(low=own.high, low_exclusive=not own.high_exclusive))
    return tuple(found)
