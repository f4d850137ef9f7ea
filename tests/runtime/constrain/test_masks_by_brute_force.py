"""Soundness: every mask is compared with enumeration over a small alphabet and a random vocabulary."""

from __future__ import annotations

import itertools
import json
import random
import re
import time

import jsonschema
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from latticework.lang.ir import Choices, Constraint, JsonSchema, Regex
from latticework.runtime.constrain import Automaton, Vocabulary, compile_constraint, to_rules
from latticework.runtime.constrain.automaton import ConstraintMatcher
from tests.runtime.constrain.oracle import allowed, byte_vocabulary, walk

E_ACUTE = "é".encode()
END, SPECIAL = 0, 1


def vocabulary_of(alphabet: bytes, longer: list[bytes]) -> Vocabulary:
    return Vocabulary([b"</s>", b"", *(bytes([byte]) for byte in alphabet), *longer], end_ids=(END,))


def check_against(
    language: set[bytes], automaton: Automaton, steps: int, rng: random.Random, pattern: re.Pattern[str] | None = None
) -> None:
    """Every mask on the way to every text that `steps` random tokens reach, with and without budgets. pattern: what
    the language is of; it may have longer texts than `language`."""
    vocabulary = automaton.vocabulary
    is_whole = pattern is None or all(len(text.decode()) < LONGEST for text in language)
    prefixes = {text[:length] for text in language for length in range(len(text) + 1)}
    for _ in range(12):
        matcher, text = automaton.matcher(), b""
        for _ in range(steps):
            expected = {i for i, token in enumerate(vocabulary.tokens) if token and text + token in prefixes}
            expected |= {END} if text in language else set()
            if pattern is not None:
                for token in allowed(matcher, vocabulary) - expected:
                    completed = complete(matcher, token)
                    assert pattern.fullmatch((text + completed).decode()), (text, token)
                    expected.add(token)
            assert allowed(matcher, vocabulary) == expected, text
            assert matcher.is_complete() == (text in language)
            assert matcher.is_finished() == (text in language and expected == {END})
            check_budgets(matcher.shortest(), expected, automaton, matcher.copy())
            check_forced(matcher.forced(), text, language, is_whole)
            going_on = sorted(token for token in expected - {END} if text + vocabulary.tokens[token] in prefixes)
            if not going_on:
                break
            token = rng.choice(going_on)
            for other in set(range(vocabulary.size)) - expected:
                assert not matcher.accept(other)
            assert matcher.accept(token)
            text += vocabulary.tokens[token]


def complete(matcher: ConstraintMatcher, token: int) -> bytes:
    """`token` and the cheapest tokens after it that end the text."""
    vocabulary = matcher._automaton.vocabulary
    text = b""
    matcher = matcher.copy()
    while True:
        assert matcher.accept(token)
        text += vocabulary.tokens[token]
        if matcher.is_complete():
            return text
        token = min(allowed(matcher, vocabulary, matcher.shortest()))


def check_budgets(shortest: int, expected: set[int], automaton: Automaton, matcher) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    for remaining in {0, 1, shortest - 1, shortest, shortest + 1, shortest + 2, 50} - {-1}:
        got = allowed(matcher, automaton.vocabulary, remaining)
        assert got <= expected
        assert got or remaining < shortest
        for token in got - {END}:
            assert matcher.accept(token)
            assert matcher.shortest() <= remaining - 1
            matcher.rollback(1)
        for token in expected - got - {END}:
            assert matcher.accept(token)
            assert matcher.shortest() > remaining - 1
            matcher.rollback(1)


def check_forced(forced: bytes, text: bytes, language: set[bytes], is_whole: bool = True) -> None:
    endings = [whole[len(text) :] for whole in language if whole.startswith(text)]
    common = endings[0]
    for ending in endings:
        length = next((i for i, (a, b) in enumerate(zip(common, ending, strict=False)) if a != b), None)
        common = common[: min(len(common), len(ending)) if length is None else length]
    assert common == forced if is_whole else common.startswith(forced)


