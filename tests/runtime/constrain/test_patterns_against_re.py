from __future__ import annotations

import re
import warnings

import interegular
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from latticework.lang.errors import ConstraintError, RegexError
from latticework.lang.ir import Regex
from latticework.runtime.constrain import Automaton, Limits, Vocabulary, compile_constraint, to_rules
from latticework.runtime.constrain.ranges import ANY, character_class, complement, fold_case, intersect, subtract, union
from tests.runtime.constrain.oracle import accepts, byte_vocabulary

BYTES = byte_vocabulary()
ALPHABET = "ab0 é\n中😀-]^Kſ"

ATOMS = st.sampled_from(
    [
        *("a", "b", "0", " ", "é", "中", "😀", "-", "]", "}", r"\n", r"\x61", r"\u00e9", r"\U0001F600", r"\.", "."),
        *(r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", "[ab]", "[^a]", "[a-é]", r"[^\w]", "[]a]", "[^]a]", "[a-]"),
        *(r"[\d\-]", r"[\s^]", "[中-😀]"),
    ]
)
GREEDY = st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,}", "{0,2}", "{1,3}"])
REPEATS = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{1,}", "{,2}", "{1,3}", "*?", "+?", "??", "{1,2}?"])


def _groups(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    item = st.tuples(inner | ATOMS, REPEATS).map("".join)
    branch = st.lists(item, max_size=3).map("".join)
    body = st.lists(branch, min_size=1, max_size=3).map("|".join)
    opening = st.sampled_from(["(", "(?:", "(?i:", "(?s:"])
    return st.tuples(opening, body).map(lambda parts: f"{parts[0]}{parts[1]})")


PATTERNS = st.tuples(
    st.sampled_from(["", "", "(?i)", "(?s)", "^"]),
    st.lists(st.tuples(ATOMS | st.recursive(_groups(ATOMS), _groups, max_leaves=3), REPEATS).map("".join), max_size=4),
    st.sampled_from(["", "", "$", r"\Z"]),
).map(lambda parts: parts[0] + "".join(parts[1]) + parts[2])


def automaton(pattern: str, vocabulary: Vocabulary = BYTES) -> Automaton:
    return compile_constraint(Regex(pattern), vocabulary)


@settings(max_examples=100, deadline=None)
@given(PATTERNS, st.lists(st.text(ALPHABET, max_size=6), min_size=5, max_size=30))
@example("(?i)k", ["K", "k", "K", "ſ"])
@example("(?i)[^s]", ["ſ", "S", "s", "t"])
def test_a_random_pattern_accepts_exactly_what_fullmatch_does(pattern: str, texts: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = re.compile(pattern)
    try:
        compiled = automaton(pattern)
    except RegexError as error:
        if "no text matches" not in str(error):
            raise
        assert not any(expected.fullmatch(text) for text in texts)
        return
    for text in texts:
        assert accepts(compiled, text.encode()) == bool(expected.fullmatch(text)), text


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "[ab]", "(a|bb)", "((ab|a)*)", "."]), GREEDY).map("".join),
        min_size=1,
        max_size=4,
    ).map("".join)
)
def test_a_random_pattern_agrees_with_interegular_on_every_short_text(pattern: str) -> None:
    oracle = interegular.parse_pattern(pattern).to_fsm()
    compiled = automaton(pattern)
    texts = [""]
    for _ in range(5):
        texts = [text + letter for text in texts for letter in "ab"] + [""]
        for text in texts:
            assert accepts(compiled, text.encode()) == oracle.accepts(text), text


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (r"[0-9]{4}-[0-9]{2}", ["2024-01"], ["2024-1", "２０２４-01"]),
        (r"\d+", ["12", "١٢"], ["", "x"]),
        (r"(yes|no|maybe)", ["yes", "maybe"], ["y", "yesno"]),
        (r'"[^"\\]*(\\.[^"\\]*)*"', ['""', '"a\\"b"'], ['"', '"a"b"']),
        (r"^a$|^b$", ["a", "b"], ["a\n", "ab"]),
        (r"\Aa\Z", ["a"], ["a\n"]),
        (r"a{,2}", ["", "aa"], ["aaa", "a{,2}"]),
        (r"a{x}", ["a{x}"], ["a"]),
        (r"a{,}", ["", "aaaaa"], ["a{,}"]),
        (r"x{}", ["x{}"], ["x"]),
        (r"\101[\60-\62]", ["A0", "A2"], ["A3"]),
        (r"(?P<year>\d\d)(?:x)", ["12x"], ["12"]),
        (r"(?is)A.", ["a\n", "Ab"], ["b\n"]),
        (r"(?i:a)b", ["Ab", "ab"], ["aB"]),
        (r"(?s:.)(?-s:.)", ["\na"], ["a\n"]),
        (r"(a?){3}b", ["b", "aab", "aaab"], ["aaaab"]),
        (r"(x{2,3})*", ["", "xx", "xxxx", "xxxxx"], ["x"]),
        (r"(?=.*[0-9])[a-z0-9]{4,8}", ["abc1", "1bcdefgh"], ["abcd", "abc1efghi", "a1"]),
        (r"(?!foo|bar$).*", ["fo", "bark"], ["foot", "bar"]),
        (r"(?:(?!end).)*end", ["end", "an end"], ["endend", "en"]),
        (r"\bé\w*\b.*", ["é", "éa b"], ["aé", " é"]),
        (r"(^a|b)+$\n?", ["ab", "b\n", "bb\n"], ["ba", "a\n\n"]),
        (r"((a|b){0,3}c?){0,2}d", ["d", "abcabd", "abaabd"], ["abaabaa", "abababad"]),
        (r"(a{2,50}){0,3}", ["aa", "a" * 4, "a" * 150], ["a", "a" * 151]),
    ],
)
def test_patterns_and_their_texts(pattern: str, yes: list[str], no: list[str]) -> None:
    compiled = automaton(pattern)
    for text in yes:
        assert re.fullmatch(pattern, text)
        assert accepts(compiled, text.encode()), text
    for text in no:
        assert not re.fullmatch(pattern, text)
        assert not accepts(compiled, text.encode()), text


