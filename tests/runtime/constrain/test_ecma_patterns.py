from __future__ import annotations

import unicodedata

import pytest

from latticework.lang.errors import RegexError
from latticework.runtime.constrain import Automaton, Limits
from latticework.runtime.constrain.algebra import from_pattern, has_word, is_never, lower_json
from latticework.runtime.constrain.builder import Builder
from latticework.runtime.constrain.properties import property_set
from latticework.runtime.constrain.rules import Machine
from tests.runtime.constrain.oracle import accepts, byte_vocabulary

# Judged by `new RegExp(pattern, "u").test(string)` in Node 20, or without the flag where that refuses the syntax.
CASES: list[tuple[str, list[str], list[str]]] = [
    ("a", ["a", "bab", "a\n"], ["", "b"]),
    ("^a", ["a", "ab"], ["ba", ""]),
    ("a$", ["a", "ba"], ["a\n", "ab"]),
    ("^a|b$", ["ax", "xb"], ["xa", "bx"]),
    ("^dev|alpha|stable$", ["dev1", "xalphax", "unstable"], ["xdev", "stable1"]),
    ("^$", [""], ["a", "\n"]),
    ("(^|,)a(,|$)", ["a", "b,a", "a,b"], ["ab", "ba"]),
    (r"^\d+$", ["09"], ["٣", "", "a"]),
    (r"^\w$", ["a", "_", "Z"], ["é", "-", "ſ"]),
    (r"^\W$", ["é", " "], ["a", "_"]),
    (r"^\s$", ["\u00a0", "\ufeff", "\v", "\u2028"], ["\u0085", "\x1c", "\u200b"]),
    (r"^\S$", ["\u0085", "a"], ["\u3000"]),
    ("^.$", ["a", "😀", "\x85"], ["\n", "\r", "\u2028", "ab"]),
    (r"^[^]$", ["a", "\n"], ["", "ab"]),
    (r"^\x41\u0042\u{43}\u{1F600}$", ["ABC😀"], ["ABC"]),
    (r"^\uD83D\uDE00$", ["😀"], ["x"]),
    (r"^\cA\t\0$", ["\x01\t\x00"], ["cAt0"]),
    (r"^[\b\-\]\\]$", ["\b", "-", "]", "\\"], ["b", "["]),
    (r"^[\w-.]+$", ["a-b.c"], ["a b", ""]),
    (r"^[a-]$", ["a", "-"], ["b"]),
    (r"^a{,$", ["a{,"], ["a", "a,"]),
    (r"^a{x}]}$", ["a{x}]}"], ["ax"]),
    (r"^a{2,3}?$", ["aa", "aaa"], ["a", "aaaa"]),
    (r"^\/\-\_\#$", ["/-_#"], ["/-_"]),
    (r"^(?<year>\d{4})-(?:x)$", ["2024-x"], ["2024-"]),
    (r"^\p{Lu}\p{L}+$", ["Éa", "ΑΒ"], ["éA", "A", "A1"]),
    (r"^[\p{Nd}_\P{L}]$", ["٣", "_", " "], ["a"]),
    (r"^\p{General_Category=Decimal_Number}\p{digit}\p{Letter}$", ["1٣é"], ["1a1"]),
    (r"\bfoo\b", ["foo", "a foo!", "é foo é"], ["food", "xfoo", "fo"]),
    (r"\Bo\B", ["foot", "fooa"], ["o", "fo o"]),
    (r"^(?!foo)(?=.*[0-9])[a-z0-9]{4,8}$", ["abc1", "fo01"], ["foo1", "abcd", "abcdefgh1"]),
    (r"^(?!(?:a|b)$).*$", ["", "ab", "c"], ["a", "b", "a\n"]),
    (r"^(?:(?!ab).)*$", ["", "ba", "acb"], ["ab", "xab"]),
    (r"^(\/?((\.{2})|([a-z0-9\-]*))($|\/))*$", ["", "a/b", "../a", "/a/", "/"], ["A", "a.b", "..."]),
    (r"^(?=[^=]+$)(?!\s+$)(.|\n)+$", ["a b", "\na"], ["", " \n", "a=b"]),
    (r"x(?=y)[a-z](?!q)", ["xyz", "xy"], ["xz", "xyq"]),
    (r"^(a$|b|^c)+$", ["a", "bba", "cb"], ["ab", "bc"]),
    (r"^(?=a{1,3}$)(?!aa$)a+$", ["a", "aaa"], ["aa", "aaaa"]),
    ("[a-z]{3,5}", ["abc", "xxabcdefghx"], ["ab1cd"]),
    ("(a|b)*", ["", "c"], []),
]

