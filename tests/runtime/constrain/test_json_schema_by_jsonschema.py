"""Random schemas against the `jsonschema` package: what the masks let through validates, and what validates is let
through, in whatever order its keys come."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

import jsonschema
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from latticework.lang.errors import ConstraintError, SchemaError
from latticework.lang.ir import JsonSchema
from latticework.runtime.constrain import Automaton, compile_constraint
from tests.runtime.constrain.oracle import accepts, byte_vocabulary, walk

VOCABULARY = byte_vocabulary(
    b'":', b'","', b'{"', b"}}", b"true", b"null", b"10", b"0.", b"\xc3\xa9", b'{"a":', b"],[", b'":"', b'"a"', b"[1"
)
QUIET = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)
NOTHING = "no JSON value satisfies"  # the one refusal that says something about the language

KEYS = ["a", "b", "c", "ab"]
SCALARS: list[Any] = [None, True, False, 0, 1, 2, 3, -1, 6, 1.5, 0.5, -2.5, "", "a", "b", "ab", "ba", "abc", "é", "aé"]
SCALARS += ["2024-02-29", "2023-02-29", "1.2.3.4", "::1"]
FEW: list[Any] = [None, True, 0, 1, 1.5, "a", "ab", [], {}, [1], {"a": 1}]


def universe() -> list[Any]:
    """Values that the schemas below are about."""
    lists = [list(items) for count in range(4) for items in itertools.product([*FEW[1:7:2], [1]], repeat=count)]
    objects = [
        dict(zip(keys, values, strict=True))
        for count in range(4)
        for keys in itertools.combinations(KEYS, count)
        for values in itertools.product([1, "a", None], repeat=count)
    ]
    nested = [
        [{"a": 1}],
        [{"a": 1}, {"a": 1}],
        [[], []],
        {"a": {"b": 1}},
        {"a": {"a": 1}, "b": [1]},
        {"b": [{"a": "a"}]},
    ]
    mixed: list[Any] = [[1, True], [0, False], [1, 1], ["a", "a"], {"a": True}, {"b": {}}, {"a": [], "c": {}}]
    return [*SCALARS, *FEW, *lists, *objects, *nested, *mixed]


UNIVERSE = universe()


@st.composite
def schemas(draw: Any, depth: int = 2) -> Any:
    """A schema over few keys and small values, of one to three groups of keywords."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.booleans())
    groups = [TYPE, TYPE, TYPE, VALUE, NUMBER, STRING]
    if depth:
        inner = schemas(depth - 1)
        groups += [array_group(inner), array_group(inner), object_group(inner), object_group(inner)]
        groups += [combining_group(inner), combining_group(inner)]
    found: dict[str, Any] = {}
    for group in draw(st.lists(st.sampled_from(groups), min_size=1, max_size=3)):
        found |= draw(group)
    return found


def some(*entries: tuple[str, st.SearchStrategy[Any]], most: int = 3) -> st.SearchStrategy[dict[str, Any]]:
    """One to `most` of the keywords."""
    chosen = st.lists(st.sampled_from(entries), min_size=1, max_size=most, unique_by=lambda entry: entry[0])
    return chosen.flatmap(lambda kept: st.fixed_dictionaries(dict(kept)))


TYPES = ["null", "boolean", "integer", "number", "string", "array", "object"]
TYPE = st.one_of(
    st.sampled_from(TYPES).map(lambda name: {"type": name}),
    st.lists(st.sampled_from(TYPES), min_size=1, max_size=3, unique=True).map(lambda names: {"type": names}),
)
VALUE = st.one_of(
    st.sampled_from(FEW + SCALARS[:17]).map(lambda value: {"const": value}),
    st.lists(st.sampled_from(FEW + SCALARS[:17]), min_size=1, max_size=4).map(lambda values: {"enum": values}),
)
LIMIT = st.sampled_from([-2, -1, 0, 0.5, 1, 1.5, 2, 3, 10])
NUMBER = some(
    ("minimum", LIMIT), ("maximum", LIMIT), ("exclusiveMinimum", LIMIT), ("exclusiveMaximum", LIMIT),
    ("multipleOf", st.sampled_from([1, 2, 3, 0.5, 1.5])),
)  # fmt: skip
PATTERNS = ["^a", "b$", "^[ab]*$", "a.?b", "^(ab|c)", "[^a]", "^$", "^.{1,2}$"]
STRING = some(
    ("minLength", st.integers(0, 3)), ("maxLength", st.integers(0, 3)), ("pattern", st.sampled_from(PATTERNS)),
    ("format", st.sampled_from(["date", "ipv4", "ipv6", "x-unknown"])),
)  # fmt: skip
COUNT = st.integers(0, 3)


