"""The sets of values that equal a constant, or do not."""

from __future__ import annotations

from typing import Any

from latticework.runtime.constrain.json_formulas import Formulas
from latticework.runtime.constrain.json_keys import Keys
from latticework.runtime.constrain.json_keywords import fail
from latticework.runtime.constrain.json_number_sets import ALL_NUMBERS, exact, point
from latticework.runtime.constrain.json_number_sets import all_but as all_numbers_but
from latticework.runtime.constrain.json_shapes import (
    ALL_ARRAYS,
    ALL_OBJECTS,
    FALSE,
    NULL,
    TRUE,
    ArrayShape,
    ObjectShape,
    ValueSet,
)
from latticework.runtime.constrain.json_strings import ALL_STRINGS, NO_STRINGS, Strings
from latticework.runtime.constrain.json_strings import all_but as all_strings_but


def equal_to(formulas: Formulas, values: list[Any], at: str) -> ValueSet:
    """The values that equal one of `values`; those that cannot be written are left out."""
    constants = 0
    numbers: dict[Any, None] = {}
    words: dict[str, None] = {}
    arrays: list[ArrayShape] = []
    objects: list[ObjectShape] = []
    for value in values:
        match value:
            case None | True | False:
                constants |= _bit(value)
            case int() | float():
                numbers.update(dict.fromkeys(point(exact(_finite(value, at)))))
            case str():
                words[_writable(value, at)] = None
            case list():
                first = tuple(formulas.constant(item) for item in value)
                arrays.append(ArrayShape(first, low=len(value), high=len(value)))
            case dict():
                names = {_writable(name, at): formulas.constant(item) for name, item in value.items()}
                rest = ((Keys(names=frozenset(names)), formulas.false),)
                objects.append(ObjectShape(names, dict.fromkeys(names), rest))
    strings = Strings(tuple(words)) if words else NO_STRINGS
    return ValueSet(constants, tuple(numbers), strings, tuple(arrays), tuple(objects))


def other_than(formulas: Formulas, value: Any, at: str) -> ValueSet:
    """The values that do not equal `value`."""
    constants, numbers, strings = NULL | FALSE | TRUE, ALL_NUMBERS, ALL_STRINGS
    arrays, objects = ALL_ARRAYS, ALL_OBJECTS
    match value:
        case None | True | False:
            constants &= ~_bit(value)
        case int() | float():
            numbers = all_numbers_but(exact(_finite(value, at)))
        case str():
            strings = all_strings_but((_writable(value, at),))
        case list():
            size = len(value)
            shapes = [ArrayShape(low=size + 1), *([ArrayShape(high=size - 1)] if size else [])]
            for index, item in enumerate(value):
                first = (formulas.true,) * index + (formulas.constant(item, False),)
                shapes.append(ArrayShape(first, low=size, high=size))
            arrays = tuple(shapes)
        case dict():
            listed = Keys(names=frozenset(value))
            differs = tuple((name, formulas.constant(item, False)) for name, item in value.items())
            missing = [ObjectShape({name: formulas.false}) for name in value]
            objects = (ObjectShape(needs=(((listed, formulas.true), *differs),)), *missing)
    return ValueSet(constants, numbers, strings, arrays, objects)


def _bit(value: bool | None) -> int:
    return NULL if value is None else TRUE if value else FALSE


def _finite(value: int | float, at: str) -> int | float:
    if isinstance(value, float) and not abs(value) < float("inf"):
        fail("a number is too large for JSON", at)
    return value


def _writable(text: str, at: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        fail("a string holds a lone surrogate, which is no text", at)
    return text
