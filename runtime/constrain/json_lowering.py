"""Formulas -> nodes of a rule graph.

Each formula becomes at most one node (for indented text: one for each depth). A formula that is met again while it is
being written is a rule, so recursion costs nothing. Strings, numbers and words are terminals.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain

from latticework.lang.errors import ConstraintError, SchemaError
from latticework.runtime.constrain.algebra import Text, any_text, lower_json
from latticework.runtime.constrain.builder import Builder, OutOfTime
from latticework.runtime.constrain.json_formulas import Formula, Holds
from latticework.runtime.constrain.json_keys import KeyClass, Keys, key_classes
from latticework.runtime.constrain.json_keywords import fail
from latticework.runtime.constrain.json_meanings import Meanings
from latticework.runtime.constrain.json_meets import item_formula, member_formula
from latticework.runtime.constrain.json_number_sets import Numbers
from latticework.runtime.constrain.json_numbers import build_numbers
from latticework.runtime.constrain.json_shapes import FALSE, NULL, TRUE, ArrayShape, ObjectShape, ValueSet
from latticework.runtime.constrain.json_strings import Strings
from latticework.runtime.constrain.json_writing import MAX_INDENTED, Layout
from latticework.runtime.constrain.rules import Array, Choice, Extra, Object, Property

_MAX_CELLS = 128  # of one value, by what it counts for
_FEW_MARKS = 3  # up to so many, every combination is told apart
_encode = json.JSONEncoder(ensure_ascii=False).encode
_CONSTANTS = ((NULL, b"null"), (TRUE, b"true"), (FALSE, b"false"))


class Lowering:
    """Writes what formulas mean into `builder`. is_ordered: listed members come in order. is_single: each number is
    written in one way alone, as the items of arrays without repeats are. where: the pointer of the schema that is being
    written."""

    def __init__(
        self, builder: Builder, meanings: Meanings, layout: Layout, *, is_ordered: bool, is_single: bool = False
    ) -> None:
        self.builder = builder
        self.meanings = meanings
        self.formulas = meanings.formulas
        self.layout = layout
        self.is_ordered = is_ordered
        self.is_single = is_single
        self._items: Lowering | None = None  # of arrays without repeats
        self._known: dict[tuple[Formula, int], int] = {}
        self._open: dict[tuple[Formula, int], int | None] = {}  # being written; the rule, where one was needed
        self._numbers: dict[Numbers, int] = {}
        self._strings: dict[Text, int] = {}
        self._classified: dict[tuple[Text, ...], list[KeyClass]] = {}
        self._nesting = 0
        self.where = ""

    def node(self, formula: Formula, depth: int = 0) -> int:
        """The texts of the values that satisfy `formula`; NEVER where there is none."""
        depth = depth if self.layout.indent is not None else 0
        key = (formula, depth)
        known = self._known.get(key)
        if known is not None:
            return known
        if key in self._open:
            rule = self._open[key]
            if rule is None:
                rule = self._open[key] = self.builder.rule()
            return self.builder.call(rule)
        limit = self.meanings.limits.depth
        if self._nesting >= limit:
            fail(f"schemas nest too deep; the limit `depth` is {limit}", self.where)
        where = self.where
        if isinstance(formula, Holds):
            self.where = formula.place.pointer
        self._open[key] = None
        self._nesting += 1
        node = self._values(self.meanings.of(formula), depth)
        self._nesting -= 1
        rule = self._open.pop(key)
        if rule is not None:
            self.builder.define(rule, node)
            node = self.builder.call(rule)
        self._known[key] = node
        self.where = where
        return node

    def _values(self, values: ValueSet, depth: int) -> int:
        nodes = [self.builder.terminal(node) for node in self._regular(values)]
        if self.layout.indent is None or depth < MAX_INDENTED:
            for (
                array
            ) in values.arrays:  # loops, here and below: each level of nesting costs few frames of Python's stack
                nodes.append(self._array(array, depth))
            for shape in values.objects:
                nodes.append(self._object(shape, depth))
        return self.builder.either(nodes)

    # ------------------------------------------------------------ strings, numbers, words

    def _regular(self, values: ValueSet) -> list[int]:
        """The scalars: one node for all that is listed, one for each other kind."""
        build = self.builder
        words = [build.literal(text) for bit, text in _CONSTANTS if values.constants & bit]
        nodes: list[int] = []
        numbers: list[int] = []
        for some in values.numbers:
            node = self._number(some)
            (words if some.is_point else numbers).append(node)
        nodes.append(build.either(numbers))
        if values.strings.words is not None:
            words += [build.literal(_written(word)) for word in values.strings.words]
        else:
            nodes.append(self._string(values.strings))
        return [build.either(words), *nodes]

    def _number(self, numbers: Numbers) -> int:
        """A regular node."""
        known = self._numbers.get(numbers)
        if known is None:
            has_floats = self.layout.has_whole_floats
            try:
                known = build_numbers(self.builder, numbers, has_whole_floats=has_floats, is_single=self.is_single)
            except OutOfTime:
                raise
            except ConstraintError as error:
                fail(f"multipleOf is not supported here: {error.message}", self.where, error.hint)
            self._numbers[numbers] = known
        return known

    def _string(self, strings: Strings) -> int:
        """A regular node."""
        text = strings.as_text()
        known = self._strings.get(text)
        if known is not None:
            return known
        try:
            known = self._strings[text] = lower_json(self.builder, text)
            return known
        except (OutOfTime, SchemaError):
            raise
        except ConstraintError as error:
            fail(error.message, self.where, error.hint)

    # ------------------------------------------------------------ arrays

    def _array(self, shape: ArrayShape, depth: int) -> int:
        if shape.unique is not None and (shape.high is None or shape.high > 1):
            return self._unique_array(shape, depth)
        marks = self.layout.marks(b"[]", depth)
        listed = max([len(shape.first), *(count.start for count in shape.counts)])
        first = []
        for index in range(listed if shape.high is None else min(listed, shape.high)):
            first.append(self._item_choices(shape, index, depth))
        is_full = shape.high is not None and shape.high <= listed
        rest = () if is_full else self._item_choices(shape, listed, depth)
        bounds = tuple((count.low, count.high) for count in shape.counts)
        return self.builder.array(
            Array(marks.empty, marks.open, marks.close, marks.comma, tuple(first), rest, shape.low, shape.high, bounds)
        )

    def _item_choices(self, shape: ArrayShape, index: int, depth: int) -> tuple[Choice, ...]:
        own = item_formula(self.formulas, shape, index)
        counted = [
            (mark, count.formula, count.high is not None)
            for mark, count in enumerate(shape.counts)
            if count.start <= index
        ]
        return self._choices(own, counted, depth)

    def _choices(self, own: Formula, counted: Sequence[tuple[int, Formula, bool]], depth: int) -> tuple[Choice, ...]:
        """The value, split by what it counts for. counted: (mark, what it wants, whether all must be counted)."""
        if not counted:
            return (Choice(self.node(own, depth + 1)),)
        is_many = len(counted) > _FEW_MARKS and not any(is_exact for _, _, is_exact in counted)
        if is_many and not _is_scalar(self.meanings.of(own)):
            cells = self._some_cells(own, counted)
        else:
            cells = self._cells(own, counted)
        found = []
        for cell, marks in cells:
            found.append(Choice(self.node(cell, depth + 1), marks))
        return tuple(found)

    def _cells(
        self, own: Formula, counted: Sequence[tuple[int, Formula, bool]]
    ) -> list[tuple[Formula, tuple[int, ...]]]:
        formulas, meanings = self.formulas, self.meanings
        cells: list[tuple[Formula, tuple[int, ...]]] = [(own, ())]
        for mark, wanted, is_exact in counted:
            split: list[tuple[Formula, tuple[int, ...]]] = []
            for cell, marks in cells:
                inside = formulas.every((cell, wanted))
                if not meanings.is_never(inside):
                    split.append((inside, (*marks, mark)))
                outside = cell
                if is_exact or _is_scalar(meanings.of(cell)):
                    outside = formulas.every((cell, formulas.negated(wanted)))
                    if meanings.is_never(outside):
                        continue
                if outside is not inside:
                    split.append((outside, marks))
            cells = split
            if len(cells) > _MAX_CELLS:
                fail("too many schemas speak about how many members or items there are", self.where)
        return cells

    def _some_cells(
        self, own: Formula, counted: Sequence[tuple[int, Formula, bool]]
    ) -> list[tuple[Formula, tuple[int, ...]]]:
        """A value that counts for nothing, for one thing, or for all: there are too many ways between. What is left
        out is a value that counts for some things and leaves others to other members."""
        formulas = self.formulas
        chosen = [(), *((entry,) for entry in counted), tuple(counted)]
        cells = [
            (formulas.every((own, *(wanted for _, wanted, _ in some))), tuple(mark for mark, _, _ in some))
            for some in chosen
        ]
        return [(cell, marks) for cell, marks in cells if not self.meanings.is_never(cell)]

    def _unique_array(self, shape: ArrayShape, depth: int) -> int:
        if shape.counts:
            fail("'uniqueItems' is not supported beside 'contains'", shape.unique or "")
        marks = self.layout.marks(b"[]", depth)
        items = self._single_items()
        first = []
        for index in range(len(shape.first) if shape.high is None else min(len(shape.first), shape.high)):
            first.append((Choice(items.node(item_formula(self.formulas, shape, index), depth + 1)),))
        is_full = shape.high is not None and shape.high <= len(shape.first)
        rest = () if is_full else (Choice(items.node(item_formula(self.formulas, shape, len(first)), depth + 1)),)
        node = Array(
            marks.empty, marks.open, marks.close, marks.comma, tuple(first), rest, shape.low, shape.high, is_unique=True
        )
        return self.builder.array(node)

    def _single_items(self) -> Lowering:
        """Writes the items of arrays without repeats."""
        if self.is_single:
            return self
        if self._items is None:
            self._items = Lowering(self.builder, self.meanings, self.layout, is_ordered=self.is_ordered, is_single=True)
        self._items._nesting = self._nesting
        self._items.where = self.where
        return self._items

    # ------------------------------------------------------------ objects

    def _object(self, shape: ObjectShape, depth: int) -> int:
        marks = self.layout.marks(b"{}", depth)
        names = dict.fromkeys(shape.names)
        names.update(shape.required)
        for keys, _ in chain(shape.rules, *shape.needs):
            if isinstance(keys, str):
                names[keys] = None
            elif not keys.names <= names.keys():
                names.update(dict.fromkeys(sorted(keys.names)))
        properties = []
        for name in names:
            total = member_formula(self.formulas, shape, name)
            choices: tuple[Choice, ...] = ()
            if total is not self.formulas.false:
                counted = [
                    (mark, formula, False)
                    for mark, need in enumerate(shape.needs)
                    for keys, formula in need
                    if (keys.has(name) if isinstance(keys, Keys) else keys == name)
                ]
                choices = self._choices(total, counted, depth)
            properties.append(Property(_written(name), choices, name in shape.required))
        extras = self._extras(shape, depth)
        if not extras:
            properties = [member for member in properties if member.choices or member.is_required]
        bounds = ((1, None),) * len(shape.needs)
        return self.builder.object(
            Object(
                marks.empty,
                marks.open,
                marks.close,
                marks.comma,
                self.layout.colon,
                tuple(properties),
                extras,
                self.is_ordered,
                shape.low,
                shape.high,
                bounds,
            )
        )

    def _extras(self, shape: ObjectShape, depth: int) -> tuple[Extra, ...]:
        """Members with keys that are not listed, by the patterns that tell their keys apart."""
        found: list[Extra] = []
        for keys_text, has in self._classes(shape):
            value = self.formulas.every(formula for keys, formula in shape.rules if has(keys))
            if value is self.formulas.false:
                continue
            counted = [
                (mark, formula, False)
                for mark, need in enumerate(shape.needs)
                for keys, formula in need
                if isinstance(keys, Keys) and has(keys)
            ]
            key = self._string(Strings(None, keys_text))
            found.append(Extra(key, self._choices(value, counted, depth)))
        return tuple(found)

    def _classes(self, shape: ObjectShape) -> list[KeyClass]:
        """(the keys, whether a set of keys has them). Listed keys may be among them: an object never takes those."""
        texts = dict.fromkeys(
            text for keys, _ in chain(shape.rules, *shape.needs) if isinstance(keys, Keys) for text in keys.patterns
        )
        if not texts:
            return [(any_text(), lambda _: True)]
        key = tuple(texts)
        known = self._classified.get(key)
        if known is None:
            known = self._classified[key] = self._told_apart(key)
        return known

    def _told_apart(self, texts: tuple[Text, ...]) -> list[KeyClass]:
        try:
            return key_classes(texts, self.meanings.limits, self.builder.tick)
        except OutOfTime:
            raise
        except ConstraintError as error:
            fail(error.message, self.where, error.hint)


def _is_scalar(values: ValueSet) -> bool:
    return not values.arrays and not values.objects


def _written(text: str) -> bytes:
    return _encode(text).encode()
