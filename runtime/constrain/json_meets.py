"""Intersections and unions of value sets.

An intersection of alternatives is one shape for each pair of them. Pairs that contradict each other vanish where that
shows: through types, lengths, finite values, and members that must be there and cannot. What does not show is kept,
which is right too, and found to be empty when it is written.
"""

from __future__ import annotations

from typing import NoReturn, Protocol

from latticework.runtime.constrain.json_formulas import Every, Formula, Formulas, Truth
from latticework.runtime.constrain.json_keys import Keys
from latticework.runtime.constrain.json_number_sets import join_numbers, meet_numbers
from latticework.runtime.constrain.json_shapes import (
    ALL_ARRAYS,
    ALL_OBJECTS,
    ANY_VALUE,
    ArrayShape,
    Need,
    ObjectShape,
    ValueSet,
)
from latticework.runtime.constrain.json_strings import join_strings, meet_strings

MAX_SHAPES = 1000
_COMPARED = 300  # up to so many shapes are looked through for those that others contain


class Judge(Protocol):
    """Who knows what formulas mean."""

    formulas: Formulas

    def is_never(self, formula: Formula) -> bool:
        """Whether surely no value satisfies it."""
        ...

    def refuse(self, message: str, hint: str | None = None) -> NoReturn: ...

    def tick(self) -> None: ...


def meet(judge: Judge, a: ValueSet, b: ValueSet) -> ValueSet:
    """What is in both."""
    if a is ANY_VALUE or b is ANY_VALUE:
        return b if a is ANY_VALUE else a
    return ValueSet(
        a.constants & b.constants,
        meet_numbers(a.numbers, b.numbers),
        meet_strings(a.strings, b.strings),
        _meet_arrays(judge, a.arrays, b.arrays),
        _meet_objects(judge, a.objects, b.objects),
    )


def join(a: ValueSet, b: ValueSet) -> ValueSet:
    """What is in either."""
    if a is ANY_VALUE or b is ANY_VALUE:
        return ANY_VALUE
    is_any = a.objects is ALL_OBJECTS or b.objects is ALL_OBJECTS
    objects = ALL_OBJECTS if is_any else tuple(dict.fromkeys((*a.objects, *b.objects)))
    is_any = a.arrays is ALL_ARRAYS or b.arrays is ALL_ARRAYS
    arrays = ALL_ARRAYS if is_any else tuple(dict.fromkeys((*a.arrays, *b.arrays)))
    return ValueSet(
        a.constants | b.constants,
        join_numbers(a.numbers, b.numbers),
        join_strings(a.strings, b.strings),
        arrays,
        objects,
    )


def are_disjoint(judge: Judge, a: ValueSet, b: ValueSet) -> bool:
    """Whether surely no value is in both."""
    if a.constants & b.constants or (a.numbers and b.numbers and meet_numbers(a.numbers, b.numbers)):
        return False
    if not meet_strings(a.strings, b.strings).is_never:
        return False
    if any(_meet_array(judge, one, other) is not None for one in a.arrays for other in b.arrays):
        return False
    return all(_meet_object(judge, one, other) is None for one in a.objects for other in b.objects)


# ---------------------------------------------------------------- arrays


def _meet_arrays(judge: Judge, a: tuple[ArrayShape, ...], b: tuple[ArrayShape, ...]) -> tuple[ArrayShape, ...]:
    if a is ALL_ARRAYS or b is ALL_ARRAYS:
        return b if a is ALL_ARRAYS else a
    found = [shape for one in a for other in b if (shape := _meet_array(judge, one, other)) is not None]
    _check_many(judge, len(found))
    return tuple(found)


def _meet_array(judge: Judge, a: ArrayShape, b: ArrayShape) -> ArrayShape | None:
    judge.tick()
    low = max(a.low, b.low)
    high = b.high if a.high is None else a.high if b.high is None else min(a.high, b.high)
    if high is not None and high < low:
        return None
    every = judge.formulas.every
    first: list[Formula] = []
    for index in range(max(len(a.first), len(b.first))):
        one = item_formula(judge.formulas, a, index)
        other = item_formula(judge.formulas, b, index)
        both = every((one, other))
        if (high is None or index < high) and both is not one and both is not other and judge.is_never(both):
            high = index
            if high < low:
                return None
        first.append(both)
    rest = b.rest if a.rest is None else a.rest if b.rest is None else every((a.rest, b.rest))
    if low > len(first) and rest is not None and rest not in (a.rest, b.rest) and judge.is_never(rest):
        return None
    return ArrayShape(tuple(first), rest, a.counts + b.counts, low, high, a.unique or b.unique)


def item_formula(formulas: Formulas, shape: ArrayShape, index: int) -> Formula:
    if index < len(shape.first):
        return shape.first[index]
    return formulas.true if shape.rest is None else shape.rest


# ---------------------------------------------------------------- objects