PIECES = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "é", ".", "[ab]", "[^a]", "(a|bb)", "(ab|é)", "(a?b?)", "(aa|ab|b)"]),
        st.sampled_from(["", "", "?", "*", "+", "{2}", "{0,2}", "{1,3}"]),
    ).map("".join),
    min_size=1,
    max_size=3,
)
PATTERNS = st.lists(PIECES.map("".join), min_size=1, max_size=2).map("|".join)
LONGER = st.lists(
    st.one_of(
        st.sampled_from([b"ab", b"aa", b"a\xc3", b"\xa9b", b"\xc3\xa9", b"\xff", b"aab", b"b\xc3\xa9a"]),
        st.binary(min_size=2, max_size=3),
    ),
    max_size=8,
)
LONGEST = 8
TEXTS = ["".join(letters) for length in range(LONGEST + 1) for letters in itertools.product("abé", repeat=length)]


@settings(max_examples=60, deadline=None)
@example(".*aa{2}", [b"aab"], 0)  # aab, aab needs more than the longest of TEXTS
@given(PATTERNS, LONGER, st.integers(0, 9))
def test_masks_of_random_patterns_are_exactly_the_tokens_that_can_be_completed(
    pattern: str, longer: list[bytes], seed: int
) -> None:
    vocabulary = vocabulary_of(b"ab" + E_ACUTE, longer)
    expected = re.compile(pattern)
    language = {text.encode() for text in TEXTS if expected.fullmatch(text)}
    check_against(language, compile_constraint(Regex(pattern), vocabulary), 2, random.Random(seed), expected)


COUNTS = st.sampled_from(["{1,2}", "{0,3}", "{2}", "{1,4}", "{2,3}", "+"])
COUNTED = st.recursive(
    st.sampled_from(["a", "b", "é", "[ab]", "[^a]", "(ab|é)", "(aa|ab|b)", "a?b"]),
    lambda inner: st.lists(st.builds("({}){}".format, inner, COUNTS), min_size=1, max_size=2).map("".join),
    max_leaves=3,
)


@settings(max_examples=60, deadline=None)
@given(COUNTED, LONGER, st.integers(0, 9))
def test_masks_of_random_nested_counts_are_exactly_the_tokens_that_can_be_completed(
    pattern: str, longer: list[bytes], seed: int
) -> None:
    vocabulary = vocabulary_of(b"ab" + E_ACUTE, longer)
    expected = re.compile(pattern)
    language = {text.encode() for text in TEXTS if expected.fullmatch(text)}
    if language:
        automaton = compile_constraint(Regex(pattern), vocabulary)
        check_against(language, automaton, 2, random.Random(seed), expected)


OPTIONS = st.lists(st.text("abé", max_size=4), min_size=1, max_size=40)


@settings(max_examples=80, deadline=None)
@given(OPTIONS, LONGER, st.integers(0, 9))
def test_masks_of_random_choices_are_exactly_the_tokens_that_can_be_completed(
    options: list[str], longer: list[bytes], seed: int
) -> None:
    vocabulary = vocabulary_of(b"ab" + E_ACUTE, longer)
    language = {option.encode() for option in options}
    automaton = compile_constraint(Choices(tuple(options)), vocabulary)
    check_against(language, automaton, 4, random.Random(seed))


@settings(max_examples=80, deadline=None)
@given(OPTIONS, LONGER)
def test_the_shortest_completion_of_choices_is_exact(options: list[str], longer: list[bytes]) -> None:
    vocabulary = vocabulary_of(b"ab" + E_ACUTE, longer)
    automaton = compile_constraint(Choices(tuple(options)), vocabulary)
    best = min(vocabulary.fewest_tokens(option.encode())[0] for option in options)
    assert automaton.matcher().shortest() == best


JSON_LETTERS = b'{}[]",:01-.aeflnrstu'
CLOSED = {"type": "object", "additionalProperties": False}
FINITE_SCHEMAS: list[dict[str, object]] = [
    {"enum": ["a", 1, None, True, [1, "a"], {"a": 0}, 1.1]},
    {"type": "boolean"},
    {"type": ["null", "boolean"]},
    {"type": "integer", "minimum": -11, "maximum": 11},
    {"type": "array", "items": {"enum": [0, 1]}, "maxItems": 3},
    {"type": "array", "items": {"type": "null"}, "minItems": 1, "maxItems": 2},
    {"type": "array", "prefixItems": [{"enum": [0, 1]}, {"type": "null"}], "items": {"const": 1}, "maxItems": 3},
    {"type": "array", "prefixItems": [{"enum": [0, 1]}, {"type": "null"}], "items": False, "minItems": 1},
    {**CLOSED, "properties": {"a": {"type": "null"}, "e": {"enum": [0, "r"]}, "l": {"const": True}}},
    {**CLOSED, "properties": {"a": {"type": "null"}, "e": {"enum": [0, "r"]}}, "required": ["e"]},
    {**CLOSED, "properties": {"a": {**CLOSED, "properties": {"n": {"const": "a"}}}}, "required": ["a"]},
    {"anyOf": [{"type": "null"}, {"type": "array", "items": {"const": 1}, "maxItems": 2}]},
]


