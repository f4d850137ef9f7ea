"""Shapes: what the objects, the arrays and all values that satisfy a formula look like.

A shape is a conjunction: every restriction in it holds. Alternatives are several shapes. Members and items are
formulas; what those mean is not known here.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from latticework.runtime.constrain.json_formulas import Formula
from latticework.runtime.constrain.json_keys import Keys
from latticework.runtime.constrain.json_number_sets import ALL_NUMBERS, Numbers
from latticework.runtime.constrain.json_strings import ALL_STRINGS, NO_STRINGS, Strings

NULL, FALSE, TRUE = 1, 2, 4

Need: TypeAlias = tuple[tuple[Keys | str, Formula], ...]  # some member has one of these keys and its value


class ObjectShape(msgspec.Struct, frozen=True, eq=False):
    """names: what the value of each listed key must satisfy, in the order of writing. required: keys that must be
    there. rules: what the values of all keys of a set must satisfy. needs: each is met by some member. low, high:
    number of members. What a key must satisfy is what `names` and all `rules` with it say."""

    names: dict[str, Formula] = {}
    required: dict[str, None] = {}
    rules: tuple[tuple[Keys, Formula], ...] = ()
    needs: tuple[Need, ...] = ()
    low: int = 0
    high: int | None = None


class Count(msgspec.Struct, frozen=True, eq=False):
    """From `low` to `high` of the items from `start` on satisfy `formula`."""

    start: int
    formula: Formula
    low: int
    high: int | None


class ArrayShape(msgspec.Struct, frozen=True, eq=False):
    """first: what each of the first items must satisfy; rest: what all others must (None: anything). low, high:
    number of items. unique: the pointer of the keyword that wants no two items equal."""

    first: tuple[Formula, ...] = ()
    rest: Formula | None = None
    counts: tuple[Count, ...] = ()
    low: int = 0
    high: int | None = None
    unique: str | None = None


ALL_OBJECTS: tuple[ObjectShape, ...] = (ObjectShape(),)
ALL_ARRAYS: tuple[ArrayShape, ...] = (ArrayShape(),)


class ValueSet(msgspec.Struct, frozen=True, eq=False):
    """constants: NULL, FALSE and TRUE, as bits. All others: any one of the alternatives."""

    constants: int = 0
    numbers: tuple[Numbers, ...] = ()
    strings: Strings = NO_STRINGS
    arrays: tuple[ArrayShape, ...] = ()
    objects: tuple[ObjectShape, ...] = ()

    @property
    def is_never(self) -> bool:
        return not (self.constants or self.numbers or self.arrays or self.objects or not self.strings.is_never)


ANY_VALUE = ValueSet(NULL | FALSE | TRUE, ALL_NUMBERS, ALL_STRINGS, ALL_ARRAYS, ALL_OBJECTS)
NO_VALUE = ValueSet()
