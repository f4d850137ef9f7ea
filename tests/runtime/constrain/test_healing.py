"""Healed text: what is taken back, and what may spell it again, compared with enumeration."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latticework.lang.ir import Regex
from latticework.runtime.constrain import Vocabulary, compile_constraint
from latticework.runtime.constrain.base import Matcher
from latticework.runtime.constrain.healing import HealingMatcher, count_to_heal
from tests.runtime.constrain.oracle import allowed, byte_vocabulary

LETTERS = [bytes([byte]) for byte in b"ab:/"]
END, SPECIAL = 0, 1


def vocabulary_of(*longer: bytes, letters: list[bytes] = LETTERS) -> Vocabulary:
    return Vocabulary([b"</s>", b"", *letters, *dict.fromkeys(longer)], end_ids=(END,))


# ---------------------------------------------------------------- what is taken back


@pytest.mark.parametrize(
    ("text", "most", "count"),
    [
        (["a", ":"], 9, 1),  # :// begins so
        (["a", ":", "/"], 9, 2),
        (["a", ":", "/"], 1, 0),  # nothing goes on from / alone, and : may not be taken back
        (["a", ":", ":"], 9, 1),
        (["a", ":/"], 9, 1),
        (["a", "://"], 9, 0),  # it is all there
        (["a", "b"], 9, 0),
        ([":"], 9, 0),  # something has to be left
        (["a", "", ":"], 9, 1),  # a special token stays
        (["a", ":", ""], 9, 0),
        (["a", ":"], 0, 0),
    ],
)
def test_the_longest_end_that_a_longer_token_begins_with_is_taken_back(text: list[str], most: int, count: int) -> None:
    vocabulary = vocabulary_of(b"://", b":/", b"ab")
    tokens = [SPECIAL if not piece else vocabulary.tokens.index(piece.encode()) for piece in text]
    assert count_to_heal(vocabulary, tokens, most) == count


def test_no_more_than_four_tokens_are_taken_back() -> None:
    vocabulary = vocabulary_of(b"aaaaaa")
    a = vocabulary.tokens.index(b"a")
    assert count_to_heal(vocabulary, [a] * 9, 99) == 4


# ---------------------------------------------------------------- what may spell it again

PIECES = st.lists(st.text("ab:/", min_size=2, max_size=4).map(str.encode), max_size=8)


@settings(max_examples=120, deadline=None)
@given(PIECES, st.text("ab:/", min_size=1, max_size=3), st.sampled_from(["", "a", "//b", "a/?b*", "/*", "(ab|:a)+"]))
def test_masks_are_the_tokens_that_spell_the_text_and_go_on_as_the_constraint_has_it(
    longer: list[bytes], text: str, pattern: str
) -> None:
    vocabulary = vocabulary_of(*longer)
    prefix = text.encode()
    automaton = compile_constraint(Regex(pattern), vocabulary)
    rng = random.Random(1)
    for _ in range(4):
        matcher: Matcher = automaton.healing_matcher(prefix)
        inner, written = automaton.matcher(), b""
        for _ in range(4):
            left = prefix[len(written) :]
            expected = {
                token: crossed(inner, vocabulary, data[len(left) :]) if len(data) > len(left) else inner.shortest()
                for token, data in enumerate(vocabulary.tokens)
                if left and data and (left.startswith(data) or data.startswith(left))
            }
            expected = {token: cost for token, cost in expected.items() if cost is not None}
            if not left:
                assert allowed(matcher, vocabulary) == allowed(inner, vocabulary)
                assert matcher.is_complete() == inner.is_complete()
                break
            assert allowed(matcher, vocabulary) == set(expected), written
            assert not matcher.is_complete()
            assert matcher.forced().startswith(left)
            for remaining in range(inner.shortest(), inner.shortest() + 4):
                crossing = {token for token in expected if len(vocabulary.tokens[token]) > len(left)}
                fitting = {token for token in crossing if (expected[token] or 0) < remaining}
                assert allowed(matcher, vocabulary, remaining) == set(expected) - crossing | fitting
            for token in range(vocabulary.size):
                check_step_and_back(matcher, vocabulary, token, token in expected)
            token = rng.choice(sorted(expected))
            assert matcher.accept(token)
            data = vocabulary.tokens[token]
            if len(data) > len(left):
                assert inner.accept_bytes(data[len(left) :])
            written += data[: len(left)]


def crossed(inner: Matcher, vocabulary: Vocabulary, rest: bytes) -> int | None:
    """What is left to write after these bytes of text; None: they are not allowed."""
    twin = inner.copy()
    for byte in rest:
        if not twin.accept(vocabulary.tokens.index(bytes([byte]))):
            return None
    return twin.shortest()


def check_step_and_back(matcher: Matcher, vocabulary: Vocabulary, token: int, is_allowed: bool) -> None:
    before = allowed(matcher, vocabulary)
    twin = matcher.copy()
    assert twin.accept(token) == is_allowed
    if is_allowed:
        twin.rollback(1)
    assert allowed(twin, vocabulary) == before
    assert twin.shortest() == matcher.shortest()


def test_without_a_constraint_anything_may_follow() -> None:
    vocabulary = vocabulary_of(b"://", b":a", b"::", b"ba")
    matcher = HealingMatcher(vocabulary, b":")
    assert {vocabulary.tokens[token] for token in allowed(matcher, vocabulary)} == {b":", b"://", b":a", b"::"}
    assert not matcher.accept(END)
    assert matcher.accept(vocabulary.tokens.index(b":a"))
    assert allowed(matcher, vocabulary) == set(range(vocabulary.size))
    assert matcher.is_complete()
    assert not matcher.is_finished()
    matcher.rollback(1)
    assert len(allowed(matcher, vocabulary)) == 4


def test_no_token_leads_to_bytes_that_none_can_write() -> None:
    vocabulary = vocabulary_of(b"\xc3", b"\xc3\xa9", b"\xc3\xa9a")  # the second byte of é alone is no token
    matcher = HealingMatcher(vocabulary, "é".encode())
    assert {vocabulary.tokens[token] for token in allowed(matcher, vocabulary)} == {b"\xc3\xa9", b"\xc3\xa9a"}
    assert not matcher.accept(vocabulary.tokens.index(b"\xc3"))


def test_a_row_that_is_late_is_asked_for_again() -> None:
    vocabulary = byte_vocabulary(b":a", b":ab")
    matcher = compile_constraint(Regex("a+b"), vocabulary).healing_matcher(b":")
    assert not matcher.prepare(-math.inf)
    assert matcher.prepare(math.inf)
    assert matcher.prepare(-math.inf)
    assert matcher.accept(vocabulary.tokens.index(b":a"))
    assert matcher.forced() == b""
    assert allowed(matcher, vocabulary) == {ord("a"), ord("b")}


def test_what_is_forgotten_is_made_again() -> None:
    vocabulary = byte_vocabulary(b":a", b":ab")
    automaton = compile_constraint(Regex("a+b"), vocabulary)
    matcher = automaton.healing_matcher(b":")
    before = allowed(matcher, vocabulary)
    assert automaton.forget()
    assert allowed(matcher, vocabulary) == before == {ord(":"), 256, 257}