def json_values(schema: dict[str, object]) -> list[object]:
    """Every value over a small universe that the validator accepts."""
    scalars: list[object] = [None, True, False, "a", "r", 1.1, *range(-20, 21)]
    lists = [list(items) for length in range(4) for items in itertools.product([None, 0, 1], repeat=length)]
    inner: list[object] = [None, True, 0, "r", "a", {}, {"n": "a"}]
    objects = [
        dict(zip(keys, values, strict=True))
        for count in range(4)
        for keys in itertools.combinations(["a", "e", "l"], count)
        for values in itertools.product(inner, repeat=count)
    ]
    validator = jsonschema.Draft202012Validator(schema)
    universe = [*scalars, *lists, [1, "a"], {"a": 0}, *objects]
    return [value for value in universe if validator.is_valid(value)]


@pytest.mark.parametrize("schema", FINITE_SCHEMAS, ids=json.dumps)
@pytest.mark.parametrize("whitespace", ["compact", "spaced"])
def test_masks_of_finite_schemas_are_exactly_the_tokens_that_can_be_completed(
    schema: dict[str, object], whitespace: str
) -> None:
    separators = (",", ":") if whitespace == "compact" else (", ", ": ")
    longer = [b'{"', b'":', b"null", b'"a"', b"},", b", ", b"1,", b"tru", b'e"', b"-1", b'": ', b'": n']
    vocabulary = vocabulary_of(JSON_LETTERS + b" 23456789", longer)
    language = {json.dumps(value, separators=separators).encode() for value in json_values(schema)}
    automaton = compile_constraint(JsonSchema(schema, whitespace), vocabulary)  # type: ignore[arg-type]
    check_against(language, automaton, 12, random.Random(3))


