from __future__ import annotations

import itertools
import json
import random
import re
import warnings
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latticework.lang.errors import ConstraintError, RegexError
from latticework.runtime.constrain import Automaton, Limits
from latticework.runtime.constrain.algebra import (
    ANYTHING,
    EMPTY,
    NEVER,
    Text,
    any_text,
    both,
    chars,
    either,
    from_format,
    from_pattern,
    from_python,
    has_word,
    is_never,
    is_subset,
    length,
    literal,
    lower_json,
    lower_plain,
    negate,
    repeat,
    seq,
    word_set,
    words,
)
from latticework.runtime.constrain.builder import Builder
from latticework.runtime.constrain.rules import Machine, Repeat, RuleGraph
from latticework.runtime.constrain.text_lengths import has_length, without_needless_counts
from tests.runtime.constrain.oracle import accepts, byte_vocabulary, walk

LONGEST = 5
STRINGS = ["".join(letters) for size in range(LONGEST + 1) for letters in itertools.product("ab", repeat=size)]
BYTES = byte_vocabulary()
Language = frozenset[str]  # of words with at most LONGEST letters


def _then(left: Language, right: Language) -> Language:
    return frozenset(a + b for a in left for b in right if len(a + b) <= LONGEST)


def _power(item: Language, low: int, high: int | None) -> Language:
    found: Language = frozenset()
    power: Language = frozenset([""])
    for count in range((2 * LONGEST + low if high is None else high) + 1):
        if count >= low:
            found |= power
        power = _then(power, item)
    return found


LEAVES = st.sampled_from(
    [
        (literal("a"), frozenset("a")),
        (literal("ab"), frozenset(["ab"])),
        (chars(((97, 98),)), frozenset("ab")),
        (EMPTY, frozenset([""])),
        (NEVER, frozenset()),
        (ANYTHING, frozenset(STRINGS)),
        (length(1, 3), frozenset(s for s in STRINGS if 1 <= len(s) <= 3)),
        (length(2), frozenset(s for s in STRINGS if len(s) >= 2)),
        (word_set(STRINGS[3:14]), frozenset(STRINGS[3:14])),
    ]
)
COUNTS = st.sampled_from([(0, None), (1, None), (0, 1), (2, 2), (1, 3), (2, None), (0, 2), (3, 4)])
Pair = tuple[Text, Language]


