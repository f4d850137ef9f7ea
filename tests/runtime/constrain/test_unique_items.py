"""`uniqueItems` over arrays and objects: equal values never come twice, and no item is begun that cannot be ended."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latticework.lang.errors import SchemaError
from latticework.lang.ir import JsonSchema
from latticework.runtime.constrain import Automaton, Vocabulary, compile_constraint
from latticework.runtime.constrain.copies import Copybook, normal_text
from tests.runtime.constrain.oracle import allowed

END = 256
LONGER = [b'{"', b'":', b'},{"', b'"}', b"}]", b'},{"a":1', b'"a":1}', b"],[", b", {", b"true}", b'e},{"f":', b"]]"]
VOCABULARY = Vocabulary([*(bytes([byte]) for byte in range(256)), b"", *LONGER], (END,))
QUIET = settings(max_examples=60, deadline=None)

FLAG = {"type": "object", "properties": {"f": {"type": "boolean"}}, "required": ["f"], "additionalProperties": False}
MAYBE = {**FLAG, "required": []}
OBJECTS = {"type": "array", "items": {"type": "object"}, "uniqueItems": True}
ANYTHING = {"type": "array", "uniqueItems": True}
FLAGS = {"type": "array", "items": FLAG, "uniqueItems": True}
PAIRS = {
    "type": "array",
    "uniqueItems": True,
    "items": {"type": "array", "prefixItems": [{"enum": [1, 2]}, {"enum": [1, 2]}], "minItems": 2, "items": False},
}
TREE = {
    "type": "object",
    "properties": {"n": {"enum": [1, 2]}, "c": {"type": "array", "uniqueItems": True, "items": {"$ref": "#"}}},
    "required": ["n"],
    "additionalProperties": False,
}


def automaton_of(schema: Any, whitespace: Any = "compact", key_order: Any = "schema") -> Automaton:
    return compile_constraint(JsonSchema(schema, whitespace=whitespace, key_order=key_order), VOCABULARY)


def is_written(automaton: Automaton, text: str) -> bool:
    matcher = automaton.matcher()
    return all(matcher.accept(byte) for byte in text.encode()) and matcher.is_complete()


@pytest.mark.parametrize("whitespace", ["compact", "flexible"])
@pytest.mark.parametrize(
    ("schema", "texts"),
    [
        (OBJECTS, ["[{}]", '[{},{"a":1}]', '[{"a":1,"b":2},{"b":2,"a":2}]', '[{"a":1,"b":2},{"b":2,"a":1,"c":3}]']),
        (ANYTHING, ["[]", '[[1],[1,2],[[]],"[1]",1,{"a":[1]},{"a":[2]},true,null]', "[{},[]]", '["a",["a"]]']),
        (FLAGS, ['[{"f":true},{"f":false}]', '[{"f":false}]']),
        ({**FLAGS, "items": MAYBE}, ['[{"f":true},{},{"f":false}]']),
        (PAIRS, ["[[1,1],[1,2],[2,1],[2,2]]", "[[2,2],[2,1]]"]),
        (TREE, ['{"n":1,"c":[{"n":1},{"n":1,"c":[]},{"n":1,"c":[{"n":2}]}]}']),
    ],
)
def test_arrays_of_different_values_are_written(schema: Any, texts: list[str], whitespace: str) -> None:
    automaton = automaton_of(schema, whitespace)
    assert all(is_written(automaton, text) for text in texts)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (OBJECTS, "[{},{}]"),
        (OBJECTS, "[{},{ }]"),
        (OBJECTS, '[{"a":1},{"a" : 1}]'),
        (OBJECTS, '[{"a":1,"b":2},{"b":2,"a":1}]'),
        (OBJECTS, '[{"a":{"x":1,"y":[1,2]}},{"a":{"y":[1, 2],"x":1}}]'),
        (ANYTHING, "[1,[1],2,[1]]"),
        (ANYTHING, "[[],[]]"),
        (FLAGS, '[{"f":true},{"f":false},{"f":true}]'),
        (PAIRS, "[[1,2],[2,1],[1,2]]"),
        (TREE, '{"n":1,"c":[{"n":2,"c":[{"n":1}]},{"n":2,"c":[{"n":1}]}]}'),
    ],
)
def test_a_value_comes_once_however_it_is_written(schema: Any, text: str) -> None:
    assert not is_written(automaton_of(schema, "flexible", "any"), text)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (FLAGS, '[{"f":true},{"f":'),
        (PAIRS, "[[1,1],[1,2],[2,2],["),
        ({**FLAGS, "items": {"const": {"a": [1]}}}, "[{"),
        ({**FLAGS, "items": {"enum": [{"a": 1}, {"a": 2}, [3]]}}, '[{"a":2},[3],'),
    ],
)
def test_what_only_one_value_is_left_for_is_forced(schema: Any, text: str) -> None:
    automaton = automaton_of(schema)
    matcher = automaton.matcher()
    assert all(matcher.accept(byte) for byte in text.encode())
    whole = text + matcher.forced().decode()
    assert is_written(automaton, whole)
    jsonschema.validate(json.loads(whole), schema)


@pytest.mark.parametrize(
    ("items", "low"),
    [
        (FLAG, 3),
        (MAYBE, 4),
        ({"const": {"a": 1}}, 2),
        ({"type": "integer", "minimum": 0, "maximum": 299}, 301),
        (PAIRS["items"], 5),
        ({"anyOf": [{"type": "null"}, {"$ref": "#"}]}, 2),  # the other item would need two items in its turn
    ],
)
def test_more_items_than_there_are_values_are_refused(items: Any, low: int) -> None:
    with pytest.raises(SchemaError, match="no JSON value satisfies"):
        automaton_of({"type": "array", "items": items, "uniqueItems": True, "minItems": low})


@pytest.mark.parametrize(
    ("items", "low"), [(FLAG, 2), (MAYBE, 3), (PAIRS["items"], 4), ({"type": "object"}, 5), (TREE, 4), (True, 3)]
)
@pytest.mark.parametrize("whitespace", ["compact", pytest.param("flexible", marks=pytest.mark.slow), "2"])
def test_walks_under_a_budget_end_with_different_items(items: Any, low: int, whitespace: str) -> None:
    schema = {"type": "array", "items": items, "uniqueItems": True, "minItems": low, "maxItems": low + 2}
    if isinstance(items, dict) and "$ref" in json.dumps(items):
        schema["items"] = {"$ref": "#/$defs/tree"}
        schema["$defs"] = {"tree": json.loads(json.dumps(items).replace('"#"', '"#/$defs/tree"'))}
    layout: Any = 2 if whitespace == "2" else whitespace
    automaton = automaton_of(schema, layout)
    validator = jsonschema.Draft202012Validator(schema)
    for number in range(6):
        rng = random.Random(number)
        matcher, text = automaton.matcher(), b""
        budget = matcher.shortest() + 5 * number
        for remaining in range(budget, 0, -1):
            tokens = allowed(matcher, VOCABULARY, remaining)
            assert tokens, (text, remaining)
            token = rng.choice(sorted(tokens))
            assert matcher.accept(token)
            if token == END:
                break
            text += VOCABULARY.tokens[token]
        assert matcher.is_complete(), text
        validator.validate(json.loads(text))


VALUES = st.recursive(
    st.sampled_from([1, 2, True, None, "a", "1"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=5,
)


def texts_of(value: Any) -> list[str]:
    """Some texts of one value: in every order of its own members, with blanks and without."""
    orders = [dict(order) for order in itertools.permutations(value.items())] if isinstance(value, dict) else [value]
    return [json.dumps(order, separators=marks) for order in orders for marks in ((",", ":"), (" , ", " :\n"))]


@QUIET
@given(VALUES, VALUES)
def test_normal_texts_are_equal_exactly_for_equal_values(one: Any, other: Any) -> None:
    is_same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    for left, right in itertools.product(texts_of(one), texts_of(other)):
        assert (normal_text(left.encode()) == normal_text(right.encode())) == is_same


@QUIET
@given(st.lists(VALUES, max_size=3), VALUES)
def test_a_copybook_follows_every_text_of_its_values_and_no_other(taken: list[Any], value: Any) -> None:
    book = Copybook([normal_text(json.dumps(other).encode()) for other in taken])
    is_taken = json.dumps(value, sort_keys=True) in [json.dumps(other, sort_keys=True) for other in taken]
    for text in texts_of(value):
        copies = book.start
        for byte in text.encode():
            copies = book.step(copies, byte)
        assert book.has_copy(copies) == is_taken


def test_values_nest_as_deep_as_their_texts() -> None:
    deep = b"[" * 5000 + b"]" * 5000
    assert normal_text(deep) == deep
    assert normal_text(b'{"b":1,}') != normal_text(b"{")