WALKED: list[Constraint] = [
    Regex(r"[a-z]{3,12}@(x|yy)\.(com|org)"),
    Regex(r".{0,40}END"),
    Regex(r"(\w{1,5}\s){2,4}é{3}"),
    Regex(r"(a|b)*a(a|b){12}"),
    Choices(("yes", "no", "maybe", "yesterday", "")),
    JsonSchema(
        {"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "number"}}, "required": ["name"]}
    ),
    JsonSchema({"type": "array", "items": {"type": "string", "minLength": 2, "maxLength": 4}, "minItems": 2}),
    JsonSchema({"type": "object"}),
    JsonSchema(True, "spaced"),
]


@pytest.mark.parametrize("constraint", WALKED, ids=str)
def test_a_random_walk_under_any_sufficient_budget_ends_complete(constraint: Constraint) -> None:
    vocabulary = byte_vocabulary(
        b'":"', b'",', b"END", b'{"name":"', b"com", b"\xc3\xa9\xc3", b"ab", b"aaaa", b"\\u00", b"12.5"
    )
    automaton = compile_constraint(constraint, vocabulary)
    rng = random.Random(7)
    for spare in [0, 0, 1, 2, 3, 5, 8, 20, 60]:
        walk(automaton, automaton.matcher().shortest() + spare, rng)


def test_special_tokens_are_never_allowed_and_end_tokens_only_when_complete() -> None:
    vocabulary = Vocabulary([b"a", b"<|x|>", b"", b"<|x|>"], end_ids=(1, 3))
    automaton = compile_constraint(Regex(".{1,9}"), Vocabulary([b"a", b"x"], ()))
    assert allowed(automaton.matcher(), automaton.vocabulary) == {0, 1}
    automaton = compile_constraint(Regex("a+"), vocabulary)
    matcher = automaton.matcher()
    assert allowed(matcher, vocabulary) == {0}
    assert not matcher.accept(1)
    assert matcher.accept(0)
    assert allowed(matcher, vocabulary) == {0, 1, 3}
    assert matcher.accept(3)
    assert matcher.is_finished()
    assert matcher.shortest() == 0
    assert allowed(matcher, vocabulary) == set()
    assert not matcher.accept(0)
    assert not matcher.accept(-1)
    assert not matcher.accept(99)


def test_rollback_and_copy_lead_back_and_apart() -> None:
    vocabulary = byte_vocabulary(b"ab")
    matcher = compile_constraint(Regex("(ab|cd)*e"), vocabulary).matcher()
    masks = [allowed(matcher, vocabulary)]
    for token in [256, ord("c"), ord("d"), ord("a"), ord("b"), ord("e"), 258]:
        assert matcher.accept(token)
        masks.append(allowed(matcher, vocabulary))
    twin = matcher.copy()
    matcher.rollback(0)
    for back in range(6, 3, -1):
        matcher.rollback(1)
        assert allowed(matcher, vocabulary) == masks[back]
    matcher.rollback(4)
    assert allowed(matcher, vocabulary) == masks[0]
    assert matcher.accept(ord("e"))
    assert allowed(twin, vocabulary) == masks[7] == set()
    twin.rollback(6)
    assert allowed(twin, vocabulary) == masks[1]


def test_forced_text_stops_where_texts_part_or_may_end() -> None:
    vocabulary = byte_vocabulary()
    matcher = compile_constraint(Regex("(abcd|abce)f?"), vocabulary).matcher()
    assert matcher.forced() == b"abc"
    for byte in b"abcd":
        assert matcher.accept(byte)
    assert matcher.forced() == b""
    assert compile_constraint(Regex("é{2}"), vocabulary).matcher().forced() == "éé".encode()


def test_prepare_starts_nothing_after_its_deadline() -> None:
    vocabulary = byte_vocabulary()
    matcher = compile_constraint(Regex("[a-z]+"), vocabulary).matcher()
    assert not matcher.prepare(time.monotonic() - 1)
    assert matcher.prepare(time.monotonic() + 60)
    assert matcher.prepare(time.monotonic() - 1)


def test_states_that_differ_only_in_far_counts_share_a_row() -> None:
    vocabulary = byte_vocabulary(b"abc")
    automaton = compile_constraint(JsonSchema({"type": "string", "maxLength": 100_000}), vocabulary)
    matcher = automaton.matcher()
    assert matcher.accept(ord('"'))
    allowed(matcher, vocabulary)
    for _ in range(20):
        assert matcher.accept(256)
        assert matcher.prepare(time.monotonic() - 1) or allowed(matcher, vocabulary)
    rows = automaton.cached_bytes
    assert len(automaton.rows._words) == 1
    assert rows == automaton.cached_bytes


def test_the_row_cache_keeps_its_bound_and_masks_stay_right() -> None:
    vocabulary = byte_vocabulary()
    pattern = "(ab|ba|cd){3}[x-z]{0,2}"
    rules = to_rules(Regex(pattern))
    small, large = Automaton(rules, vocabulary, row_cache_bytes=900), Automaton(rules, vocabulary)
    rng = random.Random(1)
    for _ in range(20):
        left, right = small.matcher(), large.matcher()
        while True:
            mask = allowed(left, vocabulary)
            assert mask == allowed(right, vocabulary)
            assert small.rows._bytes <= 900
            going_on = sorted(mask - set(vocabulary.end_ids))
            if not going_on:
                break
            token = rng.choice(going_on)
            assert left.accept(token)
            assert right.accept(token)


def test_matchers_survive_the_states_being_forgotten() -> None:
    vocabulary = byte_vocabulary(b"ab")
    automaton = compile_constraint(Regex("(a|b)*a(a|b){6}"), vocabulary)
    matcher, other = automaton.matcher(), automaton.matcher()
    rng = random.Random(5)
    for step in range(30):
        token = rng.choice([ord("a"), ord("b"), 256])
        assert matcher.accept(token)
        if step % 7 == 3:
            automaton.forget()
        assert allowed(matcher, vocabulary) - set(vocabulary.end_ids) == {ord("a"), ord("b"), 256}
    matcher.rollback(30)
    assert allowed(matcher, vocabulary) == allowed(other, vocabulary)
    assert not matcher.is_complete()


def test_a_mask_overwrites_whatever_the_row_held() -> None:
    vocabulary = byte_vocabulary()
    row = np.full(vocabulary.words, -1, np.int32)
    matcher = compile_constraint(Regex("a"), vocabulary).matcher()
    matcher.fill_mask(row)
    assert row[ord("a") // 32] == 1 << (ord("a") % 32)
    assert np.count_nonzero(row) == 1
