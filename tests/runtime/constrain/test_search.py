"""Searching against Python's re, byte by byte."""

from __future__ import annotations

import random
import re

import pytest

from latticework.lang.errors import ConstraintError
from latticework.lang.ir import Regex
from latticework.runtime.constrain import Vocabulary, compile_constraint
from latticework.runtime.constrain.base import Search
from latticework.runtime.constrain.search import MAX_RUNS

VOCABULARY = Vocabulary([bytes([byte]) for byte in range(256)] + [b""], (256,))
PATTERNS = ("a+b", "ab|b", "(ab)+c", "a.c", "[ab]{2,3}c", "é+a", "b[^a]*c", "a{3}", "(a|ab)(c|bcd)", "c.{0,2}é")


def search(pattern: str) -> Search:
    return compile_constraint(Regex(pattern), VOCABULARY).search()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_search_finds_what_re_finds_at_every_byte(pattern: str) -> None:
    choose = random.Random(pattern)
    for _ in range(30):
        text = "".join(choose.choices("aabcdé\n", k=14))
        looking = search(pattern)
        before = b""
        for letter in text:
            for byte in letter.encode():
                size = looking.feed(byte)
                before += bytes([byte])
                assert 0 <= looking.held <= len(before)
            seen = before.decode()
            starts = [at for at in range(len(seen)) if re.fullmatch(pattern, seen[at:])]
            assert size == (len(seen[starts[0] :].encode()) if starts else None), (text, seen)


def test_what_is_held_is_the_earliest_beginning_that_may_still_become_a_match() -> None:
    looking = search("ab+c")
    held = []
    for byte in b"xabba":
        looking.feed(byte)
        held.append(looking.held)
    assert held == [0, 1, 2, 3, 1]


def test_a_copy_goes_its_own_way_and_forgetting_states_changes_nothing() -> None:
    automaton = compile_constraint(Regex("a[xy]*b"), VOCABULARY)
    one = automaton.search()
    one.feed(ord("a"))
    twin = one.copy()
    assert twin.feed(ord("z")) is None
    automaton.forget()
    assert one.feed(ord("x")) is None
    assert one.feed(ord("b")) == 3
    assert twin.feed(ord("b")) is None


@pytest.mark.parametrize("pattern", ["a*", "", "(a|)", "a?b{0,3}"])
def test_a_pattern_that_matches_nothing_at_all_is_refused(pattern: str) -> None:
    with pytest.raises(ConstraintError, match="empty text") as caught:
        search(pattern)
    assert caught.value.field == "stop_regex"


def test_too_many_matches_under_way_are_an_error_and_open_ones_are_not() -> None:
    looking = search(f"a[ab]{{1,{2 * MAX_RUNS}}}c")
    for _ in range(MAX_RUNS):
        looking.feed(ord("a"))
    with pytest.raises(ConstraintError, match="under way"):
        looking.feed(ord("a"))
    looking = search("a[ab]+c")
    for _ in range(2 * MAX_RUNS):
        looking.feed(ord("a"))
    assert looking.feed(ord("c")) == 2 * MAX_RUNS + 1