# What Node does not read so, but schemas mean.
LENIENT: list[tuple[str, list[str], list[str]]] = [
    (r"\Aab\Z", ["ab"], ["xab", "ab\n"]),
    (r"^(?P<name>a)$", ["a"], ["b"]),
    (r"(?i)^äb$", ["ÄB", "äb"], ["ab"]),
    (r"^(?i:a)b$", ["Ab"], ["AB"]),
]


@pytest.mark.parametrize(("pattern", "yes", "no"), CASES + LENIENT)
def test_patterns_and_the_strings_they_find_a_match_in(pattern: str, yes: list[str], no: list[str]) -> None:
    text = from_pattern(pattern)
    for string in yes:
        assert has_word(text, string), string
    for string in no:
        assert not has_word(text, string), string


@pytest.mark.parametrize(("pattern", "yes", "no"), CASES)
def test_their_json_strings_are_accepted_byte_by_byte(pattern: str, yes: list[str], no: list[str]) -> None:
    builder = Builder(Limits(), "pattern")
    rules = builder.finish(lower_json(builder, from_pattern(pattern)))
    assert rules is not None
    automaton = Automaton(rules, byte_vocabulary())
    escapes = {"\b": "\\b", "\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}
    for string in (*yes, *no):
        written = "".join(escapes.get(c) or (f"\\u{ord(c):04x}" if c < " " else c) for c in string)
        assert accepts(automaton, f'"{written}"'.encode()) == (string in yes), string


@pytest.mark.parametrize(
    ("pattern", "position", "message"),
    [
        (r"a(?<=b)", 1, "lookbehind"),
        (r"(?<!b)a", 0, "lookbehind"),
        (r"(a)\1", 3, "backreferences"),
        (r"(?<n>a)\k<n>", 7, "backreferences"),
        (r"a++", 1, "possessive"),
        (r"(?>a)", 0, "atomic"),
        (r"^\p{Script=Greek}$", 1, "the property 'Script=Greek'"),
        (r"^\pL", 1, r"written \\p{…}"),
        (r"\a", 0, "unknown escape"),
        (r"\u12", 0, "expected 4"),
        (r"\u{110000}", 0, "10FFFF"),
        (r"[\1]", 1, "octal"),
        (r"\01", 0, "octal"),
        ("a{,3}", 1, "least number"),
        ("a{3,2}", 1, "min repeat greater"),
        ("[z-a]", 1, "bad character range"),
        ("[a", 0, "unterminated character set"),
        ("a)", 1, "unbalanced"),
        ("(a", 0, "unterminated group"),
        ("*a", 0, "nothing to repeat"),
        ("^*", 1, "repeated anchor"),
        ("(?m)a", 0, "group extension"),
        ("a\\", 1, "end of the pattern"),
    ],
)
def test_what_is_no_pattern_is_pointed_at(pattern: str, position: int, message: str) -> None:
    with pytest.raises(RegexError, match=message) as caught:
        from_pattern(pattern)
    assert caught.value.position == position
    assert caught.value.message.endswith("^")


def test_patterns_that_nothing_matches_are_never() -> None:
    for pattern in ("[]", "a^b", r"^(?=a)b", r"(?!)", r"\ud800", r"^(?=.{3}$)..$"):
        assert is_never(from_pattern(pattern)), pattern
    assert not is_never(from_pattern("[^a]"))


def test_a_search_is_a_small_machine() -> None:
    builder = Builder(Limits(), "pattern")
    rules = builder.finish(lower_json(builder, from_pattern("foo|[0-9]{2}")))
    assert rules is not None
    (machine,) = [node for node in rules.nodes if isinstance(node, Machine)]
    assert len(machine.states) == 5


@pytest.mark.parametrize("name", ["L", "Lu", "Nd", "P", "S", "Zs", "Cc", "Cn", "Mn"])
def test_general_categories_are_those_of_the_unicode_database(name: str) -> None:
    ranges = property_set(name)
    assert ranges is not None
    inside = {point for low, high in ranges for point in range(low, high + 1)}
    for point in [*range(0x3000), *range(0xD7F0, 0xE010), *range(0x1F000, 0x1F100), 0x10FFFF]:
        assert (point in inside) == unicodedata.category(chr(point)).startswith(name)
