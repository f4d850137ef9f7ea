"""Languages of strings against the finite automata of interegular: what two patterns share, and what neither has."""

from __future__ import annotations

from itertools import combinations, product

import interegular
from hypothesis import given, settings
from hypothesis import strategies as st
from interegular.fsm import Alphabet
from interegular.patterns import REFlags

from latticework.runtime.constrain import Limits
from latticework.runtime.constrain.algebra import Text, both, either, from_python, has_word, is_never, is_subset, negate

ATOMS = st.sampled_from(["a", "b", "[ab]", "[^a]", ".", "(a|bb)", "((ab|a)*)", "(?:b|)", r"\d"])
REPEATS = st.sampled_from(["", "", "*", "+", "?", "{2}", "{0,2}"])
BRANCHES = st.lists(st.tuples(ATOMS, REPEATS).map("".join), min_size=1, max_size=3).map("".join)
PATTERNS = st.lists(BRANCHES, min_size=1, max_size=2).map("|".join)
TEXTS = ["".join(letters) for length in range(5) for letters in product("ab7", repeat=length)]
LIMITS = Limits()
QUIET = settings(max_examples=40, deadline=None)


def text_of(pattern: str) -> Text:
    return from_python(pattern)


def fsms_of(*patterns: str) -> list[interegular.FSM]:
    """Over one alphabet: automata of different ones do not compare."""
    parsed = [interegular.parse_pattern(pattern) for pattern in patterns]
    alphabet = Alphabet.union(*(pattern.get_alphabet(REFlags(0)) for pattern in parsed))[0]
    return [pattern.to_fsm(alphabet) for pattern in parsed]


@QUIET
@given(PATTERNS, PATTERNS)
def test_what_two_patterns_share_is_what_interegular_finds(one: str, other: str) -> None:
    left, right = text_of(one), text_of(other)
    left_fsm, right_fsm = fsms_of(one, other)
    assert is_never(both(left, right), LIMITS) == left_fsm.isdisjoint(right_fsm)
    assert is_subset(left, right, LIMITS) == left_fsm.issubset(right_fsm)
    assert is_subset(left, right, LIMITS) == (left_fsm - right_fsm).empty()
    common, union, rest = both(left, right), either(left, right), both(left, negate(right))
    common_fsm, union_fsm, rest_fsm = left_fsm & right_fsm, left_fsm | right_fsm, left_fsm - right_fsm
    for text in TEXTS:
        assert has_word(common, text) == common_fsm.accepts(text), text
        assert has_word(union, text) == union_fsm.accepts(text), text
        assert has_word(rest, text) == rest_fsm.accepts(text), text


@QUIET
@given(PATTERNS)
def test_a_pattern_and_its_opposite_share_nothing_and_leave_nothing_out(pattern: str) -> None:
    text, opposite = text_of(pattern), fsms_of(pattern)[0].everythingbut()
    assert is_never(both(text, negate(text)), LIMITS)
    assert is_never(negate(either(text, negate(text))), LIMITS)
    for word in TEXTS:
        assert has_word(negate(text), word) == opposite.accepts(word), word


@QUIET
@given(st.lists(PATTERNS, min_size=2, max_size=4, unique=True))
def test_terminals_collide_where_interegulars_comparator_says_so(patterns: list[str]) -> None:
    """As lark's strict mode asks it: two terminals collide when some text is both."""
    comparator = interegular.Comparator({pattern: interegular.parse_pattern(pattern) for pattern in patterns})
    found = {frozenset(pair) for pair in comparator.check()}
    texts = {pattern: text_of(pattern) for pattern in patterns}
    mine = {
        frozenset((one, other))
        for one, other in combinations(patterns, 2)
        if not is_never(both(texts[one], texts[other]), LIMITS)
    }
    assert mine == found