def _combined(inner: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    def repeated(pair: Pair, counts: tuple[int, int | None]) -> Pair:
        return repeat(pair[0], *counts), _power(pair[1], *counts)

    return st.one_of(
        st.tuples(inner, inner).map(lambda p: (seq(p[0][0], p[1][0]), _then(p[0][1], p[1][1]))),
        st.tuples(inner, inner).map(lambda p: (either(p[0][0], p[1][0]), p[0][1] | p[1][1])),
        st.tuples(inner, inner).map(lambda p: (both(p[0][0], p[1][0]), p[0][1] & p[1][1])),
        inner.map(lambda p: (negate(p[0]), frozenset(STRINGS) - p[1])),
        st.tuples(inner, COUNTS).map(lambda p: repeated(*p)),
    )


PAIRS = st.recursive(LEAVES, _combined, max_leaves=8)


def finished(lower: Callable[[Builder, Text], int], text: Text) -> RuleGraph | None:
    builder = Builder(Limits(), "text")
    return builder.finish(lower(builder, text))


@settings(max_examples=400, deadline=None)
@given(PAIRS)
def test_a_random_text_has_exactly_the_words_of_the_sets_it_stands_for(pair: Pair) -> None:
    text, language = pair
    for string in STRINGS:
        assert has_word(text, string) == (string in language), string
    assert text.nullable == ("" in language)
    if language:
        assert not is_never(text)
        assert text.shortest <= min(map(len, language))
        assert text.longest is None or text.longest >= max(map(len, language))
    found = words(both(text, repeat(chars(((97, 98),)), 0, LONGEST)), 100)
    assert found == sorted(language)


@settings(max_examples=120, deadline=None)
@given(PAIRS)
def test_a_lowered_text_is_the_same_language_in_bytes(pair: Pair) -> None:
    text, language = pair
    rules = finished(lower_plain, text)
    if rules is None:
        assert not language
        assert is_never(text)
        return
    automaton = Automaton(rules, BYTES)
    for string in STRINGS:
        assert accepts(automaton, string.encode()) == (string in language), string


@settings(max_examples=150, deadline=None)
@given(PAIRS, st.integers(0, LONGEST), st.integers(0, 3))
def test_whether_a_word_has_a_length_is_decided(pair: Pair, low: int, more: int) -> None:
    high = min(low + more, LONGEST)
    expected = any(low <= len(word) <= high for word in pair[1])
    assert is_never(both(pair[0], length(low, high), repeat(chars(((97, 98),))))) == (not expected)
    if pair[0].is_plain:
        told = has_length(pair[0], low, high)
        assert told is None or told == (not is_never(both(pair[0], length(low, high))))


def test_lengths_of_plain_texts_are_sums_of_those_of_their_parts() -> None:
    text = from_pattern("^(abc|defgh){2,4}x{7}$")
    assert [n for n in range(40) if has_length(text, n, n)] == sorted(
        {7 + 3 * i + 5 * j for i in range(5) for j in range(5) if 2 <= i + j <= 4}
    )
    assert has_length(from_pattern("^(ab)*$"), 99_999, 99_999) is not True
    assert has_length(from_pattern("^(abc?)*$"), 99_999, 99_999)
    assert is_never(both(from_pattern("^(ab)*$"), length(99_999, 99_999)))


@settings(max_examples=150, deadline=None)
@given(PAIRS, st.integers(0, LONGEST))
def test_counts_that_a_length_makes_needless_change_no_word_within_it(pair: Pair, high: int) -> None:
    loosened = without_needless_counts(pair[0], high)
    for string in STRINGS:
        assert len(string) > high or has_word(loosened, string) == (string in pair[1]), string


def test_a_length_frees_a_pattern_of_its_counts() -> None:
    pattern = r"^(?=.{1,255}$)((.{1,63}\.){1,127}(?![0-9]*$)[a-z0-9-]+\.?)$"
    rules = finished(lower_plain, from_pattern(pattern))
    assert rules is not None
    automaton = Automaton(rules, BYTES)
    label = "a" * 62
    for string in ("a.b", "a.b.", f"{label}a.{label}.c-1", ".".join(["ab"] * 80)):
        assert re.search(pattern, string)
        assert accepts(automaton, string.encode())
    for string in ("a", "a.1", f"{label}aa.b", ".".join(["ab"] * 90), "a.B"):
        assert not re.search(pattern, string)
        assert not accepts(automaton, string.encode())


def test_an_intersection_of_unions_is_taken_apart_where_it_is_too_large() -> None:
    groups = [["ab1", "b12", "bc1", "c12"], ["xy", "yz", "zx", "z9"], ["1.*2", "ac", "a2", "a1"], ["[pq]", "q7", "7p"]]
    unions = either(*(both(*map(from_pattern, group)) for group in groups))
    text = both(unions, negate(from_pattern("^[0-9]")), length(8, 40))
    assert not is_never(text)
    rules = finished(lower_plain, text)
    assert rules is not None
    automaton = Automaton(rules, BYTES)
    for string in ("q77ppppp", "xyzxz9ab", "ac1a2a12", "ab12bc12", "7q7ppppp", "xyzxz9"):
        assert accepts(automaton, string.encode()) == has_word(text, string), string


@settings(max_examples=60, deadline=None)
@given(PAIRS, PAIRS)
def test_inclusion_is_decided(left: Pair, right: Pair) -> None:
    if is_subset(left[0], right[0]):
        assert left[1] <= right[1]
    assert is_subset(both(left[0], right[0]), left[0])
    assert is_subset(left[0], either(left[0], right[0]))


def test_equal_expressions_are_one_object() -> None:
    assert either(literal("ab"), chars(((48, 57),))) is either(chars(((48, 57),)), literal("ab"))
    assert negate(negate(literal("a"))) is literal("a")
    assert both(length(2, 9), length(4)) is length(4, 9)
    assert both(repeat(chars(((97, 122),))), length(3, 9)) is repeat(chars(((97, 122),)), 3, 9)
    assert seq(any_text(), repeat(literal("x"), 0, 5), any_text()) is ANYTHING
    assert from_pattern("[a-z]{3,500}") is from_pattern("[a-z]{3}")


def test_words_are_told_when_they_are_few() -> None:
    assert words(from_pattern("^(b|a|[c-e]x?)$"), 10) == ["a", "b", "c", "cx", "d", "dx", "e", "ex"]
    assert words(from_pattern("^(b|a|[c-e]x?)$"), 7) is None
    assert words(from_pattern("^a*$"), 7) is None
    assert words(both(from_pattern("^a*$"), length(2, 4)), 7) == ["aa", "aaa", "aaaa"]
    assert words(both(word_set(map(str, range(10_000))), from_pattern("^12")), 200) == sorted(
        str(n) for n in range(10_000) if str(n).startswith("12")
    )
    assert words(NEVER, 5) == []


def test_counts_stay_counters_and_lengths_stay_bounds() -> None:
    rules = finished(lower_json, both(from_pattern("^[a-z]*$"), length(3, 100_000)))
    assert rules is not None
    assert any(isinstance(node, Repeat) and (node.low, node.high) == (3, 100_000) for node in rules.nodes)
    rules = finished(lower_json, both(from_pattern("^[a-z]([a-z-]*[a-z])?$"), length(0, 100_000)))
    assert rules is not None
    (machine,) = [node for node in rules.nodes if isinstance(node, Machine)]
    assert (machine.low, machine.high) == (0, 100_000)
    assert len(machine.states) <= 3


def test_a_length_that_parts_of_a_machine_cannot_have_leaves_no_dead_end() -> None:
    even = from_pattern("^(ab)*$")
    rules = finished(lower_plain, both(even, length(3, 5)))
    assert rules is not None
    automaton = Automaton(rules, BYTES)
    assert accepts(automaton, b"abab")
    assert not accepts(automaton, b"ab")
    assert walk(automaton, 6, random.Random(1)) == b"abab"
    assert finished(lower_plain, both(even, length(3, 3))) is None
    assert is_never(both(even, length(3, 3)))


TRICKY = ["", '"', "\\", "/", "\b\f\n\r\t", "\x00\x1f\x7f", "\u2028é中😀", "a\\u0041", "</"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=4), max_size=5))
def test_a_json_string_is_written_in_exactly_one_way(strings: list[str]) -> None:
    sample = [*TRICKY, *(s for s in strings if s.isprintable())]
    for text in (any_text(), length(0, 50), negate(literal("x")), from_pattern(r"^[^a]*$")):
        rules = finished(lower_json, text)
        assert rules is not None
        automaton = Automaton(rules, BYTES)
        for string in sample:
            written = json.dumps(string, ensure_ascii=False)
            assert accepts(automaton, written.encode()) == has_word(text, string)
            escaped = json.dumps(string)
            assert escaped == written or not accepts(automaton, escaped.encode())
        for other in (rb'"\u0041"', rb'"\/"', rb'"\u000A"', b'"\n"', b'"a', rb'"\ud800"', b'"\xed\xa0\x80"'):
            assert not accepts(automaton, other)