def array_group(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return some(
        ("items", inner), ("prefixItems", st.lists(inner, min_size=1, max_size=2)), ("contains", inner),
        ("minContains", COUNT), ("maxContains", COUNT), ("minItems", COUNT), ("maxItems", COUNT),
        ("uniqueItems", st.booleans()), ("unevaluatedItems", inner),
    )  # fmt: skip


def object_group(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    key = st.sampled_from(KEYS)
    names = st.lists(key, max_size=2, unique=True)
    return some(
        ("properties", st.dictionaries(key, inner, max_size=3)), ("required", names),
        ("additionalProperties", inner),
        ("patternProperties", st.dictionaries(st.sampled_from(["^a", "b$", "c"]), inner, min_size=1, max_size=2)),
        ("propertyNames", st.one_of(STRING, VALUE)), ("minProperties", COUNT), ("maxProperties", COUNT),
        ("dependentRequired", st.dictionaries(key, names, max_size=2)),
        ("dependentSchemas", st.dictionaries(key, inner, max_size=2)), ("unevaluatedProperties", inner),
        most=4,
    )  # fmt: skip


def combining_group(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    several = st.lists(inner, min_size=1, max_size=3)
    choice = st.one_of(
        some(("allOf", several), ("anyOf", several), ("oneOf", several), most=2),
        inner.map(lambda schema: {"not": schema}),
        st.fixed_dictionaries({"if": inner}, optional={"then": inner, "else": inner}),
        inner.map(lambda schema: {"$ref": "#/$defs/x", "$defs": {"x": schema}}),
    )
    return choice


def place_definitions(schema: Any) -> Any:
    """References reach `$defs` of the root; inner ones of the same name give way to the last."""
    definitions: dict[str, Any] = {}

    def lift(part: Any) -> Any:
        if isinstance(part, dict):
            if "$defs" in part:
                definitions["x"] = lift(part["$defs"]["x"])
            return {key: lift(value) for key, value in part.items() if key != "$defs"}
        return [lift(item) for item in part] if isinstance(part, list) else part

    lifted = lift(schema)
    return {**lifted, "$defs": definitions} if definitions else lifted


SCHEMAS = schemas().map(place_definitions)


def validator_of(schema: Any) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker(["date", "ipv4", "ipv6"]))


def compiled(schema: Any, key_order: str, whitespace: str | int = "compact") -> Automaton | str:
    """The automaton, or why there is none."""
    try:
        constraint = JsonSchema(schema, whitespace, key_order)  # type: ignore[arg-type]
        return compile_constraint(constraint, VOCABULARY)
    except ConstraintError as error:
        refusal = error
    assert not isinstance(refusal, SchemaError) or refusal.pointer is not None, refusal
    return str(refusal)


def is_valid(validator: jsonschema.Draft202012Validator, value: Any) -> bool:
    """A schema may call itself for ever without looking at any part of the value."""
    try:
        return bool(validator.is_valid(value))
    except RecursionError:
        assume(False)
        raise


def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({key for key, _ in pairs}) == len(pairs), f"a key comes twice: {pairs}"
    return dict(pairs)


def written(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def orders(value: Any) -> Iterator[Any]:
    """The value with its keys in every order."""
    if isinstance(value, dict):
        for keys in itertools.permutations(value):
            for parts in itertools.product(*(list(orders(value[key])) for key in keys)):
                yield dict(zip(keys, parts, strict=True))
    elif isinstance(value, list):
        yield from (list(parts) for parts in itertools.product(*(list(orders(item)) for item in value)))
    else:
        yield value


def may_be_left_out(schema: Any, value: Any) -> bool:
    """Of the opposite of uniqueItems, all arrays that only have two equal items are left out."""
    return '"uniqueItems": true' in json.dumps(schema) and has_equal_items(value)


def has_equal_items(value: Any) -> bool:
    """Whether an array in it has two items that are written alike."""
    if isinstance(value, dict):
        return any(has_equal_items(part) for part in value.values())
    if not isinstance(value, list):
        return False
    return any(map(has_equal_items, value)) or len({json.dumps(x) for x in value}) < len(value)


@QUIET
@given(SCHEMAS, st.integers(0, 99), st.sampled_from(["schema", "any"]))
def test_whatever_the_masks_of_a_random_schema_let_through_validates(schema: Any, seed: int, key_order: str) -> None:
    automaton = compiled(schema, key_order)
    event("refused" if isinstance(automaton, str) else "compiled")
    assume(not isinstance(automaton, str))
    assert isinstance(automaton, Automaton)
    validator, rng = validator_of(schema), random.Random(seed)
    shortest = automaton.matcher().shortest()
    for spare in (0, 1, 3, 8, 20, 60):
        text = walk(automaton, shortest + spare, rng, end=rng.choice([0.1, 0.5]))
        value = json.loads(text, object_pairs_hook=without_doubles)
        if b"\\n" not in text:  # where Python's $ matches before a newline
            assert is_valid(validator, value), f"{text!r} is let through"


@QUIET
@given(SCHEMAS, st.integers(0, 99))
def test_whatever_validates_is_let_through_and_nothing_else_is(schema: Any, seed: int) -> None:
    validator = validator_of(schema)
    some_values = random.Random(seed).sample(UNIVERSE, 60)
    verdicts = [is_valid(validator, value) for value in some_values]
    ordered, free = compiled(schema, "schema"), compiled(schema, "any")
    if isinstance(ordered, str) or isinstance(free, str):
        if NOTHING in str(ordered) or NOTHING in str(free):
            valid = [value for value, verdict in zip(some_values, verdicts, strict=True) if verdict]
            left = [value for value in valid if not may_be_left_out(schema, value)]
            assert not left, f"{left[0]!r} satisfies what nothing is said to"
        event("refused: " + str(ordered)[:60])
        return
    event("compiled")
    for value, verdict in zip(some_values, verdicts, strict=True):
        texts = [written(other) for other in itertools.islice(orders(value), 24)]
        is_any = [accepts(free, text) for text in texts]
        in_order = [accepts(ordered, text) for text in texts]
        if verdict and may_be_left_out(schema, value):
            continue
        if verdict:
            assert all(is_any), f"{texts[is_any.index(False)]!r} is refused"
            assert any(in_order), f"{texts[0]!r} is refused in every order"
        else:
            assert not any(is_any), f"{texts[is_any.index(True)]!r} is let through"
            assert not any(in_order), f"{texts[in_order.index(True)]!r} is let through"


LAYOUTS: dict[str, tuple[Any, ...]] = {  # the layouts that each whitespace mode lets through, of those tried
    "compact": ((None, (",", ":")),),
    "spaced": ((None, (", ", ": ")),),
    "flexible": ((None, (",", ":")), (None, (", ", ": ")), (2, None), (None, (" ,\n", "\t: "))),
}


def laid_out(value: Any, indent: int | None, separators: tuple[str, str] | None) -> str:
    return json.dumps(value, indent=indent, separators=separators, ensure_ascii=False)


@QUIET
@given(SCHEMAS, st.integers(0, 99), st.sampled_from(list(LAYOUTS)))
def test_each_whitespace_mode_lets_its_layouts_through(schema: Any, seed: int, whitespace: str) -> None:
    automaton, compact = compiled(schema, "any", whitespace), compiled(schema, "any")
    assume(not isinstance(automaton, str) and not isinstance(compact, str))
    assert isinstance(automaton, Automaton)
    assert isinstance(compact, Automaton)
    for value in random.Random(seed).sample(UNIVERSE, 30):
        is_in = accepts(compact, written(value))
        layouts = {layout: laid_out(value, *layout) for layout in LAYOUTS["flexible"]}
        own = {layouts[layout] for layout in LAYOUTS[whitespace]}
        for text in layouts.values():
            assert accepts(automaton, text.encode()) == (is_in and text in own), text
    rng = random.Random(seed)
    validator, shortest = validator_of(schema), automaton.matcher().shortest()
    for spare in (0, 2, 9, 40):
        walked = walk(automaton, shortest + spare, rng)
        value = json.loads(walked, object_pairs_hook=without_doubles)
        assert b"\\n" in walked or is_valid(validator, value), f"{walked!r} is let through"