def _meet_objects(judge: Judge, a: tuple[ObjectShape, ...], b: tuple[ObjectShape, ...]) -> tuple[ObjectShape, ...]:
    if a is ALL_OBJECTS or b is ALL_OBJECTS:
        return b if a is ALL_OBJECTS else a
    found = [shape for one in a for other in b if (shape := _meet_object(judge, one, other)) is not None]
    if len(a) > 1 and len(b) > 1 and len(found) <= _COMPARED:
        found = _widest(judge, found)
    _check_many(judge, len(found))
    return tuple(found)


def _widest(judge: Judge, shapes: list[ObjectShape]) -> list[ObjectShape]:
    """Without those that say all that another says, and more."""
    kept: list[ObjectShape] = []
    for shape in sorted(shapes, key=lambda shape: len(shape.names) + len(shape.required) + len(shape.needs)):
        judge.tick()
        if not any(_is_within(shape, other) for other in kept):
            kept.append(shape)
    return [shape for shape in shapes if shape in kept] if len(kept) < len(shapes) else shapes


def _is_within(shape: ObjectShape, other: ObjectShape) -> bool:
    """Whether all that `other` says is among what `shape` says."""
    if other.low > shape.low or not (other.high is None or (shape.high is not None and shape.high <= other.high)):
        return False
    if not (other.required.keys() <= shape.required.keys() and other.names.keys() <= shape.names.keys()):
        return False
    if any(need not in shape.needs for need in other.needs) or any(rule not in shape.rules for rule in other.rules):
        return False
    return all(_says(shape.names[name], formula) for name, formula in other.names.items())


def _says(formula: Formula, part: Formula) -> bool:
    if formula is part or (isinstance(formula, Truth) and not formula.holds):
        return True
    if isinstance(formula, Every):
        return formula.members.issuperset(part.members) if isinstance(part, Every) else part in formula.members
    return isinstance(part, Truth) and part.holds


def _meet_object(judge: Judge, a: ObjectShape, b: ObjectShape) -> ObjectShape | None:
    judge.tick()
    low = max(a.low, b.low)
    high = b.high if a.high is None else a.high if b.high is None else min(a.high, b.high)
    required = a.required if b.required.keys() <= a.required.keys() else {**a.required, **b.required}
    if high is not None and (high < low or high < len(required)):
        return None
    names = dict(a.names)
    every = judge.formulas.every
    for name, formula in b.names.items():
        names[name] = every((names[name], formula)) if name in names else formula
    rules = a.rules + tuple(rule for rule in b.rules if rule not in a.rules)
    shape = ObjectShape(names, required, rules, a.needs + b.needs, low, high)
    for name in required:
        total = member_formula(judge.formulas, shape, name)
        if total is judge.formulas.false:
            return None
        is_new = total is not member_formula(judge.formulas, a, name) and total is not member_formula(
            judge.formulas, b, name
        )
        if is_new and judge.is_never(total):
            return None
    return _with_needs(judge, shape) if shape.needs else shape


def member_formula(formulas: Formulas, shape: ObjectShape, name: str) -> Formula:
    """What the value of the key must satisfy."""
    own = shape.names.get(name, formulas.true)
    if not shape.rules:
        return own
    parts = [own]
    parts += [formula for keys, formula in shape.rules if keys.has(name)]
    return formulas.every(parts) if len(parts) > 1 else own


def _with_needs(judge: Judge, shape: ObjectShape) -> ObjectShape | None:
    """The shape without what cannot meet its needs; None where one cannot be met."""
    formulas = judge.formulas
    names, required = shape.names, shape.required
    kept: list[Need] = []
    for need in shape.needs:
        possible: dict[tuple[Keys | str, Formula], None] = {}
        for keys, formula in need:
            for some, wanted in _narrowed(shape, keys, formula):
                if isinstance(some, Keys) or not judge.is_never(
                    formulas.every((member_formula(formulas, shape, some), wanted))
                ):
                    possible[some, wanted] = None
        if not possible:
            return None
        ((keys, formula), *others) = possible
        if not others and isinstance(keys, str):  # one member alone can meet it
            if names is shape.names:
                names, required = dict(names), dict(required)
            names[keys] = formulas.every((names.get(keys, formulas.true), formula))
            required[keys] = None
        else:
            kept.append(tuple(possible))
    return ObjectShape(names, required, shape.rules, tuple(kept), shape.low, shape.high)


def _narrowed(shape: ObjectShape, keys: Keys | str, formula: Formula) -> list[tuple[Keys | str, Formula]]:
    """Where a rule forbids all but some names, only those names are left of a set of keys."""
    if isinstance(keys, Keys):
        for some, wanted in shape.rules:
            if isinstance(wanted, Truth) and not wanted.holds and not some.patterns:
                return [(name, formula) for name in some.names if keys.has(name)]
    return [(keys, formula)]


def _check_many(judge: Judge, count: int) -> None:
    if count > MAX_SHAPES:
        judge.refuse(
            f"the schemas here combine to {count} cases; at most {MAX_SHAPES} are supported",
            "fewer alternatives side by side",
        )