def test_a_repeat_that_goes_on_keeps_the_choice_of_starting_afresh() -> None:
    compiled = automaton("((ab){2,5}){0,}")
    for count in range(12):
        assert accepts(compiled, b"ab" * count) == (count != 1)


@pytest.mark.parametrize("letter", list("dwsDWS"))
def test_character_classes_are_those_of_re_over_all_of_unicode(letter: str) -> None:
    inside = {point for low, high in character_class(letter) for point in range(low, high + 1)}
    expected = re.compile(f"\\{letter}")
    sample = [*range(0x3000), *range(0xD7F0, 0xE010), *range(0xFF00, 0x10A00), *range(0x1D7C0, 0x1D810), 0x10FFFF]
    assert all((point in inside) == bool(expected.match(chr(point))) for point in sample)


def test_ignoring_case_is_what_re_does_for_every_cased_character() -> None:
    cased = [point for point in range(0x1F000) if chr(point).lower() != chr(point).upper()]
    text = "".join(map(chr, cased))
    for point in cased[:: max(1, len(cased) // 400)] + [ord(c) for c in "ikſKİıßẞςΐµÅ"]:
        expected = {ord(found) for found in re.findall(re.escape(chr(point)), text, re.IGNORECASE)} | {point}
        ranges = fold_case(((point, point),))
        assert {p for low, high in ranges for p in range(low, high + 1)} == expected, chr(point)


def test_bytes_that_are_no_utf8_are_never_accepted() -> None:
    anything = automaton("(?s).*")
    for broken in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe9", b"\x80"):
        assert not accepts(anything, broken)
    for text in ("\x00\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff", ""):
        assert accepts(anything, text.encode())


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=6),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=6),
)
def test_range_algebra_is_set_algebra(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> None:
    def points(ranges: tuple[tuple[int, int], ...]) -> set[int]:
        return {point for low, high in ranges for point in range(low, min(high, 99) + 1)}

    a, b = (union((low, low + size) for low, size in side) for side in (left, right))
    assert points(intersect(a, b)) == points(a) & points(b)
    assert points(subtract(a, b)) == points(a) - points(b)
    assert points(complement(a)) == set(range(100)) - points(a)
    assert complement(ANY) == ((0xD800, 0xDFFF),)


@pytest.mark.parametrize(
    ("pattern", "position", "message"),
    [
        ("a(b", 1, "unterminated group"),
        ("ab)", 2, "unbalanced"),
        ("[a", 0, "unterminated character set"),
        ("[z-a]", 1, "bad character range"),
        (r"[a-\d]", 1, "bad character range"),
        ("*a", 0, "nothing to repeat"),
        ("a**", 2, "multiple repeat"),
        (r"a\b+", 3, "multiple repeat"),
        ("a^b", 0, "no text matches"),
        ("a(?=b)", 0, "no text matches"),
        ("a{3,2}", 1, "min repeat greater"),
        ("a{99999999999}", 1, "too large"),
        ("a\\", 1, "end of pattern"),
        (r"\q", 0, "bad escape"),
        (r"\x1", 0, "incomplete escape"),
        (r"\U00110000", 0, "at most U\\+10FFFF"),
        (r"(a)\1", 3, "backreferences"),
        (r"(?P<n>a)(?P=n)", 8, "backreferences"),
        (r"(?<=b)a", 0, "lookbehind"),
        (r"a*+", 1, "possessive"),
        (r"(?>a)", 0, "atomic"),
        (r"(?x)a", 2, "flag x"),
        (r"a(?i)b", 1, "at its start"),
        (r"(?P<1>a)", 0, "bad group name"),
        ("[^\\s\\S]", 0, "no text matches"),
    ],
)
def test_a_bad_pattern_is_pointed_at(pattern: str, position: int, message: str) -> None:
    with pytest.raises(RegexError, match=message) as caught:
        to_rules(Regex(pattern))
    assert caught.value.position == position
    assert caught.value.field == "regex"
    if "no text matches" not in message:
        assert caught.value.message.endswith(" " * position + "^")


def test_limits_are_named() -> None:
    with pytest.raises(ConstraintError, match="pattern_bytes"):
        to_rules(Regex("a" * 100), Limits(pattern_bytes=50))
    with pytest.raises(ConstraintError, match="depth"):
        to_rules(Regex("(" * 300 + ")" * 300))
    with pytest.raises(ConstraintError, match="states"):
        to_rules(Regex("[ab][cd]" * 300), Limits(states=100))
    with pytest.raises(ConstraintError, match="alternatives"):
        to_rules(Regex("|".join(f"{i}x" for i in range(50))), Limits(alternatives=20))
    with pytest.raises(ConstraintError, match="seconds"):
        to_rules(Regex("[ab][cd]?" * 500), Limits(seconds=0))
    with pytest.raises(ConstraintError, match="shortest text"):
        to_rules(Regex("(a{1000}){100000}"))


def test_a_needed_byte_that_no_token_writes_is_refused_and_others_are_left_out() -> None:
    vocabulary = byte_vocabulary(without=b"\xc3x")
    with pytest.raises(ConstraintError, match="0xc3"):
        automaton("caf(é|è)", vocabulary)
    kept = automaton("a(x|y|é)*", vocabulary)
    assert accepts(kept, b"ayy")
    assert kept.matcher().accept(ord("a"))
    assert automaton("(x|yy){2}", vocabulary).matcher().forced() == b"yyyy"