def test_walks_over_machines_never_end_in_a_dead_end() -> None:
    vocabulary = byte_vocabulary(b"foo", b"ab", b"abc", b"12", b'\\"', b"--", b"\xc3\xa9")
    for pattern in (r"(?!foo)(?=.*[0-9])[a-z0-9]{4,8}", r"(?:(?!ab).){3,20}", r"(?!.*--)[a-z-]{2,9}x"):
        rules = finished(lower_json, from_python(pattern))
        assert rules is not None
        automaton = Automaton(rules, vocabulary)
        for seed in range(20):
            text = json.loads(walk(automaton, 24, random.Random(seed)))
            assert re.fullmatch(pattern, text), text


def _atoms(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    item = st.tuples(inner, st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{1,2}", "{2,}", "*?"])).map("".join)
    body = st.lists(st.lists(item, max_size=3).map("".join), min_size=1, max_size=3).map("|".join)
    return st.tuples(st.sampled_from(["(", "(?:", "(?=", "(?!"]), body).map(lambda parts: f"{parts[0]}{parts[1]})")


LOOKING = st.recursive(
    st.sampled_from(["a", "b", ".", " ", "-", "[ab]", "[^a]", r"\w", r"\W", "^", "$", r"\b", r"\B", r"\Z", "ab"]),
    _atoms,
    max_leaves=8,
)
SHORT = ["".join(letters) for size in range(5) for letters in itertools.product("ab -\n", repeat=size)]


@settings(max_examples=250, deadline=None)
@given(st.lists(LOOKING, min_size=1, max_size=4).map("".join), st.integers(0, 1 << 30))
def test_assertions_mean_what_they_mean_to_re(pattern: str, seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = re.compile(pattern)
        except re.error:  # a repeated anchor
            return
    whole, anywhere = from_python(pattern), from_pattern(pattern, mode="python")
    for string in random.Random(seed).sample(SHORT, 80):
        assert has_word(whole, string) == bool(expected.fullmatch(string)), string
        assert has_word(anywhere, string) == bool(expected.search(string)), string


def test_a_counted_repeat_of_an_assertion_counts() -> None:
    text, expected = from_python("(?:a(?!b)|b){2,12}"), re.compile("(?:a(?!b)|b){2,12}")
    for string in (*STRINGS, "a" * 12, "a" * 13, "b" * 11 + "a", "b" * 12 + "a"):
        assert has_word(text, string) == bool(expected.fullmatch(string)), string


def test_what_takes_too_many_states_is_refused_by_name() -> None:
    builder = Builder(Limits(states=1000), "pattern")
    with pytest.raises(ConstraintError, match="more than 1000 states"):
        lower_json(builder, from_pattern("^" + "".join(f"(?=.*{c})" for c in "abcdefghijklmnopqrst") + ".*$"))
    slow, text = Builder(Limits(seconds=0), "pattern"), from_pattern("^(?=.*a.{12}b)(?!.*c.{11}d).*$")
    with pytest.raises(ConstraintError, match="seconds"):
        lower_json(slow, text)


def test_long_and_deep_texts_need_no_recursion() -> None:
    text = from_pattern("^" + "[ab]c?" * 5_000 + "$")
    assert text.shortest == 5_000
    assert has_word(from_pattern("^(?=" + "a?" * 300 + "b).*$"), "b")
    nested = "(^a|" * 190 + "b" + ")" * 190
    assert has_word(from_pattern(f"^{nested}$"), "b")
    del text
    with pytest.raises(RegexError, match="depth"):
        from_pattern("(" * 60_000 + "a" + ")" * 60_000)


def test_a_format_is_a_text_like_any_other() -> None:
    late = both(from_format("date") or NEVER, from_pattern("^2024-02-(29|30)$"))
    assert words(late, 5) == ["2024-02-29"]
